"""Bad parts of a set: their lines, what is left out or cut, and when a set is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Problem, set_of_label_maps
from moco.transfer.data.loader import read_pixels
from moco.transfer.data.problems import Checks, checked, headers
from moco.transfer.data.trainable import trainable

LENIENT = Checks(max_bad_fraction=1.0)


def a_set(folder: Path, boxes: list[list[float]], images: int = 1, **given) -> AnnotatedSet:
    """Images of 20 x 10 pixels, all boxes in the first."""
    for n in range(images):
        Image.new("RGB", (20, 10)).save(folder / f"{n}.png")
    columns = np.array(boxes, np.float32).reshape(-1, 4)
    found = AnnotatedSet(
        name="a set",
        classes=["cat"],
        ids=list(range(images)),
        paths=[folder / f"{n}.png" for n in range(images)],
        sizes=np.array([[10, 20]] * images, np.int32),
        first=np.array([0] + [len(boxes)] * images),
        boxes=columns,
        labels=np.zeros(len(boxes), np.int64),
        areas=(columns[:, 2:] - columns[:, :2]).prod(axis=1),
        ignored=np.zeros(len(boxes), bool),
        annotation_ids=np.arange(len(boxes)),
    )
    return replace(found, **given)


def reasons(found: AnnotatedSet) -> list[str]:
    return [problem.reason for problem in found.problems]


def test_a_good_set_is_left_as_it_is(tmp_path):
    found = a_set(tmp_path, [[0, 0, 20, 10], [19, 9, 20, 10]])
    assert checked(found, [], Checks()).boxes is found.boxes
    assert not checked(found, [], Checks()).problems


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([3, 3, 3, 8], "3, 3, 3, 8 in 20 x 10: its box has no area"),
        ([9, 3, 3, 8], "has no area"),
        ([20, 0, 25, 8], "lies outside"),
        ([0, -5, 9, 0], "lies outside"),
    ],
)
def test_a_box_without_a_place_in_its_image_stays_for_metrics_and_is_listed_and_not_trained_on(tmp_path, box, reason):
    given = a_set(tmp_path, [[1, 1, 5, 5], box, [2, 2, 6, 6]])
    found = checked(given, [], LENIENT)
    assert found.boxes[1].tolist() == box
    assert trainable(found).annotation_ids.tolist() == [0, 2]
    assert len(found.problems) == 1
    assert found.problems[0].path == str(tmp_path / "0.png")
    assert reasons(found)[0].startswith("annotation 1 (cat): ")
    assert reason in reasons(found)[0]
    assert not checked(given, [], Checks(tested=True)).problems


@pytest.mark.parametrize("box", [[float("nan"), 0, 9, 9], [0, 0, float("inf"), 9]])
def test_a_box_that_is_not_finite_is_left_out_and_listed(tmp_path, box):
    found = checked(a_set(tmp_path, [[1, 1, 5, 5], box]), [], Checks(max_bad_fraction=0.5, tested=True))
    assert found.annotation_ids.tolist() == [0]
    assert "is not finite" in reasons(found)[0]


def test_a_box_that_reaches_past_its_image_is_whole_for_metrics_and_cut_for_training(tmp_path):
    found = checked(a_set(tmp_path, [[-4, 2, 30, 8]]), [], LENIENT)
    assert found.boxes.tolist() == [[-4, 2, 30, 8]]
    assert found.areas.tolist() == [34 * 6]
    assert trainable(found).boxes.tolist() == [[0, 2, 20, 8]]
    assert "-4, 2, 30, 8 in 20 x 10: its box reaches past the image and is cut there for training" in reasons(found)[0]


def test_a_box_that_reaches_past_by_rounding_is_left_for_the_metric_as_it_is(tmp_path):
    found = checked(a_set(tmp_path, [[-1, 0, 20.5, 11]]), [], Checks())
    assert trainable(found).boxes.tolist() == [[-1, 0, 20.5, 11]]
    assert not found.problems


def test_an_annotation_whose_id_is_repeated_is_trained_on_once(tmp_path):
    found = a_set(tmp_path, [[1, 1, 5, 5], [2, 2, 6, 6]], annotation_ids=np.array([7, 7]))
    found = checked(found, [], LENIENT)
    assert trainable(found).boxes.tolist() == [[1, 1, 5, 5]]
    assert len(found.boxes) == 2
    assert "annotation 7 (cat): 2, 2, 6, 6 in 20 x 10: its id is repeated" in reasons(found)[0]


def test_a_missing_image_goes_with_its_annotations_as_one_line(tmp_path):
    found = a_set(tmp_path, [[1, 1, 5, 5], [2, 2, 6, 6]], images=2)
    found.paths[0].unlink()
    found = checked(found, [], LENIENT)
    assert found.ids == [1]
    assert len(found.boxes) == 0
    assert found.problems == [Problem(str(tmp_path / "0.png"), "no such image", "image")]


def test_images_in_a_folder_that_does_not_exist_are_missing(tmp_path):
    found = a_set(tmp_path, [], images=2)
    found.paths[0] = tmp_path / "none" / "0.png"
    assert checked(found, [], LENIENT).ids == [1]


def test_an_image_of_another_size_than_stated_is_left_out(tmp_path):
    found = a_set(tmp_path, [], images=2)
    Image.new("RGB", (10, 20)).save(found.paths[1])  # turned
    left = checked(found, [], LENIENT)
    assert left.ids == [0]
    assert reasons(left) == ["is 10 x 20 pixels, its annotation says 20 x 10"]


def test_an_unstated_size_is_taken_from_the_file(tmp_path):
    found = a_set(tmp_path, [], sizes=np.zeros((1, 2), np.int32))
    assert checked(found, [], LENIENT).sizes.tolist() == [[10, 20]]


def test_an_image_that_cannot_be_opened_is_left_out(tmp_path):
    found = a_set(tmp_path, [], images=2)
    found.paths[0].write_bytes(b"\x89PNG broken")
    left = checked(found, [], LENIENT)
    assert left.ids == [1]
    assert reasons(left) == ["cannot be read (UnidentifiedImageError)"]


def test_of_two_images_with_one_id_the_second_is_left_out(tmp_path):
    found = a_set(tmp_path, [], images=2, ids=[5, 5])
    left = checked(found, [], LENIENT)
    assert left.paths == [tmp_path / "0.png"]
    assert reasons(left) == ["image id 5 is listed twice"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "no such label map"),
        (lambda path: Image.new("P", (9, 9)).save(path), "is 9 x 9 pixels, its image 20 x 10"),
        (lambda path: Image.new("RGB", (20, 10)).save(path), "mode RGB"),
        (lambda path: path.write_bytes(b"no"), "cannot be read"),
    ],
)
def test_an_image_whose_label_map_is_of_no_use_is_left_out(tmp_path, damage, reason):
    for name in "ab":
        Image.new("RGB", (20, 10)).save(tmp_path / f"{name}.jpg")
        Image.new("P", (20, 10)).save(tmp_path / f"{name}.png")
    damage(tmp_path / "b.png")
    found = set_of_label_maps(
        name="maps",
        ids=["a", "b"],
        paths=[tmp_path / "a.jpg", tmp_path / "b.jpg"],
        label_maps=[tmp_path / "a.png", tmp_path / "b.png"],
        semantic_classes=["background"],
    )
    left = checked(found, [], LENIENT)
    assert left.ids == ["a"]
    assert left.label_maps == [tmp_path / "a.png"]
    assert left.problems[0].path == str(tmp_path / "b.png")
    assert reason in reasons(left)[0]


def test_the_quarantine_lists_what_the_reader_and_the_checks_found_a_line_each(tmp_path):
    quarantine = tmp_path / "lists" / "quarantine.jsonl"
    read = [Problem("z.json", "annotation 5: category 9 is not listed", "annotation")]
    found = a_set(tmp_path, [[1, 1, 5, 5], [3, 3, 3, 3]])
    left = checked(found, read, Checks(max_bad_fraction=1, quarantine=quarantine))
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert lines == [{"path": problem.path, "reason": problem.reason} for problem in left.problems]
    assert [line["path"] for line in lines] == [str(tmp_path / "0.png"), "z.json"]


def test_a_set_is_refused_only_above_the_fraction_and_the_quarantine_is_written_all_the_same(tmp_path):
    quarantine = tmp_path / "quarantine.jsonl"
    found = a_set(tmp_path, [[1, 1, 5, 5]] * 3 + [[3, 3, 3, 3]])
    assert len(checked(found, [], Checks(max_bad_fraction=0.25)).boxes) == 4
    with pytest.raises(MocoError) as raised:
        checked(found, [], Checks(max_bad_fraction=0.24, quarantine=quarantine))
    text = str(raised.value)
    assert text.startswith("a set: 1 of 4 annotations (25.0%) are bad, more than max_bad_fraction = 0.24: ")
    assert f"{tmp_path / '0.png'}: annotation 3 (cat): 3, 3, 3, 3 in 20 x 10: its box has no area" in text
    assert str(quarantine) in text
    assert "raise max_bad_fraction" in text
    assert "\n" not in text
    assert len(quarantine.read_text().splitlines()) == 1


def test_what_the_reader_left_out_counts_in_both_numbers(tmp_path):
    read = [Problem("a.json", "annotation 1: image 8 is not listed", "annotation")]
    found = a_set(tmp_path, [[1, 1, 5, 5]] * 3)
    assert len(checked(found, read, Checks(max_bad_fraction=0.25)).boxes) == 3
    with pytest.raises(MocoError, match="1 of 4 annotations"):
        checked(found, read, Checks(max_bad_fraction=0.24))


def test_bad_images_are_counted_among_images(tmp_path):
    found = a_set(tmp_path, [[1, 1, 5, 5]] * 100, images=4)
    found.paths[3].unlink()
    with pytest.raises(MocoError, match=r"1 of 4 images \(25.0%\) are bad"):
        checked(found, [], Checks(max_bad_fraction=0.2))


def test_a_set_of_which_nothing_is_left_is_refused(tmp_path):
    with pytest.raises(MocoError, match="a set: no image"):
        checked(a_set(tmp_path, [], images=0, sizes=np.zeros((0, 2), np.int32)), [], LENIENT)


def claiming(path: Path, width: int, height: int) -> Path:
    """A small JPEG whose header claims other sides."""
    Image.new("RGB", (8, 8)).save(path, "JPEG")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2) + width.to_bytes(2)
    path.write_bytes(data)
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_may_be_as_large_as_decoding_allows(tmp_path):
    large, vast = claiming(tmp_path / "a.jpg", 15_000, 13_000), claiming(tmp_path / "b.jpg", 15_000, 15_908)
    found, refused = headers([large, vast])
    assert (found.width, found.height) == (15_000, 13_000)
    assert refused.startswith("15000 x 15908 pixels, more than the 239 million that a JPEG may have")


def test_headers_keep_the_order_of_many_files(tmp_path):
    for width in range(1, 301):
        Image.new("L", (width, 2)).save(tmp_path / f"{width}.bmp")
    paths = [tmp_path / f"{width}.bmp" for width in range(1, 301)]
    assert [header.width for header in headers(paths)] == list(range(1, 301))


def with_orientation(folder: Path, orientation: int, stated: tuple[int, int], stored=(20, 10)) -> AnnotatedSet:
    """Make one image whose left half is white as stored; its annotation states a size."""
    picture = np.zeros((*stored[::-1], 3), np.uint8)
    picture[:, : stored[0] // 2] = 255
    exif = Image.Exif()
    exif[0x112] = orientation
    found = a_set(folder, [[1, 1, 5, 5]], sizes=np.array([stated], np.int32))
    Image.fromarray(picture).save(folder / "0.png", exif=exif)
    return found


@pytest.mark.parametrize(("orientation", "top"), [(5, True), (6, True), (7, False), (8, False)])
def test_an_image_that_was_annotated_as_turned_is_read_so_and_one_annotated_as_stored_is_too(
    tmp_path, orientation, top
):
    upright = checked(with_orientation(tmp_path, orientation, (20, 10)), [], Checks())
    image = read_pixels(upright, 0)
    assert image.shape == (20, 10, 3)
    assert image[:10].mean() == (255 if top else 0)
    stored = checked(with_orientation(tmp_path, orientation, (10, 20)), [], Checks())
    assert read_pixels(stored, 0)[:, :10].mean() == 255


@pytest.mark.parametrize(
    ("orientation", "stated", "stored"),
    [
        (2, (10, 20), (20, 10)),
        (3, (10, 20), (20, 10)),
        (4, (10, 20), (20, 10)),
        (6, (12, 12), (12, 12)),
        (6, (0, 0), (20, 10)),
    ],
)
def test_an_orientation_that_nothing_decides_is_refused_by_name(tmp_path, orientation, stated, stored):
    found = with_orientation(tmp_path, orientation, stated, stored)
    with pytest.raises(MocoError, match=rf"0\.png: has EXIF orientation {orientation}, and nothing tells whether"):
        checked(found, [], Checks())


def test_a_wrong_size_of_an_image_with_an_orientation_says_both(tmp_path):
    with pytest.raises(
        MocoError, match=r"is 20 x 10 pixels, its annotation says 11 x 30 \(its EXIF orientation is 6\)"
    ):
        checked(with_orientation(tmp_path, 6, (30, 11)), [], Checks())


@pytest.mark.parametrize(("map_size", "left"), [((10, 20), False), ((20, 10), True)])
def test_a_label_map_tells_in_which_position_its_image_was_annotated(tmp_path, map_size, left):
    picture = with_orientation(tmp_path, 6, (0, 0))
    Image.new("P", map_size).save(tmp_path / "map.png")
    found = set_of_label_maps(
        name="maps", ids=[0], paths=picture.paths, label_maps=[tmp_path / "map.png"], semantic_classes=["a"]
    )
    image = read_pixels(checked(found, [], Checks()), 0)
    assert image.shape[:2] == map_size[::-1]
    assert (image[:, :10].mean() == 255) == left
