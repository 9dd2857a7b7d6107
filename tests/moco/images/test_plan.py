"""The epoch plan: which image, when, as a pure function."""

import numpy as np
import pytest

from moco.images.plan import EpochPlan


def test_an_epoch_holds_each_image_at_most_once_and_leaves_out_another_tail_each_time():
    plan = EpochPlan(images=103, global_batch=10, seed=0)
    assert plan.steps_per_epoch == 10
    assert [plan.epoch_of(step) for step in (0, 9, 10, 25)] == [0, 0, 1, 2]
    left_out = []
    for epoch in range(5):
        seen = np.concatenate([plan.batch(epoch * 10 + step) for step in range(10)])
        assert len(set(seen.tolist())) == 100
        left_out.append(frozenset(range(103)) - frozenset(seen.tolist()))
    assert len(set(left_out)) > 1


def test_epochs_and_seeds_give_fresh_orders():
    plan = EpochPlan(1000, 100, seed=0)
    assert plan.batch(0).tolist() != plan.batch(plan.steps_per_epoch).tolist()
    assert plan.batch(0).tolist() != EpochPlan(1000, 100, seed=1).batch(0).tolist()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_any_number_of_processes_cuts_the_same_global_batch(world_size):
    plan = EpochPlan(1000, 24, seed=3)
    parts = [plan.batch(57, rank, world_size) for rank in range(world_size)]
    assert np.concatenate(parts).tolist() == plan.batch(57).tolist()
