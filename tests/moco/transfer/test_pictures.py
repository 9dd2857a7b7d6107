"""Contact sheets of ground truth and predictions, pixel by pixel."""

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from moco.drawing import class_colors
from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.pictures import detections_sheet, label_maps_sheet
from moco.transfer.scenes.coco_files import segment_of

CLASSES = ["T-shirt/top", "Bag"]
BLUE, ORANGE = (np.rint(np.array(to_rgb(color)) * 255) for color in class_colors(2))


@pytest.fixture
def annotated(tmp_path):
    """Two gray images, the first with two masks, the second with none; and a label map of each."""
    masks = np.zeros((2, 60, 80), bool)
    masks[0, 20:40, 10:30] = True
    masks[1, 30:50, 50:70] = True
    sizes = np.array([[60, 80], [100, 50]], np.int32)
    paths, maps = [], []
    for n, size in enumerate(sizes.tolist()):
        paths.append(tmp_path / f"{n}.png")
        maps.append(tmp_path / f"map{n}.png")
        cv2.imwrite(str(paths[n]), np.full((*size, 3), 160, np.uint8))
        cv2.imwrite(str(maps[n]), np.zeros(size, np.uint8))
    cv2.imwrite(str(maps[0]), np.where(masks[0], 1, np.where(masks[1], 255, 0)).astype(np.uint8))
    return AnnotatedSet(
        name="two",
        classes=CLASSES,
        ids=[1, 2],
        paths=paths,
        sizes=sizes,
        first=np.array([0, 2, 2]),
        boxes=np.array([[10, 20, 30, 40], [50, 30, 70, 50]], np.float32),
        labels=np.array([0, 1]),
        areas=np.full(2, 400, np.float32),
        ignored=np.array([False, True]),
        annotation_ids=np.array([1, 2]),
        segments=[segment_of(mask) for mask in masks],
        label_maps=maps,
        semantic_classes=["background", *CLASSES],
    )


def found(annotated, scores=(0.9, 0.3), **more):
    n = len(scores)
    return Detections(
        np.zeros(n, np.int64), annotated.boxes[:n], np.array(scores, np.float32), annotated.labels[:n], **more
    )


def pixels(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB).astype(float)


def share(image: np.ndarray, color: np.ndarray) -> float:
    return float((np.abs(image - color).max(axis=2) < 12).mean())


