"""Batches that the GPU makes: JPEGs are decoded and views painted there, ahead of training.

torchvision decodes: of the decoders on nvJPEG it is the one that every installation has.
nvImageCodec and DALI would be further packages, the one in beta, the other with a pipeline and
operations of its own. torchvision 0.29 deprecates its decoder in favor of TorchCodec's, which has
nearly the same interface: only `_decode_jpegs` would change.
"""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext

import cv2
import numpy as np
import torch
from torch import Tensor

from moco.errors import MocoError
from moco.images.batches import ViewBatches, is_plain, read
from moco.images.decode import room_for
from moco.images.gpu_views import paint_batch
from moco.images.views import draw
from moco.permutation import Integers

AHEAD = 3
"""Batches that are read, decoded and painted ahead of training."""

_SAMPLING = tuple(bytes((luma, 0x11, 0x11)) for luma in (0x11, 0x12, 0x21, 0x22))


def available(device: torch.device) -> bool:
    """Tell whether JPEGs can be decoded on this device: torchvision with nvJPEG, and a GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    try:
        _decode_jpegs([jpeg], device)
    except (ImportError, RuntimeError):  # torchvision without its decoder, or built without nvJPEG
        return False
    return True


def steps(batches: ViewBatches, first: int, last: int, device: torch.device, threads: int = 4) -> Generator[Tensor]:
    """Yield the batches of steps first to last - 1, decoded and painted ahead on the device.

    Args:
        batches: what to make.
        first: step to begin with; any step costs the same.
        last: step to end before.
        device: where views are painted. A CPU gives the same views, slowly.
        threads: threads that read, and as many that decode what the GPU does not.

    Yields:
        uint8 V x N x 3 x S x S on `device`, channels-last in memory, never written again.

    Raises:
        MocoError: an image is damaged, or this installation decodes nothing on the GPU.
    """
    if device.type == "cuda" and not available(device):
        raise MocoError(f"views: torchvision decodes no JPEG on {device}; choose another view backend")
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    # Streams are read in order, so by one thread; they read a window ahead by themselves.
    readers, decoders, painter = (ThreadPoolExecutor(n) for n in (1 if batches.streams else threads, threads, 1))

    def begin(step: int) -> Future[tuple[Tensor, torch.cuda.Event | None]]:
        encoded = readers.submit(_read, batches, step)
        return painter.submit(_make, batches, step, encoded, device, stream, decoders)

    try:
        ahead = deque(begin(step) for step in range(first, min(first + AHEAD, last)))
        for step in range(first, last):
            batch, painted = ahead.popleft().result()
            if step + AHEAD < last:
                ahead.append(begin(step + AHEAD))
            if painted is not None:
                computing = torch.cuda.current_stream(device)
                computing.wait_event(painted)
                batch.record_stream(computing)
            yield batch
    finally:
        for pool in (painter, readers, decoders):  # in this order: the painter waits for the others
            pool.shutdown(cancel_futures=True)


def _samples(batches: ViewBatches, step: int) -> Integers:
    return batches.plan.batch(step, batches.rank, batches.world_size)


def _read(batches: ViewBatches, step: int) -> list[bytes]:
    """Read the encoded images of a step."""
    if batches.streams:
        first = batches.rank * batches.count
        return batches.streams.read(step, first, first + batches.count)
    return [batches.images.read(int(sample)) for sample in _samples(batches, step)]


def _make(
    batches: ViewBatches,
    step: int,
    encoded: Future[list[bytes]],
    device: torch.device,
    stream: torch.cuda.Stream | None,
    decoders: Executor,
) -> tuple[Tensor, torch.cuda.Event | None]:
    """Make the batch of a step, and the event after which it is painted."""
    samples = _samples(batches, step)
    keys = [batches.images.key(int(sample)) for sample in samples]
    drawn = draw(batches.views, batches.plan.seed, batches.plan.epoch_of(step), samples, batches.per_image)
    with torch.cuda.stream(stream) if stream else nullcontext():
        images = decode_batch(encoded.result(), keys, device, decoders)
        for i, image in enumerate(images):
            drawn[i].placed(*image.shape[1:])  # writes the crops into `drawn.chosen`
        batch = paint_batch(images, drawn.chosen, batches.size)
        return batch, stream.record_event() if stream else None


def decode_batch(
    encoded: Sequence[bytes], keys: Sequence[str], device: torch.device, threads: Executor
) -> list[Tensor]:
    """Decode images: plain baseline color JPEGs on the GPU, others as `moco.images.decode.decode`.

    nvJPEG does not smooth chroma as libjpeg does, so saturated edges differ by some levels.

    Args:
        encoded: JPEG, PNG or WebP [N].
        keys: their names, for errors.
        device: where the images go.
        threads: decode what the GPU does not.

    Returns:
        uint8 3 x H x W each, on `device`, not contiguous where the CPU decoded.

    Raises:
        MocoError: an image is damaged.
    """
    cuda = device.type == "cuda"

    def decoded(i: int) -> Tensor:
        with room_for(encoded[i]):
            pixels = torch.from_numpy(read(encoded[i], keys[i]))
        return (pixels.pin_memory() if cuda else pixels).permute(2, 0, 1)

    on_gpu = [i for i, data in enumerate(encoded) if cuda and is_baseline(data) and is_plain(data)]
    waiting = {i: threads.submit(decoded, i) for i in set(range(len(encoded))) - set(on_gpu)}
    images = {}
    if on_gpu:
        try:
            images = dict(zip(on_gpu, _decode_jpegs([encoded[i] for i in on_gpu], device), strict=True))
        except RuntimeError:  # of one image, and it does not say which: `read` does, or decodes them
            waiting |= {i: threads.submit(decoded, i) for i in on_gpu}
    images |= {i: image.result().to(device, non_blocking=True) for i, image in waiting.items()}
    return [images[i] for i in range(len(encoded))]


def _decode_jpegs(encoded: Sequence[bytes], device: torch.device) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg  # a later version will be without it

    # The decoder writes into memory just freed without waiting for this stream's kernels that still
    # read it (github.com/pytorch/vision/pull/9606).
    torch.cuda.current_stream(device).synchronize()
    # Copies, because torch warns of bytes that it cannot write.
    return decode_jpeg(
        [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in encoded], ImageReadMode.RGB, device
    )


def is_baseline(data: bytes) -> bool:
    """Tell whether the bytes are a JPEG that GPUs decode in hardware, up to its end marker.

    That is baseline YCbCr of 8 bits with the usual sampling factors. nvJPEG decodes progressive
    ones on the host, one after the other, and one image that it refuses fails its whole batch.
    """
    at = 2
    if data[:2] != b"\xff\xd8" or b"\xff\xd9" not in data[-4096:]:
        return False
    while at + 19 < len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:  # until the scan
        if data[at + 1] == 0xC0:  # baseline: bits, sides, components; name and factors of each
            named, factors = data[at + 10 : at + 19 : 3], data[at + 11 : at + 19 : 3]
            return data[at + 4] == 8 and data[at + 9] == 3 and named != b"RGB" and factors in _SAMPLING
        if data[at + 1] == 0xEE and data[at + 4 : at + 9] == b"Adobe" and not data[at + 15]:  # no YCbCr
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
