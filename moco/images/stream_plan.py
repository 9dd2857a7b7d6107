"""The order of images where shards are read as streams: a pure function, but a coarser shuffle.

Remote tars are read forwards, many images at a time. An epoch is therefore the shards in a fresh
permutation, one after the other, cut into `lanes` segments of equal length that are read side by
side; each lane is shuffled within windows of `window` images; and a step takes the same number of
images from each lane.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moco.config import Pretrain
from moco.images.index import ShardSet
from moco.images.plan import EpochPlan
from moco.permutation import Integers, key_of, permute


@dataclass(frozen=True, eq=False)
class StreamPlan:
    """The sequence of global batches of a run that streams; used like `moco.images.plan.EpochPlan`.

    Each image comes at most once an epoch. What the end of the stream and of the lanes leaves out
    differs from epoch to epoch, because the shards come in another order. The rows of a global
    batch are ordered lane by lane, so that a process, and a loader's worker, has whole lanes to
    itself.

    Attributes:
        images: number of images.
        global_batch: images a step over all processes.
        seed: of the run.
        lanes: segments of the epoch that are read side by side; divides global_batch.
        window: images among which a lane is shuffled.
        first_of_shard: int64 [shards + 1]: number of each shard's first image, and of all images.
    """

    images: int
    global_batch: int
    seed: int
    lanes: int
    window: int
    first_of_shard: Integers

    @property
    def rows_per_lane(self) -> int:
        """Images that a step takes from each lane."""
        return self.global_batch // self.lanes

    @property
    def lane_length(self) -> int:
        """Images of a lane in an epoch, the tail included that fills no step."""
        return self.images // self.lanes

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        return self.lane_length // self.rows_per_lane

    def epoch_of(self, step: int) -> int:
        """Return the epoch of a step; both count from 0."""
        return step // self.steps_per_epoch

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Integers:
        """Return the indices of a step's images for `rank`, int64 [global_batch / world_size]."""
        local = self.global_batch // world_size
        parts = []
        for lane, window, offsets in self.rows(step, rank * local, (rank + 1) * local):
            parts.append(self.window_order(self.epoch_of(step), lane, window)[offsets])
        return np.concatenate(parts)

    def rows(self, step: int, first: int, last: int) -> list[tuple[int, int, slice]]:
        """Locate rows first to last - 1 of a step: lane, window, positions in its order."""
        found = []
        start_of_step = step % self.steps_per_epoch * self.rows_per_lane
        for lane in range(first // self.rows_per_lane, -(-last // self.rows_per_lane)):
            row = lane * self.rows_per_lane
            position = start_of_step + max(first - row, 0)
            end = start_of_step + min(last - row, self.rows_per_lane)
            while position < end:
                window = self.window_at(lane, position)
                start, stop = self.extent(lane, window)
                stop = min(stop, end)
                found.append((lane, window, slice(position - start, stop - start)))
                position = stop
        return found

    def window_at(self, lane: int, position: int) -> int:
        """Return the window of a position of a lane."""
        return (position + self._shift(lane)) // self.window

    def extent(self, lane: int, window: int) -> tuple[int, int]:
        """Return a window's first position and end in its lane; at a lane's ends it is shorter."""
        start = window * self.window - self._shift(lane)
        return max(start, 0), min(start + self.window, self.lane_length)

    def next_window(self, epoch: int, lane: int, window: int) -> tuple[int, int]:
        """Return epoch and window that follow a window of a lane."""
        last = self.window_at(lane, self.steps_per_epoch * self.rows_per_lane - 1)
        return (epoch, window + 1) if window < last else (epoch + 1, 0)

    def _shift(self, lane: int) -> int:
        """Shift a lane's windows, so that not all lanes need the next one at the same step."""
        return lane * self.window // self.lanes

    def pieces(self, epoch: int, lane: int, window: int) -> list[tuple[int, int, int]]:
        """List what to read for a window: shard, first image's number, number after the last."""
        shards, ends = _shards_in_order(self, epoch)
        start, stop = (lane * self.lane_length + position for position in self.extent(lane, window))
        found = []
        for place in range(int(np.searchsorted(ends, start, side="right")), len(shards)):
            shard = int(shards[place])
            number = int(self.first_of_shard[shard + 1] - ends[place])  # of an image, less its position in the epoch
            end = min(stop, int(ends[place]))
            if start < end:  # some shards are empty
                found.append((shard, start + number, end + number))
                start = end
            if start == stop:
                break
        return found

    def window_order(self, epoch: int, lane: int, window: int) -> Integers:
        """Return the numbers of a window's images, shuffled: int64 [images of the window]."""
        return _shuffled(self, epoch, lane, window)


@lru_cache(maxsize=4)
def _shards_in_order(plan: StreamPlan, epoch: int) -> tuple[Integers, Integers]:
    """Order the shards of an epoch, with each one's position after its last image."""
    count = len(plan.first_of_shard) - 1
    order = permute(np.arange(count), count, key_of(plan.seed, epoch, 0))
    return order, np.cumsum(np.diff(plan.first_of_shard)[order])


@lru_cache(maxsize=1024)
def _shuffled(plan: StreamPlan, epoch: int, lane: int, window: int) -> Integers:
    numbers = np.concatenate([np.arange(first, last) for _, first, last in plan.pieces(epoch, lane, window)])
    key = key_of(plan.seed, epoch, 1 + lane, window)
    return numbers[permute(np.arange(len(numbers)), len(numbers), key)]


def plan_of(settings: Pretrain, images: ShardSet) -> EpochPlan | StreamPlan:
    """Plan the order of a run's images: streams if `settings.stream` is set, else a full shuffle.

    Args:
        settings: of the run.
        images: the training images; their index says how many each shard holds.

    A batch must fit the set, and its lanes the processes: `moco.training.checks` says so if not.
    """
    if settings.stream is None:
        return EpochPlan(len(images), settings.global_batch, settings.seed)
    lanes, window = settings.stream.lanes, settings.stream.window
    bounds = np.searchsorted(images.entries["shard"], np.arange(len(images.shards) + 1)).astype(np.int64)
    return StreamPlan(len(images), settings.global_batch, settings.seed, lanes, window, bounds)
