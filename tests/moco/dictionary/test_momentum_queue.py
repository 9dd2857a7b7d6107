"""The queue and the momentum encoder."""

from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from moco.dictionary.momentum_queue import MomentumQueue
from moco.dictionary.protocol import Batch
from moco.processes import Processes


def queue(size: int, momentum: float = 0.9) -> MomentumQueue:
    return MomentumQueue(nn.Linear(3, 2), dim=2, size=size, momentum=momentum)


@pytest.mark.parametrize(
    ("size", "batches"), [(10, [4, 4, 4]), (7, [3] * 9), (5, [12, 1, 5]), (1, [2, 3]), (6, [6, 6])]
)
def test_any_size_takes_any_batches_in_first_in_first_out_order(size, batches):
    dictionary = queue(size)
    expected = deque(dictionary.keys.tolist(), maxlen=size)
    count = 0.0
    for batch in batches:
        keys = torch.arange(count, count + 2 * batch).view(batch, 2)
        count += 2 * batch
        dictionary.push(keys)
        expected.extend(keys.tolist())
    pointer = int(dictionary.pointer)
    assert torch.roll(dictionary.keys, -pointer, dims=0).tolist() == list(expected)  # oldest first
    assert dictionary.negatives(None) is dictionary.keys  # all of them, whatever the step


def test_the_first_keys_have_length_1():
    assert torch.allclose(queue(50).keys.norm(dim=1), torch.ones(50))


def test_the_key_encoder_starts_as_a_copy_and_moves_by_equation_2():
    encoder_q = nn.Linear(3, 2)
    dictionary = MomentumQueue(encoder_q, dim=2, size=4, momentum=0.9)
    before = dictionary.encoder_k.weight.clone()
    assert torch.equal(before, encoder_q.weight)
    with torch.no_grad():
        encoder_q.weight.add_(1.0)
    dictionary.update_encoder(encoder_q)
    assert torch.allclose(dictionary.encoder_k.weight, 0.9 * before + 0.1 * encoder_q.weight)


def test_the_key_encoder_takes_no_gradient():
    encoder_q = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    dictionary = MomentumQueue(encoder_q, dim=2, size=4, momentum=0.9)
    assert not any(parameter.requires_grad for parameter in dictionary.encoder_k.parameters())
    views = torch.randn(2, 5, 3, 2, 2)
    batch = Batch.of(views, np.arange(5), np.arange(5), 0, Processes(0, 1, torch.device("cpu")))
    assert not dictionary.look_up(batch, dictionary.send(batch, 1), encoder_q).requires_grad


def test_queue_and_pointer_are_saved_with_the_state():
    dictionary, other = queue(5), queue(5)
    dictionary.push(torch.ones(3, 2))
    other.load_state_dict(dictionary.state_dict())
    assert torch.equal(other.keys, dictionary.keys)
    assert int(other.pointer) == 3


@pytest.mark.parametrize(("size", "batches"), [(10, [4, 4, 4]), (5, [12, 1]), (8, [4, 4, 4])])
def test_a_start_with_keys_has_no_random_negatives_and_resumes(size, batches):
    def made() -> MomentumQueue:
        return MomentumQueue(nn.Linear(3, 2), 2, size, 0.9, random_start=False)

    dictionary, seen = made(), 0
    assert dictionary.negatives(None).shape == (0, 2)
    for batch in batches:
        dictionary.push(torch.full((batch, 2), 7.0))
        seen = min(size, seen + batch)
        resumed = made()
        resumed.load_state_dict(dictionary.state_dict())
        for queue_ in (dictionary, resumed):
            assert queue_.negatives(None).shape == (seen, 2)
            assert (queue_.negatives(None) == 7).all()
    assert dictionary.negatives(None) is dictionary.keys
