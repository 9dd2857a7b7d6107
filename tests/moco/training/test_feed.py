"""Where views are painted, and what a start measures of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moco.config import load_params
from moco.encoders.kinds import network_of
from moco.errors import MocoError
from moco.images import fused_views, gpu_batches
from moco.training import feed
from moco.training.feed import COMPILED, ON_GPU, PLAIN, Rates
from moco.training.setup import build

PRETRAIN = load_params(Path(__file__).parents[3] / "params.yaml").pretrain
NO_AUTOCAST = torch.autocast("cpu", enabled=False)


class Hosts:
    """Two processes; the second one's answers are given."""

    device = torch.device("cpu")

    def __init__(self, first: bool, *theirs: bool) -> None:
        self.first, self.theirs = first, list(theirs)

    def gather_objects(self, mine: bool) -> list[bool]:
        return [mine, self.theirs.pop(0)] if self.theirs else [mine]


@pytest.mark.parametrize(
    ("before", "wanted", "compiled", "gpu", "pays", "backend", "said"),
    [
        (None, "cpu", [True, True], [], None, COMPILED, ""),
        (None, "cpu", [True, False], [], None, PLAIN, ""),
        (PLAIN, "cpu", [True, True], [], None, PLAIN, ""),
        (COMPILED, "cpu", [True, True], [], None, COMPILED, ""),
        (COMPILED, "cpu", [True, False], [], None, PLAIN, "the checkpoint's views were compiled"),
        (ON_GPU, "cpu", [True, True], [], None, COMPILED, "the checkpoint's views were gpu"),
        (None, "gpu", [True, True], [True, True], None, ON_GPU, ""),
        (COMPILED, "gpu", [True, True], [True, True], None, ON_GPU, "from here on they are gpu"),
        (None, "auto", [True, True], [True, True], True, ON_GPU, ""),
        (None, "auto", [True, True], [True, True], False, COMPILED, ""),
        (None, "auto", [True, True], [True, False], None, COMPILED, ""),
        (ON_GPU, "auto", [True, True], [True, True], None, ON_GPU, ""),
        (COMPILED, "auto", [True, True], [True, True], None, COMPILED, ""),
    ],
)
def test_views_stay_those_of_the_checkpoint_where_every_host_has_them(
    monkeypatch, capsys, before, wanted, compiled, gpu, pays, backend, said
):
    monkeypatch.setattr(fused_views, "available", lambda: compiled[0])
    monkeypatch.setattr(gpu_batches, "available", lambda device: gpu[0])

    def measured() -> bool:
        assert pays is not None, "measured in vain"
        return pays

    hosts = Hosts(True, *compiled[1:], *gpu[1:])
    assert feed.view_backend(before, wanted, hosts, measured) == backend
    printed = capsys.readouterr().out
    assert said in printed if said else printed == ""


def test_a_gpu_that_cannot_paint_is_refused_where_it_is_asked_for():
    with pytest.raises(MocoError, match=r"views = gpu needs a CUDA GPU .*set views: cpu"):
        feed.view_backend(None, "gpu", Hosts(True), lambda: True)


@pytest.mark.parametrize(
    ("fed", "trained", "painted", "pays", "said"),
    [
        (100, 200, 0, False, "100 images/s prepared, 200 images/s trained; the loader is the slower side"),
        (100, 200, 201, True, "slower side; views: gpu in machine.yaml is faster"),
        (100, 200, 199, False, "the loader is the slower side"),
        (300, 200, 10**9, False, "training is the slower side"),
    ],
)
def test_the_slower_side_is_named_and_a_gpu_paints_where_that_is_faster(fed, trained, painted, pays, said):
    rates = Rates(fed, trained, painted)
    assert rates.gpu_pays == pays
    assert str(rates).endswith(said)


def test_both_sides_are_measured_without_a_trace():
    class Views:
        per_image, count, size = 2, 8, 16
        filled = 0

        def fill(self, step: int, rows: slice, batch: np.ndarray) -> None:
            assert batch.shape == (2, 8, 16, 16, 3)
            self.filled += rows.stop - rows.start

    views = Views()
    small = {"encoder": network_of("thin", "small"), "bn_group_size": 2}
    model = build(PRETRAIN.model_copy(update=small), 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rates = feed.measure(views, 0, 3, model.encoder_q, 4, NO_AUTOCAST)
    assert views.filled == 9
    assert rates.fed > 0 and rates.trained > 0 and rates.painted == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.encoder_q.parameters())
