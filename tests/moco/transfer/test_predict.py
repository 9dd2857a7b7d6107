"""Predictions over a set, by models that see it exactly, so that they equal the annotations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask
from torch import nn
from transfer_material import COLORS, annotated_set

from moco.processes import Processes
from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.predict import detect, segment
from moco.transfer.schedules import BoxSizes

ALONE = Processes(0, 1, torch.device("cpu"))
LARGER = BoxSizes((1,), test_short_side=160, long_side=200)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedSet:
    """Nine pictures; those numbered 0, 3 and 6 have a single rectangle."""
    return annotated_set(tmp_path_factory.mktemp("images"), images=9)


class Part(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.forward = function


class Seer(nn.Module):
    """Shaped like torchvision's detectors: finds the red and the blue rectangle by color."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = Part(lambda images: (self.batch(images), None))
        self.backbone = Part(lambda images: images)
        self.rpn = Part(lambda batch, features: (features, {}))
        self.roi_heads = Part(lambda features, proposals, sizes: ([self.find(features)], {}))

    def batch(self, images):
        self.tensors, self.image_sizes = images[0].float(), None
        return self

    def find(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        boxes, labels = [], []
        for label, color in enumerate(COLORS, start=1):
            near = (image - torch.tensor(color.tolist())[:, None, None]).abs().sum(dim=0) < 125
            rows, columns = near.any(dim=1).nonzero(), near.any(dim=0).nonzero()
            if len(rows):
                boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                labels.append(label)
        found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        points = found.view(-1, 2, 2)  # two corners
        return {
            "boxes": found,
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.ones(len(labels)),
            "masks": torch.ones(len(labels), 1, 28, 28),
            "keypoints": torch.cat([points, torch.ones(len(labels), 2, 1)], dim=2),
        }


def test_what_is_found_comes_back_in_the_pixels_of_the_original_image(images):
    found = detect(Seer(), images, LARGER, ALONE, num_workers=1)
    assert set(found.image.tolist()) == set(range(9))
    assert (np.diff(found.image) >= 0).all()
    for n in (0, 3, 6):
        (row,), where = np.flatnonzero(found.image == n), images.instances(n)
        assert found.labels[row] == images.labels[where][0]
        assert found.boxes[row] == pytest.approx(images.boxes[where][0], abs=0.4)
        corners = images.boxes[where].reshape(2, 2) - 0.5  # where COCO counts pixels, whose centers are whole numbers
        assert found.keypoints[row, :, :2] == pytest.approx(corners, abs=0.4)
        pixels, truth = mask.decode(found.segments[row]), images.masks(n)[0]
        assert pixels.shape == truth.shape
        assert (pixels & truth).sum() > 0.9 * (pixels | truth).sum()
    assert found.boxes.dtype == found.scores.dtype == np.float32


class Peer(Processes):
    """One of two processes, given what the other found."""

    def gather_objects(self, value):
        OTHERS.append(value)
        return OTHERS[-2:] if len(OTHERS) > 1 else [value]


OTHERS: list[object] = []


def test_two_processes_look_at_each_image_once_and_put_it_together_in_order(images):
    alone = detect(Seer(), images, LARGER, ALONE, 0)
    OTHERS.clear()
    both = [detect(Seer(), images, LARGER, Peer(rank, 2, torch.device("cpu")), 0) for rank in range(2)][1]
    for name in ("image", "boxes", "scores", "labels", "keypoints"):
        assert np.array_equal(getattr(both, name), getattr(alone, name)), name
    assert both.segments == alone.segments
    assert {n for n, _ in OTHERS[0]}.isdisjoint({n for n, _ in OTHERS[1]})


def test_a_set_in_which_nothing_is_found_gives_columns_without_rows(images):
    blind = Seer()
    blind.find = lambda image: Seer.find(blind, image * 0)
    found = detect(blind, images.subset([0, 1]), LARGER, ALONE, 0)
    assert found.boxes.shape == (0, 4)
    assert found.segments == []
    assert found.keypoints.shape == (0, 2, 3)
    assert detect(blind, images.subset([]), LARGER, ALONE, 0).boxes.shape == (0, 4)


class Painter(nn.Module):
    """Logits of background, red and blue by color, at the size that it is given."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        red, _, blue = pictures.float().unbind(dim=1)
        return torch.stack([torch.full_like(red, 60.0), red - blue, blue - red], dim=1)


def test_a_segmentation_is_counted_at_the_original_size_once_for_each_image(images):
    found = segment(Painter(), images, ALONE, 0, shown=[2, 5])
    counted = sum(int((images.label_map(n) != 255).sum()) for n in range(9))
    assert np.trace(found.confusion) == found.confusion.sum() == counted
    assert list(found.label_maps) == [2, 5]
    truth = images.label_map(5)
    assert np.array_equal(found.label_maps[5][truth != 255], truth[truth != 255])


def test_two_processes_count_the_same_pixels_as_one(images):
    OTHERS.clear()
    both = [segment(Painter(), images, Peer(r, 2, torch.device("cpu")), 0, [0, 1]) for r in range(2)][1]
    assert np.array_equal(both.confusion, segment(Painter(), images, ALONE, 0).confusion)
    assert list(both.label_maps) == [0, 1]


def test_a_wrong_prediction_is_counted_by_true_and_predicted_class(images, tmp_path: Path):
    swapped = replace(images, semantic_classes=["background", "blue", "red"])
    painter = Painter()
    forward = painter.forward
    painter.forward = lambda pictures: forward(pictures)[:, [0, 2, 1]]
    found = segment(painter, swapped, ALONE, 0)
    assert found.confusion[1, 1] == found.confusion[2, 2] == 0
    assert found.confusion[1, 2] > 0
