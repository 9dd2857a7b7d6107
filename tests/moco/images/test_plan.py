"""The epoch plan: which image, when, as a pure function."""

import numpy as np
import pytest

from moco.images.plan import EpochPlan
from moco.permutation import key_of, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_permute_is_a_bijection_at_every_size(size):
    assert sorted(permute(np.arange(size), size, key_of(1, 2)).tolist()) == list(range(size))


def test_positions_can_be_asked_for_one_by_one_even_in_a_huge_set():
    size, key = 10**12, key_of(5)
    together = permute(np.arange(100), size, key)
    assert [int(permute(np.array([n]), size, key)[0]) for n in range(100)] == together.tolist()
    assert len(set(together.tolist())) == 100


def test_the_order_looks_random():
    order = permute(np.arange(10_000), 10_000, key_of(0, 0))
    correlation = np.corrcoef(order, np.arange(10_000))[0, 1]
    neighbors = np.corrcoef(order[1:], order[:-1])[0, 1]
    assert abs(correlation) < 0.04
    assert abs(neighbors) < 0.04


def test_an_epoch_holds_each_image_at_most_once_and_leaves_out_another_tail_each_time():
    plan = EpochPlan(images=103, global_batch=10, seed=0)
    assert plan.steps_per_epoch == 10
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
