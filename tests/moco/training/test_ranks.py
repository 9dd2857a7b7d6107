"""One run by 1, 2 and 4 processes, whole or in parts: the same batches, keys and losses."""

import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mechanisms import SMALL, dictionary
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transfer_material import spawn

from moco import Encoder, MoCo
from moco.cluster.machine import Machine
from moco.config import load_params
from moco.dictionary.momentum_queue import MomentumQueue
from moco.dictionary.protocol import Batch
from moco.dictionary.shuffle_bn import positions_of_slots
from moco.encoders import frozen
from moco.images.index import open_split
from moco.processes import join
from moco.runs import checkpoints
from moco.runs.curves import read_rows
from moco.training.loop import accumulate, pretrain
from moco.training.monitor import Monitor
from moco.training.run import Run
from moco.training.setup import average_gradients, build, optimizer_of

FOUR_GROUPS = ["pretrain.bn_group_size=6", "pretrain.epochs=2", "pretrain.knn_every_epochs=0"]
COLLECTIVES = ("all_reduce", "all_gather", "all_to_all_single", "broadcast", "all_gather_object", "barrier")


def _in_float64(normalize, images: torch.Tensor, *arguments) -> torch.Tensor:
    return normalize(images, *arguments).double()


def train(project: Path, folder: Path, max_batch: int | None) -> None:
    """The small run in float64.

    The first process leaves what all of them saw at each step in seen.json.

    In float32 a rounding error now and then decides on which side of 0 a ReLU is, and the curves
    part by 1e-3.
    """
    torch.set_default_dtype(torch.float64)
    frozen.normalize = partial(_in_float64, frozen.normalize)
    params = load_params(project / "params.yaml", FOUR_GROUPS)
    images, val = (open_split(project / "data/shards", split) for split in ("train", "val"))
    processes = join("cpu")
    queues: list[str] = []
    push = MomentumQueue.push

    def watched(queue: MomentumQueue, keys: torch.Tensor) -> None:
        push(queue, keys)
        queues.append(hashlib.sha256(queue.keys.numpy().tobytes()).hexdigest())

    MomentumQueue.push = watched  # this process is of the test alone
    machine = Machine(num_workers=0, max_batch_per_process=max_batch)
    pretrain(Run(params.pretrain, images, Monitor(images, val, 0), "name", folder, machine), processes)
    seen = processes.gather_objects(queues)
    if processes.first:
        (folder / "seen.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def alone(small_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    spawn(train, 1, small_project, folder, None)
    return folder


@pytest.mark.parametrize(("world_size", "max_batch"), [(2, None), (4, None), (1, 6), (2, 7)])
def test_processes_and_parts_change_nothing(alone, small_project, tmp_path, world_size, max_batch):
    spawn(train, world_size, small_project, tmp_path, max_batch)
    expected, found = read_rows(alone / "curves.csv"), read_rows(tmp_path / "curves.csv")
    assert len(found) == len(expected) == 20
    for theirs, ours in zip(expected, found, strict=True):
        for key, value in theirs.items():
            assert float(ours[key]) == pytest.approx(float(value), abs=1e-7), (key, theirs, ours)
    expected, found = (checkpoints.load_newest(folder) for folder in (alone, tmp_path))
    for name, value in expected["model"].items():
        assert torch.allclose(found["model"][name].double(), value.double(), atol=1e-9), name
    assert {name: found[name] for name in ("step", "epoch", "position", "loader")} == {
        name: expected[name] for name in ("step", "epoch", "position", "loader")
    }
    queues = json.loads((tmp_path / "seen.json").read_text())
    assert len(queues) == world_size
    assert len(set(queues[0])) == len(read_rows(tmp_path / "curves.csv"))  # another queue at each step
    assert all(theirs == queues[0] for theirs in queues)  # but the same everywhere


class Backbone(nn.Module):
    """Float64 and without batch norm, so that nothing but the order of sums may differ."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.conv(images.double())).flatten(1)


def three_steps(folder: Path, micro_batch_size: int | None, mechanism: str) -> None:
    """Three steps of 12 images by DDP; every process saves what it ends with."""
    processes = join("cpu")
    torch.manual_seed(0)
    kind = dictionary(
        mechanism, **{key: value for key, value in {"num_keys": 30, "momentum": 0.9}.items() if key in SMALL[mechanism]}
    )
    predictor = nn.Linear(5, 5, dtype=torch.float64) if kind.about.predictor else None
    encoder = Encoder(Backbone(), nn.Linear(36, 5, dtype=torch.float64))
    keys = kind.build(encoder, 5, images=60, seed=0)
    model = MoCo(Encoder(encoder.backbone, encoder.head, predictor), keys, 0.2, symmetric=mechanism == "momentum-batch")
    model.dictionary.double()
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.5, momentum=0.9)
    wrapped = model.encoder_q
    if processes.world_size > 1:
        wrapped = DistributedDataParallel(model.encoder_q, process_group=processes.in_step)
    local = 12 // processes.world_size
    mine = slice(processes.rank * local, (processes.rank + 1) * local)
    for step in range(3):
        batch = torch.randint(0, 256, (2, 12, 3, 8, 8), dtype=torch.uint8)[:, mine]
        optimizer.zero_grad()
        positions = positions_of_slots(0, step, 12)
        no_autocast = torch.autocast("cpu", enabled=False)
        samples = positions_of_slots(1, step, 60)[:12]
        step_of_all = Batch.of(batch, samples, positions, step, processes, micro_batch_size)
        accumulate(model, step_of_all, wrapped, no_autocast)
        optimizer.step()
    torch.save(model.state_dict(), folder / f"{processes.rank}.pt")


@pytest.mark.parametrize(
    ("mechanism", "micro_batch_size"),
    [("momentum-queue", 3), ("memory-bank", None), ("end-to-end", None), ("momentum-batch", None)],
)
def test_a_step_by_several_processes_is_the_step_of_one_in_float64(tmp_path, mechanism, micro_batch_size):
    (tmp_path / "one").mkdir()
    three_steps(tmp_path / "one", None, mechanism)
    spawn(three_steps, 3, tmp_path, micro_batch_size, mechanism)
    expected = torch.load(tmp_path / "one/0.pt")
    for rank in range(3):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            assert torch.allclose(value, expected[name], atol=1e-12), name


def _counted(sent: Counter[str], name: str, real, *arguments, **options):
    sent[name] += 1
    return real(*arguments, **options)


def count(project: Path, folder: Path) -> None:
    """What one step sends, by name, after the first."""
    settings = load_params(project / "params.yaml", FOUR_GROUPS).pretrain
    processes = join("cpu")
    model = build(settings, 0)
    no_autocast = torch.autocast("cpu", enabled=False)
    wrapped = average_gradients(model.encoder_q, settings, processes, no_autocast)
    assert isinstance(wrapped, DistributedDataParallel)
    assert not wrapped.broadcast_buffers
    assert not wrapped.find_unused_parameters
    optimizer = optimizer_of(model, settings)
    sent: Counter[str] = Counter()
    for name in COLLECTIVES:
        setattr(dist, name, partial(_counted, sent, name, getattr(dist, name)))
    images = torch.randint(0, 256, (2, 12, 3, 16, 16), dtype=torch.uint8)
    optimizer.zero_grad()
    batch = Batch.of(images, np.arange(24), positions_of_slots(0, 0, 24), 0, processes)
    accumulate(model, batch, wrapped, no_autocast)
    optimizer.step()
    assert sent == {"all_to_all_single": 1, "all_gather": 1}
    if processes.first:
        assert int(model.dictionary.pointer) == 24
        (folder / "done").touch()


def gradients(project: Path, folder: Path) -> None:
    """Save the gradient of a step whose gradients travel in float32, and of one in bfloat16."""
    settings, processes = load_params(project / "params.yaml", FOUR_GROUPS).pretrain, join("cpu")
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(processes.rank))
    found, layouts = [], []
    first = build(settings, 0).encoder_q.to(memory_format=torch.channels_last)
    first.backbone.conv1.register_forward_hook(lambda _, given, out: layouts.append((given[0].stride(1), out.dtype)))
    average_gradients(first, settings, processes, torch.autocast("cpu", torch.bfloat16))
    assert layouts == [(1, torch.bfloat16)]  # the pass that is thrown away is as training's
    for in_bf16 in (False, True):
        encoder = build(settings, 0).encoder_q.to(memory_format=torch.channels_last)
        wrapped = average_gradients(encoder, settings, processes, torch.autocast("cpu", enabled=False), in_bf16)
        wrapped(images)[:, 0].sum().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in encoder.parameters()]))
    torch.save(found, folder / f"{processes.rank}.pt")


def test_gradients_may_travel_in_half_the_bytes(small_project, tmp_path):
    spawn(gradients, 2, small_project, tmp_path)
    whole, half = torch.load(tmp_path / "0.pt")
    assert torch.equal(half, torch.load(tmp_path / "1.pt")[1])
    assert not torch.equal(half, whole)
    assert float((half - whole).norm() / whole.norm()) < 0.01


def test_a_step_sends_key_images_once_and_keys_once_and_broadcasts_nothing(small_project, tmp_path):
    spawn(count, 2, small_project, tmp_path)
    assert (tmp_path / "done").exists()
