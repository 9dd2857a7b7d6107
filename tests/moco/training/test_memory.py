"""A GPU that is too small: the error says which value fits."""

import math
from pathlib import Path

import pytest
import torch
from mechanisms import dictionary
from torch import nn

from moco.config import load_params
from moco.errors import MocoError
from moco.training import memory

PRETRAIN = load_params(Path(__file__).parents[3] / "params.yaml").pretrain
NO_AUTOCAST = torch.autocast("cpu", enabled=False)


@pytest.mark.parametrize(
    ("room", "fits"), [(1000, 32), (1099, 32), (1100, 36), (999.9, 28), (120, 0), (200, 0), (280, 0), (300, 4)]
)
def test_memory_grows_by_whole_groups_over_what_is_always_there(room, fits):
    assert memory.largest(4, room, lambda images: 200 + 25 * images) == fits


def test_two_groups_that_do_not_fit_leave_one_or_none():
    for one, fits in ((90.0, 4), (110.0, 0), (math.inf, 0)):
        peaks = {4: one, 8: math.inf}
        assert memory.largest(4, 100, peaks.__getitem__) == fits


@pytest.mark.parametrize(
    ("kind", "each", "said"),
    [
        ("momentum-queue", 10, r"^64 images do not fit .*; set max_batch_per_process: 80 in machine.yaml"),
        ("momentum-queue", 1000, r"^pretrain.bn_group_size = 8: 64 images do not fit .*precision: bf16"),
        ("end-to-end", 10, r"^pretrain.global_batch = 128: .*takes its batch whole; lower it to 160"),
    ],
)
def test_out_of_memory_names_the_setting_and_the_value_that_fits(monkeypatch, kind, each, said):
    settings = PRETRAIN.model_copy(
        update={"dictionary": dictionary(kind), "bn_group_size": 8, "global_batch": 128, "image_size": 16}
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 400)
    monkeypatch.setattr(memory, "peak", lambda encoder_q, images, size, autocast: 50 + each * images)
    with pytest.raises(MocoError, match=said), memory.shortage_named(nn.Linear(1, 1), settings, 64, 2, NO_AUTOCAST):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_is_no_shortage_passes():
    with (
        pytest.raises(ValueError, match="something else"),
        memory.shortage_named(nn.Linear(1, 1), PRETRAIN, 64, 1, NO_AUTOCAST),
    ):
        raise ValueError("something else")
    with memory.shortage_named(nn.Linear(1, 1), PRETRAIN, 64, 1, NO_AUTOCAST):
        pass
