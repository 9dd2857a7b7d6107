"""Mean IoU: counts, the rule for absent classes, and torchmetrics' figures."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from moco.errors import MocoError
from moco.transfer.metrics.segmentation import confusion, mean_iou

CLASSES = ["background", "cat", "dog", "unseen"]


def label_maps(seed: int, images: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted maps of three classes, a tenth of the pixels ignored."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, (images, 40, 50)).astype(np.uint8)
    predicted = np.where(random.random(truth.shape) < 0.7, truth, random.integers(0, 3, truth.shape))
    truth[random.random(truth.shape) < 0.1] = 255
    return truth, predicted.astype(np.int64)


def test_figures_are_torchmetrics():
    truth, predicted = label_maps(0)
    ours = mean_iou(confusion(truth, predicted, 4), CLASSES)
    tensors = torch.from_numpy(predicted), torch.from_numpy(truth.astype(np.int64))
    each = MulticlassJaccardIndex(4, average=None, ignore_index=255)(*tensors)
    mean = MulticlassJaccardIndex(4, average="macro", ignore_index=255)(*tensors)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=255)(*tensors)
    assert [ours["per_class"][name]["IoU"] for name in CLASSES[:3]] == pytest.approx(each[:3].tolist(), abs=1e-6)
    assert ours["mIoU"] == pytest.approx(float(mean), abs=1e-6)
    assert ours["pixel_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)


def test_rows_of_the_matrix_are_true_classes():
    counts = confusion(np.uint8([0, 0, 1, 255]), np.array([0, 2, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_counts_of_images_add_up():
    truth, predicted = label_maps(1)
    parts = [confusion(a, b, 4) for a, b in zip(truth, predicted, strict=True)]
    assert np.array_equal(sum(parts), confusion(truth, predicted, 4))


def test_a_class_that_is_only_predicted_counts_and_one_that_is_nowhere_does_not():
    figures = mean_iou(confusion(np.uint8([0, 0, 0, 1]), np.array([0, 0, 2, 1]), 4), CLASSES)
    assert {name: value["IoU"] for name, value in figures["per_class"].items()} == {
        "background": pytest.approx(2 / 3),
        "cat": 1.0,
        "dog": 0.0,
        "unseen": None,
    }
    assert figures["mIoU"] == pytest.approx((2 / 3 + 1) / 3)
    assert figures["pixel_accuracy"] == 0.75


def test_ignored_pixels_alone_are_worth_nothing_defined():
    figures = mean_iou(confusion(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.int64), 4), CLASSES)
    assert figures["mIoU"] is None and figures["pixel_accuracy"] is None


@pytest.mark.parametrize(("truth", "predicted", "side"), [(4, 0, "true"), (254, 0, "true"), (0, 4, "predicted")])
def test_a_label_out_of_range_is_named(truth, predicted, side):
    with pytest.raises(MocoError, match=f"the {side} label {truth or predicted}, but there are 4 classes"):
        confusion(np.uint8([0, truth]), np.array([0, predicted]), 4)
