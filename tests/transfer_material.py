"""Small annotated sets for tests: colored rectangles on noise, with all kinds of annotations."""

import os
import socket
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.multiprocessing as mp
from PIL import Image

from moco.processes import leave
from moco.transfer.config import Classification, Detection, Instances, Keypoints, Semantic, TaskName, Training
from moco.transfer.data.annotations import AnnotatedSet

COLORS = np.array([[220, 40, 40], [40, 60, 220]], np.uint8)
CLASSES = ["red", "blue"]

TRAINING: dict[str, Any] = {
    "iterations": 10,
    "batch_size": 4,
    "batch_norm": "synchronized",
    "precise_bn_batches": 2,
    "precision": "fp32",
    "trials": 1,
    "seed": 0,
}
DETECTOR: dict[str, Any] = TRAINING | {
    "schedule": "voc-24k",
    "short_sides": [48, 64],
    "long_side": 96,
    "test_short_side": 64,
    "width": 8,
    "roi_size": 4,
    "rois_per_image": 16,
    "proposals_train": [64, 32],
    "proposals_test": [64, 16],
}
PYRAMID: dict[str, Any] = DETECTOR | {"neck": "fpn", "anchor_sizes": [4, 8, 16, 32, 64]}
SETTINGS: dict[TaskName, tuple[type[Training], dict[str, Any]]] = {
    "detection": (Detection, DETECTOR | {"neck": "c4", "anchor_sizes": [8, 16, 32]}),
    "instances": (Instances, PYRAMID),
    "keypoints": (Keypoints, PYRAMID),
    "semantic": (Semantic, TRAINING | {"schedule": "voc-seg", "crop_size": 48, "scales": [0.5, 2.0], "width": 8}),
    "classification": (
        Classification,
        TRAINING | {"schedule": "inat", "crop_size": 16, "test_short_side": 16, "label_fraction": 1.0},
    ),
}


def settings(task: TaskName, **changes: Any) -> Training:
    """Settings of a few quick steps of a task."""
    schema, values = SETTINGS[task]
    return schema.model_validate(values | changes)


def annotated_set(folder: Path, images: int = 12, seed: int = 0) -> AnnotatedSet:
    """Images of about 64 x 48 pixels with one to three rectangles each; a third one is ignored."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    sizes, first, paths, maps = [], [0], [], []
    boxes: list[list[int]] = []
    labels: list[int] = []
    ignored: list[bool] = []
    for n in range(images):
        height, width = (int(side) for side in draw.integers((40, 56), (48, 72)))
        pixels = draw.integers(90, 130, (height, width, 3), dtype=np.uint8)
        numbers = np.zeros((height, width), np.uint8)
        for number in range(1 + n % 3):
            w, h = (int(side) for side in draw.integers(10, 24, 2))
            x, y = int(draw.integers(0, width - w)), int(draw.integers(0, height - h))
            label = int(draw.integers(0, 2))
            pixels[y : y + h, x : x + w] = COLORS[label]
            numbers[y : y + h, x : x + w] = label + 1
            boxes.append([x, y, x + w, y + h])
            labels.append(label)
            ignored.append(number == 2)
        numbers[:2] = 255
        paths.append(folder / f"{n}.png")
        maps.append(folder / f"{n}-classes.png")
        Image.fromarray(pixels).save(paths[-1])
        Image.fromarray(numbers).save(maps[-1])
        sizes.append([height, width])
        first.append(len(boxes))
    corners = np.array(boxes, np.float32)
    sides = corners[:, 2:] - corners[:, :2]
    points = np.stack([corners[:, :2], corners[:, 2:] - 1], axis=1)  # the pixels in two corners
    return AnnotatedSet(
        name="rectangles",
        classes=CLASSES,
        ids=list(range(images)),
        paths=paths,
        sizes=np.array(sizes, np.int32),
        first=np.array(first, np.int64),
        boxes=corners,
        labels=np.array(labels, np.int64),
        areas=sides.prod(axis=1),
        ignored=np.array(ignored),
        annotation_ids=np.arange(len(boxes)),
        segments=[[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in corners.tolist()],
        keypoints=np.concatenate([points, np.full((len(boxes), 2, 1), 2)], axis=2).astype(np.float32),
        keypoint_names=["left_corner", "right_corner"],
        flip_pairs=[(0, 1)],
        label_maps=maps,
        semantic_classes=["background", *CLASSES],
    )


def spawn(task: Callable[..., None], world_size: int, *arguments: object) -> None:
    """Run a task in `world_size` processes that find each other as torchrun's do.

    They are forked from a server that has imported torch, and get this process's environment.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    _start_server()
    given = (world_size, port, dict(os.environ), task, arguments)
    mp.start_processes(_in_process, given, nprocs=world_size, start_method="forkserver")


@cache
def _start_server() -> None:
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # that of write_shards has not imported torch
    forkserver.set_forkserver_preload(["pytest", "moco.training.loop", "moco.transfer.finetune"])
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # no threads that a fork would lose
        forkserver.ensure_running()


def _in_process(
    rank: int, world_size: int, port: str, environment: dict[str, str], task: Callable[..., None], arguments: Any
) -> None:
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ |= environment | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port,
    }
    try:
        task(*arguments)
    finally:
        leave()
