"""Mistakes in a loop of one's own are named by their shapes and values."""

import copy

import pytest
import torch
from torch import nn

from moco import Encoder, MoCo, MomentumQueue
from moco.dictionary.end_to_end import EndToEnd
from moco.dictionary.memory_bank import MemoryBank
from moco.encoders.normalize import normalize

BYTES = torch.randint(0, 256, (2, 4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def model(dim: int = 6) -> MoCo:
    torch.manual_seed(0)
    encoder = Encoder(nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), nn.Linear(5, 6))
    return MoCo(encoder, MomentumQueue(encoder, dim, 10, 0.9))


@pytest.mark.parametrize(
    ("views", "problem"),
    [
        (lambda a, b: (a, b[:3]), "view_1 has 4 images and view_2 has 3; row n of both must show the same image"),
        (lambda a, b: (a[0], b), "view_1 is 3 x 8 x 8, not N x 3 x H x W; give a batch"),
        (
            lambda a, b: (a.float(), b.float()),
            r"view_1 holds values from \d+ to 25\d, which nothing normalized; give bytes",
        ),
        (lambda a, b: (a, b.float() - 128), r"view_2 holds values from -12\d to 12\d, which nothing normalized"),
        (lambda a, b: (normalize(a), normalize(b) * float("nan")), "view_2 holds values from nan to nan"),
    ],
)
def test_wrong_views_are_named_before_anything_moves(views, problem):
    made = model()
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(ValueError, match=problem):
        made(*views(*BYTES))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_bytes_and_normalized_floats_give_the_same_step():
    torch.manual_seed(1)
    of_bytes = model()(*BYTES).loss
    torch.manual_seed(1)
    assert torch.allclose(of_bytes, model()(normalize(BYTES[0]), normalize(BYTES[1])).loss)


def test_a_dictionary_of_another_dimension_is_named_with_both():
    with pytest.raises(
        ValueError, match="queries of 6 numbers, and the dictionary holds keys of 7; make the dictionary"
    ):
        model(dim=7)(*BYTES)
    encoder = model().encoder_q
    bank = MoCo(encoder, MemoryBank(5, 10, 3, 0.5, 0))
    with pytest.raises(ValueError, match="keys of 5; make the dictionary with dim=6, or end the head in 5"):
        bank(*BYTES, samples=range(4))
    assert MoCo(encoder, EndToEnd())(*BYTES).loss > 0
