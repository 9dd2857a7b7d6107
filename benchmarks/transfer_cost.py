"""Count the arithmetic of published fine-tuning schedules: `python -m benchmarks.transfer_cost`.

Each network trains on one image of the middle size of its schedule, forwards and backwards, while
torch counts the operations of convolutions and matrix products, two for each multiplication with
addition. Takes some minutes and 10 GB.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from moco.encoders.kinds import network_of
from moco.encoders.resnet import ResNet
from moco.encoders.start import start_from
from moco.transfer.networks.detectors import detector
from moco.transfer.networks.fcn import FCN

OBJECTS = 8
"""In the image of a detector; what it samples does not depend on how many there are."""


@dataclass(frozen=True)
class Case:
    """A published schedule.

    Attributes:
        name: as in the table.
        images: that a run sees.
        train: trains on a batch.
        batch: images in it.
    """

    name: str
    images: int
    train: Callable[[], None]
    batch: int = 1


def count(train: Callable[[], None]) -> float:
    """Operations of a call, 1e12."""
    with FlopCounterMode(display=False) as counter:
        train()
    return counter.get_total_flops() / 1e12


def detect(task: str, neck: str, classes: int, height: int, width: int) -> None:
    """Train a detector on one image."""
    points = 17 if task == "keypoints" else 0
    start = start_from("random", network_of("resnet50", "imagenet"), 0)
    model: nn.Module = detector(task, neck, start, classes, seed=0, num_keypoints=points).train()  # type: ignore[arg-type]
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    corner = torch.rand(OBJECTS, 2) * torch.tensor([width * 0.6, height * 0.6])
    boxes = torch.cat([corner, corner + 20 + torch.rand(OBJECTS, 2) * torch.tensor([width * 0.3, height * 0.3])], dim=1)
    target: dict[str, Tensor] = {"boxes": boxes, "labels": torch.randint(1, classes + 1, (OBJECTS,))}
    if task == "instances":
        target["masks"] = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
        target["masks"][:, : height // 2, : width // 2] = 1
    if task == "keypoints":
        centers = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None].expand(OBJECTS, points, 2)
        target["keypoints"] = torch.cat([centers, torch.full((OBJECTS, points, 1), 2.0)], dim=2)
    sum(model([image], [target]).values()).backward()


def segment(classes: int, size: int) -> None:
    """Train an FCN on two images; its batch norms need more than one."""
    model = FCN(start_from("random", network_of("resnet50", "imagenet"), 0), classes, 0).train()
    model(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)).mean().backward()


def contrast() -> None:
    """Two images of MoCo's pretraining: the query forwards and backwards, the key forwards."""
    model = ResNet("resnet50").train()
    images = torch.randn(2, 3, 224, 224)
    model(images).sum().backward()
    with torch.no_grad():
        model(images)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sustained", type=float, default=50.0, help="TFLOP/s that one GPU keeps up (50)")
    sustained = parser.parse_args().sustained
    torch.manual_seed(0)
    cases = [
        Case("VOC detection, C4, voc-24k, 640 px", 24_000 * 16, lambda: detect("detection", "c4", 20, 640, 853)),
        Case("VOC detection, FPN, voc-24k, 640 px", 24_000 * 16, lambda: detect("detection", "fpn", 20, 640, 853)),
        Case("COCO instances, C4, coco-2x, 720 px", 180_000 * 16, lambda: detect("instances", "c4", 80, 720, 960)),
        Case("COCO instances, FPN, coco-2x, 720 px", 180_000 * 16, lambda: detect("instances", "fpn", 80, 720, 960)),
        Case("COCO keypoints, FPN, coco-2x, 720 px", 180_000 * 16, lambda: detect("keypoints", "fpn", 1, 720, 960)),
        Case("VOC segmentation, voc-seg, 513 px", 30_000 * 16, lambda: segment(21, 513), 2),
        Case("Cityscapes segmentation, cityscapes, 769 px", 90_000 * 16, lambda: segment(19, 769), 2),
        Case("for comparison: MoCo v2 pretraining, ResNet-50, ImageNet, 200 epochs", 200 * 1_281_167, contrast, 2),
    ]
    print(f"| | images | TFLOP an image | PFLOP a run | GPU hours at {sustained:g} TFLOP/s |\n|---|---|---|---|---|")
    for case in cases:
        each = count(case.train) / case.batch
        hours = each * case.images / sustained / 3600
        print(
            f"| {case.name} | {case.images:,} | {each:.2g} | {each * case.images / 1000:,.0f} | {hours:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
