"""Other people's two-view loaders, each as its documentation has it."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import official
from benchmarks.measure import Side, found
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.images.views import crop_box

NOTES = {
    "official, ending in uint8": "without ToTensor and Normalize, which the step would do",
    "torchvision v2 on tensors": "blur of one kernel size, 13",
    "NVIDIA DALI, CPU": "the jitter in a fixed order; threads instead of workers",
    "FFCV": "less work: no hue, grayscale or blur; photographs encoded again; threads instead of workers",
    "SPDL": "less work: no jitter, grayscale or blur, and it ends in uint8; threads instead of workers",
}
_INSTALL = "not installed; `make bench` does where it can"


def with_workers(
    folder: Path, tar: Path, size: int, batch: int
) -> tuple[dict[str, Callable[[int], Iterator[Any]]], dict[str, str]]:
    """Make endless batches for each peer built on DataLoader, and say why others are missing."""
    make = partial(endless, folder, batch)
    sides: dict[str, Callable[[int], Iterator[Any]]] = {
        "official, as written": partial(make, official.moco_v2(size)),
        "official, ending in uint8": partial(make, official.moco_v2(size, as_uint8=True)),
        "torchvision v2 on tensors": partial(make, official.moco_v2_on_tensors(size), read=official.read_tensor),
    }
    missing = {}
    if found("lightly"):
        from lightly.transforms import MoCoV2Transform

        sides["lightly MoCoV2Transform"] = partial(make, MoCoV2Transform(input_size=size))
    else:
        missing["lightly MoCoV2Transform"] = _INSTALL
    if found("webdataset"):
        sides['webdataset decode("pil") + official'] = partial(_webdataset, tar, size, batch)
    else:
        missing["webdataset"] = _INSTALL
    return sides, missing


def endless(
    folder: Path, batch: int, views: Callable[[Any], Any], workers: int, read: Callable[[str], Any] = official.read_pil
) -> Iterator[Any]:
    """Load batches of the official loader without end; its workers start once."""
    loader = official.folder_loader(folder, views, batch, workers, read, epochs=1000 if workers else 1)
    while True:
        for both, _ in loader:
            yield both


def _webdataset(tar: Path, size: int, batch: int, workers: int) -> Iterator[Any]:
    import webdataset as wds

    views = official.moco_v2(size)
    shards = [str(tar)] * max(workers, 1)  # a shard for each worker
    data = wds.WebDataset(shards, shardshuffle=False, nodesplitter=None).decode("pil").to_tuple("jpg")
    data = data.map(partial(_views_of_first, views)).repeat().batched(batch)
    return iter(wds.WebLoader(data, batch_size=None, num_workers=workers))


def _views_of_first(views: official.TwoCrops, sample: tuple[Any]) -> Any:
    return tuple(views(sample[0]))


def in_process(folder: Path, size: int, batch: int) -> tuple[dict[str, Callable[[int], Side]], dict[str, str]]:
    """Make sides with threads of their own, and say why others are missing."""
    sides: dict[str, Callable[[int], Side]] = {}
    missing = {}
    for name, package, make in (
        ("NVIDIA DALI, CPU", "nvidia.dali", _dali),
        ("FFCV", "ffcv", _ffcv),
        ("SPDL", "spdl.io", _spdl),
    ):
        try:
            module = import_module(package)
            if package == "spdl.io":
                module.utils.get_ffmpeg_versions()  # loads what its wheel does not bring
        except RuntimeError:
            missing[name] = "it found no FFmpeg, which it decodes with (Debian: ffmpeg)"
            continue
        except ImportError as error:
            missing[name] = f"{error}; `make bench` installs it where it can".replace("\n", " ")
            continue
        sides[name] = partial(make, folder, size, batch)
    return sides, missing


def _dali(folder: Path, size: int, batch: int, threads: int) -> Side:
    from nvidia.dali import fn, pipeline_def, types

    def view(images: Any) -> Any:
        out = fn.random_resized_crop(
            images, size=size, random_area=[0.2, 1.0], random_aspect_ratio=[3 / 4, 4 / 3], antialias=True
        )
        if fn.random.coin_flip(probability=0.8):
            brightness, contrast, saturation = (fn.random.uniform(range=[0.6, 1.4]) for _ in range(3))
            out = fn.color_twist(
                out,
                brightness=brightness,
                contrast=contrast,
                saturation=saturation,
                hue=fn.random.uniform(range=[-36.0, 36.0]),
            )
        if fn.random.coin_flip(probability=0.2):
            out = fn.saturation(out, saturation=0.0)
        if fn.random.coin_flip(probability=0.5):
            out = fn.gaussian_blur(out, sigma=fn.random.uniform(range=[0.1, 2.0]))
        return fn.crop_mirror_normalize(
            out,
            mirror=fn.random.coin_flip(),
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * x for x in IMAGENET_MEAN],
            std=[255 * x for x in IMAGENET_STD],
        )

    @pipeline_def(
        batch_size=batch,
        num_threads=threads,
        device_id=None,
        enable_conditionals=True,
        exec_async=False,
        exec_pipelined=False,
        seed=0,
    )
    def pipeline() -> Any:
        data, _ = fn.readers.file(file_root=str(folder), random_shuffle=True)
        images = fn.decoders.image(data, device="cpu", output_type=types.RGB)
        return view(images), view(images)

    built = pipeline()
    built.build()

    def take() -> int:
        for _ in range(2 * threads):
            built.run()
        return 2 * threads * batch

    return take


def _ffcv(folder: Path, size: int, batch: int, threads: int) -> Side:
    from ffcv.fields import RGBImageField
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.transforms.color_jitter import RandomBrightness, RandomContrast, RandomSaturation
    from ffcv.writer import DatasetWriter

    stored = folder.with_suffix(".beton")
    if not stored.exists():
        paths = sorted(folder.rglob("*.jpg"))
        fields = {name: RGBImageField(write_mode="jpg", jpeg_quality=95) for name in ("query", "key")}
        DatasetWriter(str(stored), fields, num_workers=1).from_indexed_dataset(_Pairs(paths))
    pipelines = {
        name: [
            RandomResizedCropRGBImageDecoder((size, size), scale=(0.2, 1.0)),
            RandomHorizontalFlip(),
            RandomBrightness(0.4, 0.8),
            RandomContrast(0.4, 0.8),
            RandomSaturation(0.4, 0.8),
            ToTensor(),
            ToTorchImage(),
        ]
        for name in ("query", "key")
    }
    loader = Loader(str(stored), batch, threads, order=OrderOption.RANDOM, pipelines=pipelines)

    def take() -> int:
        return sum(len(both[0]) for both in loader)

    return take


class _Pairs:
    """Each image twice, for a pipeline reads a stored field once."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        image = official.read_pil(str(self.paths[i]))
        return image, image


