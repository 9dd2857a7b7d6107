"""The GPU's view backend, on CPU tensors, against the plain one."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from operations import Operations
from small_material import photographs, psnr, whole_view
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from moco.config import load_params
from moco.images import operations
from moco.images.gpu_views import paint_batch
from moco.images.operations import FUSED, OPERATIONS, Operation
from moco.images.views import draw, paint

SETTINGS = load_params().pretrain.views.model_copy(
    update={"jitter_p": 0.8, "grayscale_p": 0.2, "blur_p": 0.5, "flip_p": 0.5, "crop_scale_min": 0.2}
)


def photos() -> list[np.ndarray]:
    """Two photographs, parts of them, saturated stripes, and noise."""
    china, flower = photographs()
    y, x = np.mgrid[:90, :333]
    stripes = np.stack([(x // 20 % 2) * 255, (y // 15 % 2) * 255, (x + y) % 256], axis=-1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (45, 37, 3), dtype=np.uint8)
    parts = [china, flower, china[100:400, :200], flower[200:, 300:], china[:28, 300:328], flower[150:155, 200:207]]
    return [image.copy() for image in [*parts, stripes, noise, china[:64, :64]]]


def tensors(images: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(image).permute(2, 0, 1) for image in images]


def placed(images: list[np.ndarray], count: int, seed: int = 0, **settings: object) -> np.ndarray:
    """Drawn views [N, V]."""
    drawn = draw(SETTINGS.model_copy(update=settings), seed, 0, np.arange(len(images)), count)
    for i, image in enumerate(images):
        drawn[i].placed(*image.shape[:2])
    return drawn.chosen


def similarities(images: list[np.ndarray], chosen: np.ndarray, size: int) -> np.ndarray:
    """PSNR of each view between the two backends, dB [N, V]."""
    batch = paint_batch(tensors(images), chosen, size)
    assert batch.dtype == torch.uint8 and batch.shape == (*chosen.shape[::-1], 3, size, size)
    assert batch[0].is_contiguous(memory_format=torch.channels_last)
    found = np.empty(chosen.shape)
    for i, image in enumerate(images):
        plain = np.empty((chosen.shape[1], size, size, 3), np.uint8)
        paint(image, chosen[i], plain)
        ours = batch[:, i].permute(0, 2, 3, 1).numpy()
        found[i] = [psnr(a, b) for a, b in zip(ours, plain, strict=True)]
    return found


@pytest.mark.parametrize("recipe", ["v1", "v2"])
@pytest.mark.parametrize(("size", "count"), [(224, 2), (61, 16), (32, 24)])
def test_views_are_those_of_the_plain_backend(recipe, size, count):
    images = photos()
    found = similarities(images, placed(images, count, size, order=recipe), size)
    assert found.min() > 48
    assert np.median(found) > 54


def test_every_order_of_the_jitter_is_painted():
    image = photos()[2]
    views = np.concatenate([whole_view(300, 200, order=order) for order in itertools.permutations(range(4))])
    views["factors"] = np.random.default_rng(0).uniform((0.2, 0.2, 0.2, -0.5), (1.8, 1.8, 1.8, 0.5), (24, 4))
    for gray in (0, 1, 2):
        views["grayscale"] = gray
        assert similarities([image], views[None], 64).min() > 48


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 1.5, 2.0])
def test_blur_is_the_gaussian(sigma):
    image, side = photos()[0][:96, 200:296], 2 * int(np.ceil(3 * sigma)) + 1
    one = whole_view(96, 96, sigma=sigma)
    assert similarities([np.ascontiguousarray(image)], one[None], 96).min() > 50
    ours = paint_batch(tensors([image]), one[None], 96)[0, 0].permute(1, 2, 0).numpy()
    exact = cv2.GaussianBlur(image.astype(np.float32), (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(ours - exact).max() < 0.51


def test_blurs_of_different_widths_share_a_batch():
    image = photos()[7]
    views = np.concatenate([whole_view(45, 37, sigma=sigma) for sigma in (0, 0.1, 2.0, 0, 9.0)])
    together = paint_batch(tensors([image]), views[None], 40)
    alone = [paint_batch(tensors([image]), views[None, i : i + 1], 40)[0] for i in range(5)]
    assert (together.int() - torch.stack(alone).int()).abs().max() <= 1
    assert torch.equal(together[0], together[3])


@pytest.mark.parametrize("size", [4, 20, 51])
@pytest.mark.parametrize("rows", [slice(0, 20), slice(25, 45), slice(13, 33)])
@pytest.mark.parametrize("columns", [slice(0, 20), slice(17, 37), slice(9, 29)])
def test_a_crop_lies_where_it_was_drawn(size, rows, columns):
    image = photos()[7]  # noise: a crop one pixel beside has 8 dB
    one = whole_view(20, 20, top=rows.start, left=columns.start)
    assert similarities([image], one[None], size).min() > 48
    if size == 20:
        ours = paint_batch(tensors([image]), one[None], size)[0, 0].permute(1, 2, 0).numpy()
        assert np.array_equal(ours, image[rows, columns])


def test_a_flip_mirrors():
    images = photos()
    views = np.stack(
        [np.concatenate([whole_view(*x.shape[:2], sigma=1, flip=flip) for flip in (0, 1)]) for x in images]
    )
    for size in (1, 2, 7, 64):
        straight, mirrored = paint_batch(tensors(images), views, size)
        assert (straight.flip(-1).int() - mirrored.int()).abs().max() <= 1
        assert similarities(images, views, size).min() > 48


def test_resizing_keeps_a_plain_color():
    images = [np.full((200, 333, 3), level, np.uint8) for level in (0, 1, 127, 254, 255)]
    views = np.stack([np.concatenate([whole_view(200, 333, sigma=sigma) for sigma in (0, 0.1, 2)])] * 5)
    for size in (1, 2, 50, 333, 400):
        for i, same in enumerate(paint_batch(tensors(images), views, size).unbind(1)):
            assert (same == images[i][0, 0, 0]).all()


def test_chunks_change_nothing():
    images = photos()
    chosen = placed(images, 2)
    whole = paint_batch(tensors(images), chosen, 48)
    for memory in (1, 10**7):
        assert (paint_batch(tensors(images), chosen, 48, memory).int() - whole.int()).abs().max() <= 1
    one = paint_batch(tensors(images[3:4]), chosen[3:4], 48)
    assert (one[:, 0].int() - whole[:, 3].int()).abs().max() <= 1


@pytest.mark.parametrize(("size", "count"), [(32, 2), (160, 4)])  # resizing needs the most; colors do
def test_painting_stays_within_its_memory(size, count):
    images = photos() * 3
    chosen, memory = placed(images, count), 6 * 10**7
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        batch = paint_batch(tensors(images), chosen, size, memory)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    most = max(itertools.accumulate(event.nbytes() for event in events)) - batch.numel()
    assert 0.5 * memory < most <= memory


def test_an_operation_after_the_fused_ones_is_painted_by_plain_libraries(monkeypatch):
    def choose(draws, settings, chosen):
        chosen["inverted"] = draws("inverted", 1)[0] < 0.5

    def invert(image, view):
        if view["inverted"]:
            np.subtract(255, image, out=image)

    monkeypatch.setattr(operations, "OPERATIONS", (*FUSED, Operation([("inverted", "<i4")], choose, invert)))
    images = photos()
    chosen = placed(images, 6)
    assert 0 < chosen["inverted"].mean() < 1
    assert similarities(images, chosen, 32).min() > 48


def test_the_host_never_waits():
    images = photos()
    with Operations(may_wait=False):
        paint_batch(tensors(images), placed(images, 2), 32, 10**7)
    with Operations(may_wait=False), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(1).item()


def test_all_values_are_on_the_images_device(monkeypatch):
    assert OPERATIONS == FUSED  # others are painted on the CPU
    images = photos()
    chosen = placed(images, 2)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # needs a GPU
    with FakeTensorMode():  # shapes and devices without values: what needs a value fails
        on_gpu = [torch.empty(3, *image.shape[:2], dtype=torch.uint8, device="cuda") for image in images]
        batch = paint_batch(on_gpu, chosen, 32, 10**7)
    assert batch.device.type == "cuda" and batch.shape == (2, len(images), 3, 32, 32)


@pytest.mark.gpu
def test_a_gpu_paints_the_same_without_waiting():
    images = photos()
    chosen, on_gpu = placed(images, 2), [image.cuda() for image in tensors(images)]
    paint_batch(on_gpu, chosen, 64)  # libraries start with the first products, and may wait then
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = paint_batch(on_gpu, chosen, 64)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(ours.cpu().flatten(0, 1), paint_batch(tensors(images), chosen, 64).flatten(0, 1), strict=True):
        assert psnr(a.numpy(), b.numpy()) > 45
