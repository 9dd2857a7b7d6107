"""Mean IoU: counts, the rule for absent classes, and torchmetrics' figures."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from moco.errors import MocoError
from moco.transfer.metrics.segmentation import confusion, mean_iou

CLASSES = ["background", "cat", "dog", "unseen"]


def label_maps() -> tuple[np.ndarray, np.ndarray]:
    """True and predicted maps of three classes, a tenth of the pixels ignored."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (3, 40, 50)).astype(np.uint8)
    predicted = np.where(random.random(truth.shape) < 0.7, truth, random.integers(0, 3, truth.shape))
    truth[random.random(truth.shape) < 0.1] = 255
    return truth, predicted.astype(np.int64)


def test_figures_are_torchmetrics():
    truth, predicted = label_maps()
    ours = mean_iou(confusion(truth, predicted, 4), CLASSES)
    tensors = torch.from_numpy(predicted), torch.from_numpy(truth.astype(np.int64))
    each = MulticlassJaccardIndex(4, average=None, ignore_index=255)(*tensors)
    mean = MulticlassJaccardIndex(4, average="macro", ignore_index=255)(*tensors)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=255)(*tensors)
    assert [ours["per_class"][name]["IoU"] for name in CLASSES[:3]] == pytest.approx(each[:3].tolist(), abs=1e-6)
    assert ours["mIoU"] == pytest.approx(float(mean), abs=1e-6)
    assert ours["pixel_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64])
def test_any_number_of_classes_and_any_integers_give_torchmetrics_figures(seed, kind):
    random = np.random.default_rng(seed)
    classes = int(random.choice([2, 19, 254, 255]))
    truth = random.integers(0, classes, (40, 30)).astype(kind)
    predicted = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, classes, truth.shape)).astype(kind)
    truth[random.random(truth.shape) < 0.2] = 255
    truth[truth == 1] = 0  # a class that is only predicted
    ours = mean_iou(confusion(truth, predicted, classes), [str(c) for c in range(classes)])
    tensors = torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    metric = MulticlassJaccardIndex(classes, average=None, ignore_index=255)
    each = metric(*tensors).double()
    table = metric.confmat.double()
    exact = table.diag() / (table.sum(0) + table.sum(1) - table.diag())  # torchmetrics divides in float32
    defined = [c for c in range(classes) if not exact[c].isnan()]
    assert [ours["per_class"][str(c)]["IoU"] for c in defined] == pytest.approx(exact[defined].tolist(), abs=1e-12)
    assert exact[defined].tolist() == pytest.approx(each[defined].tolist(), abs=1e-6)
    assert ours["mIoU"] == pytest.approx(float(exact[defined].mean()), abs=1e-12)


def test_rows_of_the_matrix_are_true_classes():
    counts = confusion(np.uint8([0, 0, 1, 255]), np.array([0, 2, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


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


@pytest.mark.parametrize(
    ("truth", "predicted", "said"),
    [
        ([9, 4], [0, 0], "true label 4"),
        ([254, 0], [0, 0], "true label 254"),
        ([0, 0], [9, 4], "predicted label 4"),
        ([0, 0], [0, 255], "predicted label 255"),
        ([0, 0], [0, 256], "predicted label 256"),
        ([0, 0], [0, 2**32], "predicted label 4294967296"),
        ([0, 0], [-1, 0], "predicted label -1"),
        ([0, 256], [0, 0], "true label 256"),
        ([0, -256], [0, 0], "true label -256"),
    ],
)
def test_the_lowest_label_out_of_range_is_named_and_none_wraps(truth, predicted, said):
    with pytest.raises(MocoError, match=rf"the {said}, but there are 4 classes \(0 … 3; 255 is ignored\)"):
        confusion(np.array(truth), np.array(predicted), 4)


@pytest.mark.parametrize(
    ("truth", "predicted", "classes", "said"),
    [
        (np.zeros((2, 8), np.uint8), np.zeros((4, 4), np.uint8), 4, r"is \(2, 8\), its prediction \(4, 4\)"),
        (np.zeros(3, np.uint8), np.array([0.2, 0.7, np.nan]), 4, "predicted label map is of float64"),
        (np.zeros(3, np.uint8), np.zeros(3, np.uint8), 256, "256 classes, but label maps of 8 bits tell 255 apart"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(truth, predicted, classes, said):
    with pytest.raises(MocoError, match=said):
        confusion(truth, predicted, classes)
