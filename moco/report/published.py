"""The paper's figures of fine-tuning, which stand beside ours only where both measure the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco.transfer.config import Comparison, TransferParams
from moco.transfer.data_config import Shards, VocBoxes

ELEVEN_POINTS, AREA = "VOC's AP at 11 points of recall (as until 2009)", "VOC's AP by area (as since 2010)"
LEFT_OUT = {"task", "schedule", "precision", "trials", "seed", "batch_size", "batch_norm", "precise_bn_batches"}
"""Keys of a training that change nothing of a schedule, or are compared by their value."""


@dataclass(frozen=True)
class Published:
    """Figures of one table of the paper, and what they were measured with.

    Attributes:
        figures: by initialization.
        named: what each of them is.
        metric: as `metric_of` names ours.
        train: what was trained on.
        test: what was tested on.
        training: values of our keys that the paper's training had.
    """

    figures: str
    named: str
    metric: str
    train: str
    test: str
    training: Mapping[str, Any] = field(default_factory=dict)


NETWORK = "resnet50 with stem imagenet"
"""Its name and its stem, in each table."""
C4 = {"neck": "c4", "batch_size": 16, "batch_norm": "synchronized", "precise_bn_batches": 200}
FCN = {"batch_size": 16, "batch_norm": "synchronized"}
PUBLISHED: dict[tuple[str, str], Published] = {
    ("detection", "voc-24k"): Published(
        "random 60.2 / 33.8 / 33.1 (second-hand), supervised 81.3 / 53.5 / 58.8, MoCo v1 81.5 / 55.9 / 62.6, v2 82.4 / 57.0 / 63.6",
        "AP50 / AP / AP75",
        ELEVEN_POINTS,  # Detectron2's evaluator takes them for every set of 2007
        "2007/trainval, 2012/trainval",
        "2007/test",
        C4,
    ),
    ("instances", "coco-2x"): Published(
        "random 35.6 / 31.4, supervised 40.0 / 34.7, MoCo v1 40.9 / 35.5, v2 41.0 / 35.6",
        "AP of boxes / of masks",
        "COCO's AP",
        "instances_train2017",
        "instances_val2017",
        C4,
    ),
    ("instances", "lvis-2x"): Published(
        "supervised 24.4, MoCo 24.1 (second-hand)",
        "AP of masks",
        "LVIS's AP",
        "lvis_v0.5_train",
        "lvis_v0.5_val",
        {"neck": "fpn", "batch_size": 16, "batch_norm": "synchronized"},
    ),
    ("semantic", "voc-seg"): Published(
        "supervised 74.4, MoCo 72.5 (second-hand), a loss", "mIoU", "mIoU", "2012/train_aug", "2012/val", FCN
    ),
    ("semantic", "cityscapes"): Published(
        "random 65.3, supervised 74.6, MoCo 75.3 (from memory)",
        "mIoU",
        "mIoU",
        "Cityscapes train",
        "Cityscapes val",
        FCN,
    ),
    ("classification", "inat"): Published(
        "random 61.8, supervised 66.1, MoCo 65.6 (second-hand)",
        "top-1",
        "top-1 accuracy",
        "iNaturalist 2018 train",
        "iNaturalist 2018 val",
        {"batch_size": 256, "batch_norm": "synchronized", "label_fraction": 1.0},
    ),
}


def published_beside(task: str, params: TransferParams) -> str | None:
    """Write what the paper has on a task and schedule: its figures, or why they are not ours.

    Returns:
        A sentence. It holds figures only if metric, images, network and training are the same;
        else it names both metrics and what differs. None where the paper has nothing.
    """
    comparison = params.of(task)
    assert comparison is not None
    paper = PUBLISHED.get((task, comparison.training.schedule))
    if paper is None:
        return None
    ours, differences = metric_of(comparison), _differences(paper, comparison, params)
    if paper.metric == ours and not differences:
        return f"The paper's figures, measured in the same way ({ours}), as {paper.named}: {paper.figures}."
    metrics = f"both are {ours}" if paper.metric == ours else f"its metric is {paper.metric}, that of this table {ours}"
    return (
        f"The paper's figures for {comparison.training.schedule} are another measurement and not shown: "
        + "; ".join([metrics, *differences])
        + "."
    )


def metric_of(comparison: Comparison) -> str:
    """Name the metric of a comparison."""
    data, task = comparison.data, comparison.training.task
    if isinstance(data, VocBoxes):
        return ELEVEN_POINTS if data.eleven_points else AREA
    if task in ("semantic", "classification"):
        return "mIoU" if task == "semantic" else "top-1 accuracy"
    return "LVIS's AP" if data.format == "lvis" else "COCO's AP"


def _differences(paper: Published, comparison: Comparison, params: TransferParams) -> list[str]:
    """List what differs beside the metric, in the paper and here."""
    settings = comparison.training.model_dump(mode="json", exclude_none=True)
    compared = {
        "trained on": (paper.train, _images(comparison, "train")),
        "tested on": (paper.test, _images(comparison, "test")),
        "network": (NETWORK, params.random.words),
        **{key: (str(value), str(settings.get(key))) for key, value in paper.training.items()},
    }
    found = [f"{what}: {theirs} there, {here} here" for what, (theirs, here) in compared.items() if theirs != here]
    own = [key for key in settings if key not in LEFT_OUT | paper.training.keys()]
    return [*found, f"only here the schedule is changed in {', '.join(own)}"] if own else found


def _images(comparison: Comparison, side: str) -> str:
    data = comparison.data
    part = getattr(data, side)
    if isinstance(part, list):
        return ", ".join(part)
    if data.format == "cityscapes":
        return f"Cityscapes {part}"
    return f"{part} of {data.path}" if isinstance(data, Shards) else Path(part).stem
