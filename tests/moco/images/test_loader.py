"""Batches of two views: the same whatever prepares them, in memory that is used again."""

import io
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_material import run_with_little_shared_memory, smooth_photo

from moco.config import load_params
from moco.errors import MocoError
from moco.images import fused_views, loader
from moco.images.batches import ViewBatches
from moco.images.loader import AHEAD, HELD, steps
from moco.images.plan import EpochPlan
from moco.images.views import two_views

VIEWS = load_params(Path(__file__).parents[3] / "params.yaml").pretrain.views
BACKENDS = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not fused_views.available(), reason="the compiled part is not built")),
]


@dataclass
class Encoded:
    """A shard set's two methods, over files in memory."""

    files: list[bytes]

    def read(self, i: int) -> bytes:
        return self.files[i]

    def key(self, i: int) -> str:
        return f"train-{i:09d}"


@pytest.fixture(scope="module")
def images() -> Encoded:
    """50 images, JPEG, PNG and WebP, each with a stripe of its own, of different sizes."""
    files = []
    for i in range(50):
        pixels = smooth_photo(40 + i % 7, 60 - i % 5)
        pixels[:, i : i + 2] = 255
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, ("JPEG", "PNG", "WEBP")[i % 3])
        files.append(file.getvalue())
    return Encoded(files)


def batches(images: Encoded, rank: int = 0, world_size: int = 1, **more) -> ViewBatches:
    return ViewBatches(images, EpochPlan(50, 12, seed=3), VIEWS, 24, rank, world_size, **more)


CPU = torch.device("cpu")


@pytest.mark.parametrize("compiled", BACKENDS)
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_workers_change_nothing(images, num_workers, compiled):
    whole = batches(images, compiled=compiled)
    for step, batch in enumerate(steps(whole, 2, 14, num_workers, CPU), start=2):
        assert batch.shape == (2, 12, 3, 24, 24)
        assert batch.dtype == torch.uint8
        assert batch[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch, whole[step]), step
    assert step == 13


def test_more_workers_than_images_are_not_started(images):
    small = ViewBatches(images, EpochPlan(50, 2, seed=0), VIEWS, 24)
    assert len(list(steps(small, 0, 3, num_workers=8, device=CPU))) == 3


def test_processes_share_a_batch_in_consecutive_slices(images):
    whole = batches(images)[4]
    parts = [batches(images, rank, 3)[4] for rank in range(3)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_a_batch_stays_as_it_is_until_two_more_were_asked_for(images):
    whole = batches(images)
    for num_workers in (0, 2):
        held = []
        for step, batch in enumerate(steps(whole, 0, 3 * (HELD + AHEAD), num_workers, CPU)):
            held = [*held, (step, batch)][-HELD:]
            for number, kept in held:
                assert torch.equal(kept, whole[number])


def test_the_views_of_a_sample_are_those_that_the_report_shows(images):
    plan = EpochPlan(50, 12, seed=3)
    sample = int(plan.batch(5)[7])
    image = np.array(Image.open(io.BytesIO(images.files[sample])))
    query, key = two_views(image, VIEWS, 24, seed=3, epoch=plan.epoch_of(5), sample=sample)
    batch = batches(images)[5].permute(0, 1, 3, 4, 2).numpy()
    assert np.abs(batch[0, 7].astype(int) - query).max() <= 8  # decoders differ by a few levels
    assert np.abs(batch[1, 7].astype(int) - key).max() <= 8


@pytest.mark.parametrize("compiled", BACKENDS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_damaged_after_sharding_is_named(images, num_workers, compiled):
    damaged = Encoded([data[: len(data) // 3] for data in images.files])
    with pytest.raises(MocoError, match=r"sample train-0000000\d\d: .*moco verify"):
        list(steps(batches(damaged, compiled=compiled), 0, 2, num_workers, CPU))


def test_batches_need_no_shared_memory_of_the_system(tmp_path):
    code = """
import torch
from moco.images.loader import steps

class Ones:
    per_image, count, size = 2, 64, 224  # a ring of 116 MB
    def fill(self, step, rows, batch):
        batch[:, rows] = step

for step, batch in enumerate(steps(Ones(), 0, 9, 2, torch.device("cpu"))):
    assert (batch == step).all()
"""
    run_with_little_shared_memory(tmp_path / "ring.py", code)


@dataclass
class Misbehaving:
    """Batches of one image each; a worker does something at step 5."""

    act: Callable[[], object]
    per_image: int = 1
    count: int = 2
    size: int = 8

    def fill(self, step: int, rows: slice, batch: np.ndarray) -> None:
        batch[:, rows] = step
        if step == 5 and rows.start == 1:
            self.act()


def test_a_killed_worker_is_an_error_and_no_hang():
    batches = steps(Misbehaving(lambda: os.kill(os.getpid(), signal.SIGKILL)), 0, 9, 2, CPU)
    with pytest.raises(RuntimeError, match=r"exit code -9 .*lower num_workers"):
        assert all(int(batch[0, 0, 0, 0, 0]) == step for step, batch in enumerate(batches))


def test_a_workers_defect_shows_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)loader process failed.*ZeroDivisionError"):
        list(steps(Misbehaving(lambda: 1 // 0), 0, 9, 2, CPU))


def test_workers_that_are_not_forked_fill_the_same_ring(monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context.SpawnContext())
    batches = steps(Misbehaving(os.getpid), 0, 9, 1, CPU)
    assert [int(batch[0, 0, 0, 0, 0]) for batch in batches] == list(range(9))


def test_workers_end_with_the_iteration_however_far_they_are():
    batches = steps(Misbehaving(lambda: None), 0, 10**9, 2, CPU)
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) >= 2
    batches.close()
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("code", [0, 2])
def test_a_ring_is_page_locked_once_its_workers_run_and_a_failure_is_taken_back(images, monkeypatch, capsys, code):
    """On a fake GPU; a failed call would fail the next kernel."""
    calls = []

    class Runtime:
        def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
            calls.append(("lock", size, len(multiprocessing.active_children()) >= 2))
            return code

        def cudaHostUnregister(self, address: int) -> None:  # noqa: N802
            calls.append("unlock")

    def kernel(*shape: int, device: torch.device) -> None:
        calls.append("kernel")
        raise RuntimeError("CUDA error: out of memory")

    event = SimpleNamespace(synchronize=lambda: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "a stream")
    monkeypatch.setattr(loader, "_send", lambda batch, stream: (batch.clone(), event))
    whole, gpu = batches(images), torch.device("cuda")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", kernel)
        found = [batch.clone() for batch in steps(whole, 0, 4, 2, gpu)]
    assert all(torch.equal(batch, whole[step]) for step, batch in enumerate(found))
    lock = ("lock", (HELD + AHEAD) * 2 * 12 * 24 * 24 * 3, True)
    assert calls == [lock, "wait", "wait", "unlock"] if code == 0 else [lock, "kernel", "wait", "wait"]
    assert ("cannot be page-locked" in capsys.readouterr().out) == (code != 0)


@pytest.mark.gpu
def test_batches_reach_a_gpu_unchanged(images):
    whole = batches(images)
    for step, batch in enumerate(steps(whole, 0, 40, 2, torch.device("cuda"))):
        assert torch.equal(batch.cpu(), whole[step])
