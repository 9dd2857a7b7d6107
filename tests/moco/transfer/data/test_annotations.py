"""Annotated sets as columns: subsets, masks, label maps, and the hash."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Federated, data_hash, set_of_label_maps
from moco.transfer.data.segments import PackedSegments, area_of, encode, mask_of

SQUARE = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]
TWO_PARTS = [[0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0], [4.0, 4.0, 7.0, 4.0, 7.0, 6.0]]
RUNS = {"size": [6, 8], "counts": [6, 3, 39]}


def a_set() -> AnnotatedSet:
    """Three images of 8 x 6 pixels with two, no and three instances."""
    pixels = np.zeros((6, 8), np.uint8)
    pixels[2:4, 3:7] = 1
    return AnnotatedSet(
        name="three",
        classes=["cat", "dog"],
        ids=[10, "eleven", 12],
        paths=[Path(f"/images/{name}.jpg") for name in "abc"],
        sizes=np.array([[6, 8]] * 3, np.int32),
        first=np.array([0, 2, 2, 5]),
        boxes=np.array([[n, 0, n + 2, 3] for n in range(5)], np.float32),
        labels=np.array([0, 1, 1, 0, 1]),
        areas=np.array([1, 2, 3, 4, 5], np.float32),
        ignored=np.array([False, True, False, False, True]),
        annotation_ids=np.array([100, 101, 102, 103, 104]),
        segments=[SQUARE, RUNS, TWO_PARTS, encode(pixels), []],
        keypoints=np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3),
        keypoint_names=["left_ear", "right_ear"],
        flip_pairs=[(0, 1)],
        federated=Federated(["r", "f"], [[0], [], [1]], [[], [1], []]),
        category_ids=[3, 7],
    )


def test_a_subset_keeps_every_column_with_its_image_in_the_order_asked_for():
    found = a_set()
    part = found.subset([2, 1, 0])
    assert part.ids == [12, "eleven", 10]
    assert [path.stem for path in part.paths] == ["c", "b", "a"]
    assert part.first.tolist() == [0, 3, 3, 5]
    rows = [2, 3, 4, 0, 1]
    for column in ("boxes", "labels", "areas", "ignored", "annotation_ids", "keypoints"):
        assert np.array_equal(getattr(part, column), getattr(found, column)[rows]), column
    assert list(part.segments) == [found.segments[row] for row in rows]
    assert part.federated.negative == [[1], [], [0]]
    assert part.federated.not_exhaustive == [[], [1], []]
    again = part.subset(np.array([2]))
    assert again.annotation_ids.tolist() == [100, 101]
    assert list(again.segments) == [SQUARE, RUNS]
    assert len(found.subset([])) == 0


def test_instances_can_be_left_out_without_their_images():
    found = a_set().with_instances(np.array([False, True, True, False, True]))
    assert len(found) == 3
    assert found.first.tolist() == [0, 1, 1, 3]
    assert found.annotation_ids[found.instances(2)].tolist() == [102, 104]
    assert list(found.segments) == [RUNS, TWO_PARTS, []]


def test_masks_are_those_of_pycocotools_for_polygons_and_both_kinds_of_run_lengths():
    found = a_set()
    first, last = found.masks(0), found.masks(2)
    assert first.shape == (2, 6, 8)
    assert found.masks(1).shape == (0, 6, 8)
    assert first.dtype == np.uint8
    assert np.array_equal(first[0], coco.decode(coco.merge(coco.frPyObjects(SQUARE, 6, 8))))
    runs = np.zeros(48, np.uint8)
    runs[6:9] = 1
    assert np.array_equal(first[1], runs.reshape(8, 6).T)  # run lengths go down the columns
    assert np.array_equal(last[0], coco.decode(coco.merge(coco.frPyObjects(TWO_PARTS, 6, 8))))
    assert last[1].sum() == last[1, 2:4, 3:7].sum() == 8
    assert not last[2].any()


def test_a_set_without_segments_has_no_masks():
    with pytest.raises(ValueError, match="no segments"):
        replace(a_set(), segments=None).masks(0)


def test_packed_segments_are_the_list_they_were_made_of():
    segments = list(a_set().segments)
    packed = PackedSegments(iter(segments))
    assert len(packed) == 5
    assert list(packed) == segments
    assert packed[1:4] == segments[1:4]
    assert packed[-1] == []
    with pytest.raises(IndexError):
        packed[5]
    assert list(packed.take(np.array([3, 3, 0]))) == [segments[3], segments[3], segments[0]]


def test_the_area_of_a_segment_is_the_number_of_pixels_of_its_mask():
    for segment in a_set().segments:
        assert area_of(segment, 6, 8) == mask_of(segment, 6, 8).sum()


def test_the_hash_follows_each_thing_that_is_annotated_and_nothing_else():
    found = a_set()
    original = data_hash(found)
    assert len(original) == 64
    moved = replace(found, name="other", paths=[Path("/elsewhere") / path.name for path in found.paths])
    assert data_hash(moved) == original
    assert data_hash(replace(found, segments=PackedSegments(found.segments))) == original
    bytes_counts = {"size": [6, 8], "counts": found.segments[3]["counts"].encode()}
    assert data_hash(replace(found, segments=[*found.segments[:3], bytes_counts, []])) == original
    changed = [
        {"classes": ["cat", "cow"]},
        {"ids": [10, "eleven", 13]},
        {"paths": [*found.paths[:2], Path("/images/d.jpg")]},
        {"sizes": found.sizes + 1},
        {"first": np.array([0, 1, 2, 5])},
        {"boxes": found.boxes + 0.25},
        {"labels": found.labels[::-1]},
        {"areas": found.areas + 1},
        {"ignored": ~found.ignored},
        {"annotation_ids": found.annotation_ids + 1},
        {"segments": None},
        {"segments": [TWO_PARTS, *found.segments[1:]]},
        {"segments": [SQUARE, {"size": [6, 8], "counts": [6, 4, 38]}, *found.segments[2:]]},
        {"keypoints": found.keypoints + 1},
        {"keypoint_names": ["left_eye", "right_eye"]},
        {"flip_pairs": []},
        {"federated": replace(found.federated, negative=[[], [], [1]])},
        {"category_ids": [3, 8]},
    ]
    hashes = [data_hash(replace(found, **change)) for change in changed]
    assert len({original, *hashes}) == 1 + len(changed)


def semantic(tmp_path: Path, numbers: np.ndarray, **given) -> AnnotatedSet:
    image = Image.fromarray(numbers.astype(np.uint8)).convert("L")
    image.putpalette([255 - number for number in range(256) for _ in range(3)])  # colors are not the indices
    image.save(tmp_path / "a.png")
    return set_of_label_maps(
        name="maps",
        ids=["a"],
        paths=[tmp_path / "a.jpg"],
        label_maps=[tmp_path / "a.png"],
        semantic_classes=["background", "cat", "dog"],
        **given,
    )


def test_a_label_map_is_the_indices_of_a_palette_image(tmp_path):
    numbers = np.array([[0, 1, 2], [2, 255, 0]])
    found = semantic(tmp_path, numbers).label_map(0)
    assert found.dtype == np.uint8
    assert np.array_equal(found, numbers)


def test_a_label_map_is_translated_by_the_table(tmp_path):
    table = np.full(256, 255, np.uint8)
    table[[7, 8]] = [0, 2]
    found = semantic(tmp_path, np.array([[7, 8, 9]]), label_of_pixel=table)
    assert found.label_map(0).tolist() == [[0, 2, 255]]


def test_a_label_map_with_an_unknown_class_is_refused_by_name(tmp_path):
    with pytest.raises(MocoError, match=r"a\.png: number 3, but maps has 3 classes"):
        semantic(tmp_path, np.array([[0, 3]])).label_map(0)


def test_a_damaged_label_map_is_named(tmp_path):
    found = semantic(tmp_path, np.array([[0, 1]]))
    found.label_maps[0].write_bytes(b"no image")
    with pytest.raises(MocoError, match=r"a\.png: cannot be read"):
        found.label_map(0)


def test_the_hash_follows_the_content_of_label_maps(tmp_path):
    one = data_hash(semantic(tmp_path, np.array([[0, 1]])))
    assert data_hash(semantic(tmp_path, np.array([[0, 1]]))) == one
    assert data_hash(semantic(tmp_path, np.array([[0, 2]]))) != one


def test_a_subset_keeps_label_maps(tmp_path):
    found = replace(
        semantic(tmp_path, np.array([[0]])),
        ids=["a", "b"],
        paths=[Path("a.jpg"), Path("b.jpg")],
        sizes=np.zeros((2, 2), np.int32),
        first=np.zeros(3, np.int64),
        label_maps=[Path("a.png"), Path("b.png")],
    )
    assert found.subset([1]).label_maps == [Path("b.png")]
