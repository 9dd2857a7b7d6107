"""The parts of a run: what they refuse before training, and what they are made of."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mechanisms import SMALL, dictionary

from moco.cluster.machine import Machine
from moco.config import Stream, load_params
from moco.dictionary.memory_bank import MemoryBank
from moco.encoders.kinds import network_of
from moco.errors import MocoError
from moco.images.plan import EpochPlan
from moco.optimizers import SGD
from moco.processes import Processes
from moco.training import feed, setup

PRETRAIN = load_params(Path(__file__).parents[3] / "params.yaml").pretrain
ALONE = Processes(0, 1, torch.device("cpu"))
NO_AUTOCAST = torch.autocast("cpu", enabled=False)


def settings(mechanism: str = "momentum-queue", **values):
    update = {"global_batch": 24, "bn_group_size": 4, "stream": None, **values, "dictionary": dictionary(mechanism)}
    return PRETRAIN.model_copy(update=update)


def test_a_part_of_a_set_is_not_streamed():
    stream = Stream(lanes=4, window=8)
    with pytest.raises(MocoError, match=r"streams read whole tars; set pretrain.stream to null"):
        setup.images_in_order(settings(stream=stream), SimpleNamespace(chosen=[1]), Machine(), Path())


@pytest.mark.parametrize(
    ("workers", "compiled", "streaming", "remedy"),
    [
        (3, True, True, "raise num_workers in machine.yaml (now 3; there are 4 cores"),
        (4, True, True, "see whether the network"),
        (4, False, False, "build the compiled views"),
        (4, True, False, "store smaller images (shard.max_side), or give each"),
    ],
)
def test_the_remedy_for_waiting_is_the_next_thing_that_helps(monkeypatch, workers, compiled, streaming, remedy):
    monkeypatch.setattr(setup, "cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert setup.remedy_for_waiting(Machine(num_workers=workers), compiled, streaming).startswith(remedy)


@pytest.mark.parametrize("mechanism", SMALL)
def test_a_model_is_a_function_of_its_seed_and_takes_nothing_from_torchs_generator(mechanism):
    small = settings(mechanism, encoder=network_of("thin", "small"))
    state = torch.random.get_rng_state()
    one, same, other = (setup.build(small.model_copy(update={"seed": seed}), 50).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    drawn = [name for name in one if name.endswith("conv1.weight") or name in ("dictionary.keys", "dictionary.bank")]
    assert drawn and not any(torch.equal(one[name], other[name]) for name in drawn)


def test_a_model_has_the_settings_of_its_run():
    small = settings("memory-bank", encoder=network_of("thin", "small"), temperature=0.3, dim=16)
    model = setup.build(small, 50)
    assert isinstance(model.dictionary, MemoryBank)
    assert model.dictionary.bank.shape == (50, 16)
    assert (model.temperature, model.ways) == (0.3, ((0, 1),))
    assert (
        setup.build(settings("momentum-batch", encoder=network_of("thin", "small")), 50).encoder_q.predictor is not None
    )
    plain = SGD(kind="sgd", momentum=0.8, weight_decay=0.02)
    optimizer = setup.optimizer_of(model, small.model_copy(update={"optimizer": plain}))
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["fused"]) == (0.0, 0.8, 0.02, False)
    assert setup.average_gradients(model.encoder_q, small, ALONE, NO_AUTOCAST) is model.encoder_q


def test_a_run_says_how_many_norms_work_in_groups():
    assert (
        setup.norms_said(setup.build(settings(), 50), settings())
        == "thin: 12 of 12 batch norms work in groups of 4 images"
    )
    pytest.importorskip("timm")
    plain = settings(encoder=network_of("timm:convnext_atto"), image_size=32)
    said = "timm:convnext_atto has no batch norm, so that shuffle_bn has nothing to do"
    assert setup.norms_said(setup.build(plain, 50), plain) == said


def test_a_checkpoint_says_where_in_the_plan_it_stands_and_how_the_run_computes():
    small = settings()
    plan = EpochPlan(100, 24, 0)
    model = setup.build(small, 100, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    found = setup.about(9, small, model, plan, feed.PLAIN, precision="bf16")
    assert (found["mean"], found["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert (found["epoch"], found["position"], found["precision"]) == (2, 24, "bf16")
    assert found["loader"] == {"order": "index", "views": feed.PLAIN}
    in_lanes = settings(stream=Stream(lanes=4, window=8))
    streamed = setup.about(0, in_lanes, model, plan, feed.COMPILED, precision="fp32")
    assert (streamed["precision"], streamed["loader"]["order"]) == ("fp32", "stream")
    assert found["settings"]["global_batch"] == 24
