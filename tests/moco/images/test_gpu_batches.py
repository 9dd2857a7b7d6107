"""Batches of the GPU's view backend: on a CPU, and what needs a GPU where there is one."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from small_material import photographs, psnr, smooth_photo
from test_loader import CPU, Encoded, batches
from torch._subclasses.fake_tensor import FakeTensorMode

from moco.errors import MocoError
from moco.images import gpu_batches
from moco.images.decode import decode
from moco.images.gpu_batches import available, decode_batch, is_baseline, steps


def encoded(mode: str = "RGB", kind: str = "JPEG", height: int = 60, **options: object) -> bytes:
    """A saturated image with an edge; JPEGs in 4:4:4, because nvJPEG does not smooth chroma."""
    return written(smooth_photo(height, 90), mode, kind, **{"subsampling": 0} | options)


def written(image: np.ndarray, mode: str = "RGB", kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    """A JPEG whose EXIF entry asks for a turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(exif=exif)


PHOTO, FLOWER = photographs()
FILES = {
    "photo": written(PHOTO, quality=90),
    "flower": written(FLOWER, quality=90, subsampling=1),
    "baseline": encoded(),
    "EXIF": turned(),
    "progressive": encoded(progressive=True),
    "gray": encoded("L"),
    "CMYK": encoded("CMYK"),
    "stored RGB": encoded(keep_rgb=True),
    "PNG": encoded(kind="PNG"),
    "WebP": encoded(kind="WEBP"),
}


def test_threads_share_the_memory_that_decoding_takes(monkeypatch):
    taken = []

    class Room:
        def take(self, size: int) -> nullcontext[None]:
            taken.append(size)
            return nullcontext()

    monkeypatch.setattr("moco.images.decode._ROOM", Room())
    with ThreadPoolExecutor(2) as threads:
        decode_batch([FILES["PNG"], FILES["baseline"]], ["a", "b"], CPU, threads)
    assert sorted(taken) == [9 * 60 * 90, 12 * 60 * 90]


@pytest.fixture(scope="module")
def images() -> Encoded:
    """50 images of all formats, sizes from 40 x 90 to 89 x 90."""
    kinds = [{}, {"kind": "PNG"}, {"kind": "WEBP"}, {"mode": "L"}, {"progressive": True}]
    return Encoded([encoded(height=40 + i, **kinds[i % 5]) for i in range(50)])


def decoded(files: dict[str, bytes], device: torch.device) -> list[torch.Tensor]:
    with ThreadPoolExecutor(2) as threads:
        return decode_batch(list(files.values()), list(files), device, threads)


def pixels(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).cpu().numpy()


def require_same(batch: torch.Tensor, other: torch.Tensor, decibels: float) -> None:
    assert batch.shape == other.shape and batch.dtype == torch.uint8
    assert batch[0].is_contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(batch.cpu().flatten(0, 1), other.flatten(0, 1), strict=True):
        assert psnr(ours.numpy(), theirs.numpy()) > decibels


def test_only_baseline_color_jpegs_are_for_the_gpu():
    assert {name for name, data in FILES.items() if is_baseline(data)} == {"photo", "flower", "baseline", "EXIF"}
    whole = FILES["baseline"]
    for other in (b"", b"hello", b"\xff\xd8\xff\xd9", whole[:100] + b"\xff\xd9", whole[:-2], whole[2:]):
        assert not is_baseline(other)


def test_a_cpu_decodes_as_everywhere():
    for data, image in zip(FILES.values(), decoded(FILES, CPU), strict=True):
        assert np.array_equal(pixels(image), decode(data))


@pytest.mark.parametrize("refuses", [False, True])
def test_images_keep_their_order_whoever_decodes_them(refuses, monkeypatch):
    files, asked = {str(height): encoded(height=height, progressive=height % 2 == 1) for height in range(40, 46)}, []

    def decoder(data: list[bytes], device: torch.device) -> list[torch.Tensor]:
        asked.append(data)
        if refuses:
            raise RuntimeError("Error while decoding JPEG images")
        return [torch.empty(3, *decode(one).shape[:2], dtype=torch.uint8, device=device) for one in data]

    monkeypatch.setattr(gpu_batches, "_decode_jpegs", decoder)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # needs a GPU
    with FakeTensorMode(allow_non_fake_inputs=True):  # a GPU without values
        found = decoded(files, torch.device("cuda", 0))
    assert asked == [[files["40"], files["42"], files["44"]]]
    assert [(image.device.type, *image.shape) for image in found] == [("cuda", 3, int(name), 90) for name in files]


