"""The order of a streamed epoch: coarser than the full shuffle, with the same promises."""

import itertools

import numpy as np
import pytest
from small_material import ROOT

from moco.config import load_params
from moco.errors import MocoError
from moco.images.index import open_split
from moco.images.plan import EpochPlan
from moco.images.stream_plan import StreamPlan, plan_of

COUNTS = [50, 0, 70, 33, 50, 1, 49, 64, 20, 66]  # images of each shard; 403 together


def planned(counts=COUNTS, global_batch=24, seed=0, lanes=8, window=10) -> StreamPlan:
    bounds = np.cumsum([0, *counts])
    return StreamPlan(int(bounds[-1]), global_batch, seed, lanes, window, bounds)


def epoch_of(plan, epoch=0):
    """All batches of an epoch, [steps, global_batch]."""
    steps = plan.steps_per_epoch
    return np.stack([plan.batch(step) for step in range(epoch * steps, (epoch + 1) * steps)])


@pytest.mark.parametrize(
    ("lanes", "window", "batch"), [(8, 10, 24), (1, 7, 24), (24, 1000, 24), (4, 1, 12), (3, 2, 30)]
)
def test_an_epoch_holds_each_image_at_most_once_and_leaves_out_less_than_a_batch_and_the_lanes(lanes, window, batch):
    plan = planned(lanes=lanes, window=window, global_batch=batch)
    for epoch in range(3):
        seen = epoch_of(plan, epoch).flatten()
        assert len(set(seen.tolist())) == len(seen) == plan.steps_per_epoch * batch
        assert seen.min() >= 0 and seen.max() < plan.images
        assert plan.images - len(seen) < batch + lanes


def test_what_is_left_out_and_the_order_differ_from_epoch_to_epoch():
    plan = planned()
    epochs = [epoch_of(plan, epoch) for epoch in range(6)]
    assert len({frozenset(range(plan.images)) - frozenset(seen.flatten().tolist()) for seen in epochs}) > 3
    assert len({tuple(seen.flatten().tolist()) for seen in epochs}) == 6
    assert not np.array_equal(epochs[0], epoch_of(planned(seed=1)))


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_any_number_of_processes_cuts_the_same_global_batch_into_whole_lanes(world_size):
    plan = planned()
    for step in (0, 5, plan.steps_per_epoch, 40):
        parts = [plan.batch(step, rank, world_size) for rank in range(world_size)]
        assert np.concatenate(parts).tolist() == plan.batch(step).tolist()
    local = plan.global_batch // world_size
    lanes = [{lane for lane, _, _ in plan.rows(5, rank * local, (rank + 1) * local)} for rank in range(world_size)]
    assert all(not a & b for a, b in itertools.combinations(lanes, 2))


def test_any_rows_can_be_asked_for():
    plan = planned()
    for first, last in [(0, 1), (2, 7), (5, 24), (23, 24)]:
        found = [
            number
            for lane, window, positions in plan.rows(3, first, last)
            for number in plan.window_order(0, lane, window)[positions]
        ]
        assert found == plan.batch(3)[first:last].tolist()


def test_a_window_is_a_shuffle_of_consecutive_images_of_the_shards_in_their_order():
    plan = planned()
    lane_of_epoch = []
    for lane in range(plan.lanes):
        windows, here = [], (0, 0)
        while here[0] == 0:
            pieces = plan.pieces(0, lane, here[1])
            numbers = [n for _, first, last in pieces for n in range(first, last)]
            assert all(
                plan.first_of_shard[shard] <= first < last <= plan.first_of_shard[shard + 1]
                for shard, first, last in pieces
            )
            order = plan.window_order(0, lane, here[1])
            assert sorted(order.tolist()) == sorted(numbers)
            assert len(numbers) <= plan.window
            windows += numbers
            here = plan.next_window(0, lane, here[1])
        assert here == (1, 0)
        assert set(epoch_of(plan)[:, lane * 3 : lane * 3 + 3].flatten().tolist()) <= set(windows)
        lane_of_epoch += windows
    assert len(set(lane_of_epoch)) == len(lane_of_epoch)


def test_windows_of_different_lanes_end_at_different_steps():
    plan = planned(counts=[4000], lanes=8, window=80, global_batch=8)
    ends = [{plan.extent(lane, window)[1] for window in range(3)} for lane in range(8)]
    assert all(not a & b for a, b in itertools.combinations(ends, 2))


def test_neighbors_of_a_shard_come_far_apart_and_a_batch_draws_on_as_many_places_as_lanes():
    counts = [5000] * 40
    plan = planned(counts, global_batch=256, lanes=16, window=1024)
    step_of = np.full(plan.images, -1)
    for step, batch in enumerate(epoch_of(plan)):
        step_of[batch] = step
    neighbors = step_of.reshape(40, 5000)
    both = (neighbors[:, 1:] >= 0) & (neighbors[:, :-1] >= 0)
    apart = np.abs(np.diff(neighbors, axis=1))[both]
    assert 16 < np.median(apart) < 21  # random places among the 64 steps of a window: 29 % of them
    assert (apart == 0).mean() < 1.3 / 64
    shards = [len(set((batch // 5000).tolist())) for batch in epoch_of(plan)]
    assert np.median(shards) >= 14


class TestTheRunsPlan:
    @pytest.fixture
    def images(self, small_project):
        return open_split(small_project / "data/shards", "train")

    @staticmethod
    def settings(*changes):
        return load_params(ROOT / "params.yaml", ["pretrain.bn_group_size=8", *changes]).pretrain

    def test_is_a_full_shuffle_unless_streams_are_asked_for(self, images):
        plan = plan_of(self.settings("pretrain.global_batch=24"), images)
        assert plan == EpochPlan(len(images), 24, 0)

    def test_knows_where_each_shard_begins(self, images):
        asked = self.settings("pretrain.global_batch=24", "pretrain.stream={lanes: 4, window: 10}")
        plan = plan_of(asked, images)
        assert plan.first_of_shard.tolist() == [0, len(images)]
        assert (plan.lanes, plan.window, plan.steps_per_epoch) == (4, 10, len(images) // 4 // 6)

    @pytest.mark.parametrize(
        ("stream", "message"),
        [
            ("{lanes: 5, window: 9}", "a multiple of stream.lanes"),
            ("{lanes: 4}", "stream.window is missing"),
            ("{lanes: 0, window: 9}", "stream.lanes = 0"),
        ],
    )
    def test_that_is_impossible_is_refused_in_one_line(self, stream, message):
        with pytest.raises(MocoError, match=message) as error:
            self.settings("pretrain.global_batch=24", f"pretrain.stream={stream}")
        assert "\n" not in str(error.value)
