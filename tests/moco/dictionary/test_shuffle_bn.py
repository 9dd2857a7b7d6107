"""Shuffling BN over several processes equals gathering everything and indexing."""

import numpy as np
import torch
from transfer_material import spawn

from moco.dictionary.shuffle_bn import Shuffle, Traveling, bounds, from_slots, positions_of_slots
from moco.encoders.batch_norm import averaged_running_statistics
from moco.processes import Processes, join

IMAGES = torch.randint(0, 256, (13, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def in_each_process() -> None:
    """Assertions that run in every one of the processes."""
    processes = join("cpu")
    rank, world_size = processes.rank, processes.world_size
    for batch in (12, 13):  # 13: some processes hold an image more
        images, slices = IMAGES[:batch], bounds(batch, world_size)
        mine = slice(slices[rank], slices[rank + 1])
        for step in range(5):
            positions = positions_of_slots(seed=1, step=step, global_batch=batch)
            to_encode = Traveling(images[mine], Shuffle.of(positions, processes), processes).arrive()
            assert torch.equal(to_encode, images[positions][mine])  # what gathering everything would pick
            keys = to_encode.flatten(1).float()  # any function of the image
            assert torch.equal(from_slots(keys, Shuffle.of(positions, processes), processes), images.flatten(1).float())
    norm = torch.nn.BatchNorm2d(2)
    norm.running_mean.fill_(float(rank))
    with averaged_running_statistics(norm, processes) as rows:
        assert norm.running_mean.tolist() == [(world_size - 1) / 2] * 2
    assert norm.running_mean.tolist() == [rank] * 2
    assert rows[:, 0].tolist() == list(range(world_size))


def test_each_image_reaches_the_process_that_encodes_it_and_its_key_comes_home():
    spawn(in_each_process, 3)


def test_a_process_alone_shuffles_by_the_same_rule():
    alone, positions = Processes(0, 1, torch.device("cpu")), positions_of_slots(1, 0, 13)
    for images in (IMAGES, IMAGES.contiguous(memory_format=torch.channels_last)):
        to_encode = Traveling(images, Shuffle.of(positions, alone), alone).arrive()
        assert torch.equal(to_encode, IMAGES[positions])
        assert torch.equal(from_slots(to_encode.flatten(1), Shuffle.of(positions, alone), alone), IMAGES.flatten(1))


def test_the_permutation_depends_on_seed_and_step():
    first = positions_of_slots(0, 0, 64)
    assert sorted(first.tolist()) == list(range(64))
    assert np.array_equal(first, positions_of_slots(0, 0, 64))
    assert not np.array_equal(first, positions_of_slots(0, 1, 64))
    assert not np.array_equal(first, positions_of_slots(1, 0, 64))


def test_slices_differ_by_one_at_most_and_cover_the_batch():
    assert bounds(13, 4).tolist() == [0, 4, 7, 10, 13]
    assert bounds(12, 4).tolist() == [0, 3, 6, 9, 12]