def _spdl(folder: Path, size: int, batch: int, threads: int) -> Side:
    from spdl.io import convert_frames, decode_packets, demux_image, to_torch
    from spdl.pipeline import PipelineBuilder

    numbers = np.random.default_rng(0)

    def view(packets: Any) -> str:
        top, left, height, width = crop_box(numbers.random(22), packets.height, packets.width, 0.2)
        flip = "hflip," if random.random() < 0.5 else ""
        return f"crop={width}:{height}:{left}:{top},{flip}scale={size}:{size}:flags=bilinear"

    def load(paths: list[str]) -> Any:
        both = []
        for path in paths:
            packets = demux_image(path)
            views = f"split[a][b];[a]{view(packets)}[q];[b]{view(packets)}[k];[q][k]vstack,format=rgb24"
            both.append(decode_packets(packets, filter_desc=views))
        return to_torch(convert_frames(both)).view(len(paths), 2, size, size, 3)

    paths = [str(path) for path in folder.rglob("*.jpg")]

    def take() -> int:
        random.shuffle(paths)
        builder = PipelineBuilder().add_source(paths).aggregate(batch).pipe(load, concurrency=threads)
        pipeline = builder.add_sink(threads).build(num_threads=threads)
        with pipeline.auto_stop():
            return sum(len(both) for both in pipeline)

    return take
