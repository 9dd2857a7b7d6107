"""Compare fine-tuning a detector with torchvision's loop: `python -m benchmarks.transfer_step`."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.transforms.v2 import functional as TF

from benchmarks.measure import Cost, Row, Side, apart, interleaved, machine, options, save
from benchmarks.photographs import KEPT
from moco.encoders.kinds import network_of
from moco.encoders.start import start_from
from moco.images.plan import EpochPlan
from moco.processes import Processes
from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.data.loader import BoxBatches, Share, steps
from moco.transfer.data.trainable import with_objects
from moco.transfer.data.voc import read_voc
from moco.transfer.data_config import Scenes
from moco.transfer.networks.batch_norm import set_batch_norm
from moco.transfer.networks.detectors import detector
from moco.transfer.scenes.build import build_scenes
from moco.transfer.schedules import BoxSizes

SIDE, BATCH, ENCODER = 480, 2, "resnet18"
CPU = torch.device("cpu")
SCENES = Scenes(
    train=64,
    val=1,
    test=1,
    side=640,
    aspect_min=0.75,
    items_min=3,
    items_max=7,
    item_min=60,
    item_max=300,
    clutter=0.5,
    difficult_below=0.3,
    jpeg_quality=92,
    val_fraction=0.1,
    split_seed=0,
    seed=0,
)


def images() -> AnnotatedSet:
    """Scenes of 640 pixels, made once."""
    folder = KEPT / "scenes-640"
    if not folder.exists():
        build_scenes(folder, SCENES)
    return read_voc(folder / "VOCdevkit", [("2012", "train")])


@dataclass(frozen=True)
class Reference(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """As torchvision's reference reads a set: Pillow, a random flip, float32; the model resizes."""

    found: AnnotatedSet

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        where = self.found.instances(n)
        image = TF.pil_to_tensor(Image.open(self.found.paths[n]).convert("RGB"))
        boxes = torch.from_numpy(self.found.boxes[where].copy())
        if random.random() < 0.5:
            image = TF.horizontal_flip(image)
            boxes = torch.stack(
                [image.shape[2] - boxes[:, 2], boxes[:, 1], image.shape[2] - boxes[:, 0], boxes[:, 3]], 1
            )
        target = {"boxes": boxes, "labels": torch.from_numpy(self.found.labels[where] + 1)}
        return TF.to_dtype(image, torch.float32, scale=True), target


def pairs(batch: Any) -> Any:
    """Turn a batch into lists of images and targets."""
    return tuple(zip(*batch, strict=True))


def reference_batches(found: AnnotatedSet) -> Iterator[Any]:
    """Batches without end from one worker."""
    while True:
        yield from DataLoader(Reference(found), BATCH, shuffle=True, num_workers=1, collate_fn=pairs, drop_last=True)


def our_batches(found: AnnotatedSet) -> Iterator[Any]:
    """Load the same by our loader."""
    among = with_objects(found, False)
    batches = BoxBatches(found, Share(among, EpochPlan(len(among), BATCH, 0)), BoxSizes((SIDE,), SIDE), False, False)
    return steps(batches, 0, 10**9, 1, CPU)


def reference_model(classes: int) -> nn.Module:
    """torchvision's Faster R-CNN with a pyramid, batch norm trained."""
    body = resnet_fpn_backbone(backbone_name=ENCODER, weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d)
    return FasterRCNN(body, classes + 1, min_size=SIDE, max_size=1333)


def our_model(classes: int) -> nn.Module:
    """Ours: it differs by the batch norm in the pyramid."""
    found = start_from("random", network_of(ENCODER, "imagenet"), 0)
    model = detector("detection", "fpn", found, classes, seed=0)
    return set_batch_norm(model, "synchronized", Processes(0, 1, CPU)).to(memory_format=torch.channels_last)


def side(model: nn.Module, batches: Iterator[Any], bf16: bool, count: int) -> Side:
    """Train `count` batches a round."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4)
    model.train()

    def train() -> int:
        for _ in range(count):
            pictures, targets = next(batches)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                losses = model(list(pictures), list(targets))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        return count * BATCH

    return train


def ours(count: int) -> dict[str, Side]:
    """Our two precisions."""
    found = images()

    def make(bf16: bool) -> Side:
        return side(our_model(len(found.classes)), our_batches(found), bf16, count)

    return {
        "ours, fp32": make(False),
        "ours, bf16": make(True),
        "our loader alone": partial(loading, our_batches(found)),
    }


def theirs(count: int) -> dict[str, Side]:
    """torchvision's loop, as its reference has it: float32."""
    found = images()
    return {"torchvision": side(reference_model(len(found.classes)), reference_batches(found), False, count)}


def loading(batches: Iterator[Any]) -> int:
    """Run the loader without training."""
    for _ in range(20):
        next(batches)
    return 20 * BATCH


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def row(costs: dict[str, Cost], mine: str) -> Row:
    """Ours beside torchvision's."""
    own, peer = costs[mine], costs["torchvision"]
    table = f"Faster R-CNN, {ENCODER} FPN, short side {SIDE}, batch {BATCH}, images to gradients"
    return Row(
        table,
        mine,
        "images/s",
        1 / own.wall,
        "torchvision's reference loop, fp32",
        1 / peer.wall,
        1 / own.cpu,
        1 / peer.cpu,
    )


def main() -> None:
    """Both loops in turn, loading included."""
    quick = options(__doc__).quick
    begun = machine()
    found = images()
    classes = len(found.classes)
    extra = parameters(our_model(classes)) - parameters(reference_model(classes))
    with apart(ours, 2 if quick else 4) as mine, apart(theirs, 2 if quick else 4) as others:
        costs = interleaved(mine | others, 3 if quick else 7)
    rows = [row(costs, "ours, fp32"), row(costs, "ours, bf16")]
    rows.append(Row(rows[0].table, "our loader alone, one worker", "images/s", 1 / costs["our loader alone"].wall))
    proof = (
        f"{len(found)} scenes of 640 px on both sides, torchvision {torchvision.__version__}; our model has {extra:,} parameters more,"
        " those of batch norm in the pyramid less the biases that it replaces"
    )
    save("transfer_step", rows, [proof], begun, quick)


if __name__ == "__main__":
    main()
