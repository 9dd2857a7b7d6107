"""Batches for fine-tuning: which images and views at which step, and what is left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_material import run_with_little_shared_memory
from transfer_material import annotated_set, settings

from moco.encoders.kinds import network_of
from moco.encoders.start import start_from
from moco.errors import MocoError
from moco.features.extract import Labelled
from moco.images.index import open_split
from moco.images.plan import EpochPlan
from moco.processes import Processes
from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.data.loader import Share, read_pixels, steps
from moco.transfer.tasks import task_of

CPU = torch.device("cpu")
START = start_from("random", network_of("thin", "small"), 0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedSet:
    return annotated_set(tmp_path_factory.mktemp("images"))


def batches(images, task: str, rank: int = 0, world_size: int = 1):
    """Batches of four images, over all processes."""
    made = task_of(settings(task), images, START, 0, Processes(0, 1, CPU))
    return made.batches(Share(made.among, EpochPlan(len(made.among), 4, 7), rank, world_size))


def equal(first, second) -> bool:
    """Whether two batches on a device hold the same numbers."""
    pairs = zip(first[0], second[0], strict=True)
    targets = zip(first[1], second[1], strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and all(
        torch.equal(a[name], b[name]) for a, b in targets for name in a
    )


@pytest.mark.parametrize("task", ["detection", "instances", "keypoints"])
def test_detectors_get_images_and_targets_as_torchvision_takes_them(images, task):
    pictures, targets = batches(images, task)[0].to(CPU)
    assert len(pictures) == len(targets) == 4
    for picture, target in zip(pictures, targets, strict=True):
        assert picture.dtype == torch.uint8
        count, (_, height, width) = len(target["labels"]), picture.shape
        assert min(height, width) in (48, 64) or max(height, width) == 96
        assert target["boxes"].shape == (count, 4)
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].dtype == torch.int64
        assert 1 <= target["labels"].min() <= target["labels"].max() <= 2
        assert ("masks" in target) == (task == "instances")
        assert ("keypoints" in target) == (task == "keypoints")
        if task == "instances":
            assert target["masks"].shape == (count, height, width)
            for mask, (x0, y0, x1, y1) in zip(target["masks"], target["boxes"].tolist(), strict=True):
                assert mask.sum() == pytest.approx((x1 - x0) * (y1 - y0), rel=0.15)
        if task == "keypoints":
            for points, (x0, y0, x1, y1) in zip(target["keypoints"], target["boxes"].tolist(), strict=True):
                x, y = points[0, :2].tolist()
                assert 0 < x - x0 < 2  # the left corner stays the left one in a mirror
                assert x < x1
                assert y0 < y < y1


def test_what_a_box_holds_has_the_color_of_its_label(images):
    seen = []
    for step in range(3):
        for picture, target in zip(*batches(images, "detection")[step].to(CPU), strict=True):
            if len(target["labels"]) == 1:  # nothing lies over it
                x0, y0, x1, y1 = target["boxes"][0].round().int().tolist()
                red, _, blue = picture[:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].float().mean(dim=(1, 2)).tolist()
                seen.append((red > blue, int(target["labels"][0])))
    assert len(seen) == 4
    assert set(seen) <= {(True, 1), (False, 2)}


def test_a_later_first_step_and_workers_give_the_same_batches(images):
    whole = list(steps(batches(images, "instances"), 0, 6, 0, CPU))
    for batch, expected in zip(steps(batches(images, "instances"), 3, 6, 2, CPU), whole[3:], strict=True):
        assert equal(batch, expected)
    assert not equal(whole[0], whole[3])  # another epoch is another order


def test_batches_of_any_shape_need_no_shared_memory_of_the_system(tmp_path):
    code = """
import torch
from moco.transfer.data.loader import Stacked, steps

class Growing(torch.utils.data.Dataset):
    def __getitem__(self, step):
        return Stacked(torch.full((2, 3, 400 + step, 500), step, dtype=torch.uint8), torch.tensor([step]))

for step, (images, targets) in enumerate(steps(Growing(), 0, 9, 2, torch.device("cpu"))):
    assert images.shape[2] == 400 + step and (images == step).all() and targets.tolist() == [step]
"""
    run_with_little_shared_memory(tmp_path / "batches.py", code)


def test_processes_share_the_same_batch(images):
    alone = batches(images, "keypoints")[2].to(CPU)
    halves = [batches(images, "keypoints", rank, 2)[2].to(CPU) for rank in range(2)]
    assert equal(alone, tuple(first + second for first, second in zip(*halves, strict=True)))


def test_an_epoch_shows_each_image_once(images):
    share = batches(images, "detection").share
    assert sorted(np.concatenate([share.drawn(step)[0] for step in range(3)]).tolist()) == list(range(12))


def test_semantic_batches_are_squares_with_label_maps(images):
    pictures, labels = batches(images, "semantic")[0].to(CPU)
    assert (pictures.shape, pictures.dtype) == ((4, 3, 48, 48), torch.uint8)
    assert (labels.shape, labels.dtype) == ((4, 48, 48), torch.uint8)
    assert set(labels.unique().tolist()) == {0, 1, 2, 255}


def test_classification_batches_are_crops_with_classes(small_project):
    labelled = Labelled.of(open_split(small_project / "data/shards", "train"))
    pictures, labels = next(steps(batches(labelled, "classification"), 0, 1, 0, CPU))
    assert (pictures.shape, pictures.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)
    again = next(steps(batches(labelled, "classification", 1, 2), 0, 1, 0, CPU))
    assert torch.equal(again[0], pictures[2:])
    assert torch.equal(again[1], labels[2:])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_is_gone_is_one_line_from_a_worker_too(images, num_workers):
    broken = replace(images, paths=[Path("gone.png")] * 12)
    with pytest.raises(MocoError) as error:
        next(steps(batches(broken, "detection"), 0, 1, num_workers, CPU))
    assert str(error.value) == "gone.png: cannot be read (No such file or directory); restore it"


def test_an_image_of_another_size_than_its_annotations_is_refused(images):
    with pytest.raises(
        MocoError, match=r"0\.png: has \d+ x \d+ pixels, its annotations in rectangles are for \d+ x 1;"
    ):
        read_pixels(replace(images, sizes=images.sizes * 0 + 1), 0)