def test_what_decode_turns_or_shrinks_is_not_decoded_by_the_gpu(monkeypatch):
    files, asked = {"plain": encoded(), "turned": turned(), "large": encoded(height=200)}, []

    def decoder(data: list[bytes], device: torch.device) -> list[torch.Tensor]:
        asked.extend(data)
        return [torch.empty(3, *decode(one).shape[:2], dtype=torch.uint8, device=device) for one in data]

    monkeypatch.setattr(gpu_batches, "_decode_jpegs", decoder)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # needs a GPU
    monkeypatch.setattr("moco.images.batches.KEPT", 190 * 90)
    monkeypatch.setattr("moco.images.decode.KEPT", 190 * 90)
    with FakeTensorMode(allow_non_fake_inputs=True):  # a GPU without values
        found = decoded(files, torch.device("cuda", 0))
    assert asked == [files["plain"]]
    assert [tuple(image.shape[1:]) for image in found] == [decode(data).shape[:2] for data in files.values()]


def test_batches_are_those_of_the_plain_backend(images):
    whole = batches(images)
    for step, batch in enumerate(steps(whole, 2, 10, CPU), start=2):
        require_same(batch, whole[step], 48)
    assert step == 9
    require_same(next(steps(batches(images, rank=1, world_size=3), 4, 5, CPU)), whole[4][:, 4:8], 48)
    require_same(next(steps(batches(images, per_image=1), 4, 5, CPU)), whole[4][:1], 48)
    assert list(steps(whole, 3, 3, CPU)) == []


def test_streams_are_read_in_order(images):
    plain, asked = batches(images, rank=1, world_size=2), []

    class Streams:
        def read(self, step: int, first: int, last: int) -> list[bytes]:
            asked.append((step, first, last))
            return [images.read(int(sample)) for sample in plain.plan.batch(step)[first:last]]

    for step, batch in enumerate(steps(batches(images, rank=1, world_size=2, streams=Streams()), 0, 8, CPU)):
        require_same(batch, plain[step], 48)
    assert asked == [(step, 6, 12) for step in range(8)]


def test_an_image_damaged_after_sharding_is_named(images):
    damaged = Encoded([data[: len(data) // 3] for data in images.files])
    before = threading.active_count()
    with pytest.raises(MocoError, match=r"sample train-0000000\d\d: .*moco verify"):
        list(steps(batches(damaged), 0, 2, CPU))
    assert threading.active_count() == before


def test_threads_end_with_the_iteration(images):
    before = threading.active_count()
    made = steps(batches(images), 0, 1000, CPU)
    next(made)
    assert threading.active_count() > before
    made.close()
    assert threading.active_count() == before


def test_a_decoder_that_is_missing_is_said_at_the_start(images, monkeypatch):
    def no_decoder(encoded, device):
        raise RuntimeError("torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_batches, "_decode_jpegs", no_decoder)
    assert not available(CPU)
    assert not available(torch.device("cuda"))
    with pytest.raises(MocoError, match="views: torchvision decodes no JPEG on cuda; choose another view backend"):
        next(steps(batches(images), 0, 1, torch.device("cuda")))


@pytest.mark.gpu
def test_a_gpu_decodes_as_the_cpu():
    gpu = torch.device("cuda", 0)
    assert available(gpu)
    for (name, data), image in zip(FILES.items(), decoded(FILES, gpu), strict=True):
        assert image.device == gpu
        assert psnr(pixels(image), decode(data)) >= 40, name
    files = FILES | {"train-7": FILES["baseline"][:300] + b"\xff\xd9"}  # the header is whole
    with pytest.raises(MocoError, match="sample train-7: "):
        decoded(files, gpu)


@pytest.mark.gpu
def test_a_gpu_makes_the_same_batches_while_it_computes(images):
    whole, gpu, kept = batches(images), torch.device("cuda", 0), []
    for batch in steps(whole, 0, 20, gpu):
        torch.cuda._sleep(10**7)  # what reads the batch comes later
        kept.append((batch.clone(), batch))
    for step, (then, now) in enumerate(kept):
        assert torch.equal(then, now)
        require_same(then, whole[step], 38)