def halves(png: bytes) -> tuple[np.ndarray, np.ndarray]:
    image = pixels(png)
    return image[:, : image.shape[1] // 2], image[:, image.shape[1] // 2 :]


def test_a_sheet_is_the_same_bytes_every_time(annotated):
    first, second = (detections_sheet(annotated, found(annotated), [0, 1], 0.5) for _ in range(2))
    assert first == second
    maps = [np.zeros((60, 80), np.uint8), np.zeros((100, 50), np.uint8)]
    assert label_maps_sheet(annotated, maps, [0, 1]) == label_maps_sheet(annotated, maps, [0, 1])


def test_the_truth_is_on_the_left_and_detections_from_the_least_score_on_the_right(annotated):
    left, right = halves(detections_sheet(annotated, found(annotated), [0], 0.5))
    assert share(left, BLUE) > 0.002
    assert share(left, ORANGE) > 0.001
    assert share(right, BLUE) > 0.002
    assert share(right, ORANGE) == 0
    _, right = halves(detections_sheet(annotated, found(annotated), [0], 0.2))
    assert share(right, ORANGE) > 0.002


def test_masks_tint_what_they_cover(annotated):
    tint = 160 * 0.55 + 0.45 * BLUE
    left, right = halves(detections_sheet(annotated, found(annotated), [0], 0.5))
    # The mask covers 400 of the image's 4800 pixels, the image about two thirds of the sheet.
    assert share(left, tint) == pytest.approx(400 / 4800 * 0.7, rel=0.25)
    assert share(right, tint) == 0
    from pycocotools import mask as coco

    masks = [coco.encode(np.asfortranarray(mask)) for mask in annotated.masks(0)]
    _, right = halves(detections_sheet(annotated, found(annotated, segments=masks), [0], 0.5))
    assert share(right, tint) == pytest.approx(share(left, tint), rel=0.1)


def test_boxes_that_reach_beyond_the_image_stay_within_their_panel(annotated):
    wide = found(annotated)
    wide.boxes = np.array([[-500, -500, 900, 900], [0, 0, 1, 1]], np.float32)
    outside = pixels(detections_sheet(annotated, wide, [0], 0.5))
    edge = np.concatenate([outside[:3].reshape(-1, 3), outside[-3:].reshape(-1, 3)])
    assert (edge == 255).all()


def test_keypoints_are_drawn_where_they_lie(annotated):
    points = np.array([[[20, 30, 2]], [[60, 40, 0]]], np.float32)
    annotated.keypoints, annotated.segments = points, None
    with_points = halves(detections_sheet(annotated, found(annotated), [0], 0.5))
    annotated.keypoints = None
    without = halves(detections_sheet(annotated, found(annotated), [0], 0.5))
    assert np.array_equal(with_points[1], without[1])
    rows, columns = np.nonzero(np.abs(with_points[0] - without[0]).max(axis=2) > 20)
    height, width = with_points[0].shape[:2]
    assert columns.mean() / width == pytest.approx(20 / 80, abs=0.03)  # and none at the one that is not there
    assert np.ptp(columns) < width / 10
    assert 0 < rows.mean() < height


def test_label_maps_are_laid_over_the_image_and_void_is_gray(annotated):
    guess = np.zeros((60, 80), np.uint8)
    guess[20:40, 10:30] = 2
    left, right = halves(label_maps_sheet(annotated, [guess], [0]))
    tints = [160 * 0.4 + 0.6 * color for color in (BLUE, ORANGE)]
    assert [share(left, tint) > 0.02 for tint in tints] == [True, False]
    assert [share(right, tint) > 0.02 for tint in tints] == [False, True]
    void = 160 * 0.25 + 0.75 * np.rint(np.array(to_rgb("#e3e8ec")) * 255)
    assert share(left, void) > 0.02
    assert share(right, void) < 0.005  # letters and frames have such grays too


def test_numbers_of_a_label_map_are_translated_where_the_set_says_so(annotated):
    table = np.full(256, 255, np.uint8)
    table[[0, 1]] = 0, 2
    annotated.label_of_pixel = table
    left, _ = halves(label_maps_sheet(annotated, [np.zeros((60, 80), np.uint8)], [0]))
    assert share(left, 160 * 0.4 + 0.6 * ORANGE) > 0.02


def test_small_images_stand_two_pairs_a_row_and_large_ones_one(annotated, tmp_path):
    small = pixels(detections_sheet(annotated, found(annotated), [0, 0], 0.5))
    cv2.imwrite(str(annotated.paths[1]), np.full((480, 640, 3), 160, np.uint8))
    annotated.sizes[1] = 480, 640
    large = pixels(detections_sheet(annotated, found(annotated), [0, 1], 0.5))
    assert small.shape[1] == large.shape[1]
    assert large.shape[0] > 3 * small.shape[0]


def test_an_image_that_cannot_be_read_is_named_in_one_line(annotated):
    annotated.paths[1].unlink()
    with pytest.raises(MocoError, match=r"1\.png: cannot be read .*; restore it") as caught:
        detections_sheet(annotated, found(annotated), [1], 0.5)
    assert "\n" not in str(caught.value)
    annotated.label_maps[0].write_bytes(b"none")
    with pytest.raises(MocoError, match=r"map0\.png: cannot be read as a label map"):
        label_maps_sheet(annotated, [np.zeros((60, 80), np.uint8)], [0])
