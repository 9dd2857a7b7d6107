"""COCO's and LVIS's JSON files: columns, masks, keypoints, federated lists, and damage."""

import gc
import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from moco.errors import MocoError
from moco.transfer.data.coco import read_coco, read_lvis
from moco.transfer.data.problems import Checks
from moco.transfer.data.segments import encode
from moco.transfer.data.trainable import trainable

LENIENT = Checks(max_bad_fraction=1.0)
PIXELS = np.zeros((48, 64), bool)
PIXELS[10:20, 30:50] = True
PIXELS[12:15, 35:40] = False

INSTANCES = {
    "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
    "licenses": [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "BY-NC-SA"}],
    "images": [
        {
            "license": 1,
            "file_name": f"{number:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/val2017/{number:012d}.jpg",
            "height": 48,
            "width": 64,
            "date_captured": "2013-11-14 17:02:52",
            "id": number,
        }
        for number in (397133, 37777, 252219)
    ],
    "annotations": [
        {
            "segmentation": [[3.5, 4.25, 20.0, 4.0, 20.5, 30.0, 4.0, 30.75], [40, 40, 45, 40, 45, 44]],
            "area": 437.5,
            "iscrowd": 0,
            "image_id": 252219,
            "bbox": [3.5, 4, 41.5, 40],
            "category_id": 44,
            "id": 82445,
        },
        {
            "segmentation": {"counts": [480, 10, 38, 10, 2534], "size": [48, 64]},
            "area": 20,
            "iscrowd": 1,
            "image_id": 397133,
            "bbox": [10, 0, 2, 10],
            "category_id": 1,
            "id": 900100397133,
        },
        {
            "segmentation": encode(PIXELS),
            "area": 185,
            "iscrowd": 0,
            "image_id": 252219,
            "bbox": [30, 10, 20, 10],
            "category_id": 90,
            "id": 7,
        },
    ],
    "categories": [
        {"supercategory": "indoor", "id": 90, "name": "toothbrush"},
        {"supercategory": "person", "id": 1, "name": "person"},
        {"supercategory": "kitchen", "id": 44, "name": "bottle"},
    ],
}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "val2017"
    folder.mkdir()
    for image in INSTANCES["images"]:
        Image.new("RGB", (64, 48)).save(folder / image["file_name"])
    return folder


@pytest.fixture
def content():
    return deepcopy(INSTANCES)


def write(folder: Path, content, name: str = "instances_val2017.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_annotations_become_columns_by_image_with_labels_in_the_order_of_category_ids(tmp_path, images, content):
    path = write(tmp_path, content)
    found = read_coco(path, images)
    assert found.name == "instances_val2017"
    assert found.ids == [397133, 37777, 252219]
    assert found.paths[1] == images / "000000037777.jpg"
    assert found.sizes.tolist() == [[48, 64]] * 3
    assert found.category_ids == [1, 44, 90]
    assert found.classes == ["person", "bottle", "toothbrush"]
    assert found.first.tolist() == [0, 1, 1, 3]
    assert found.annotation_ids.tolist() == [900100397133, 82445, 7]
    assert found.labels.tolist() == [0, 1, 2]
    assert found.boxes.tolist() == [[10, 0, 12, 10], [3.5, 4, 45, 44], [30, 10, 50, 20]]
    assert found.areas.tolist() == [20, 437.5, 185]
    assert found.ignored.tolist() == [True, False, False]
    assert found.keypoints is None
    assert found.federated is None
    assert not found.problems


def test_masks_are_those_of_pycocotools(tmp_path, images, content):
    path = write(tmp_path, content)
    found, official = read_coco(path, images), COCO(str(path))
    for n in range(3):
        rows = found.instances(n)
        for mask, number in zip(found.masks(n), found.annotation_ids[rows].tolist(), strict=True):
            assert np.array_equal(mask, official.annToMask(official.anns[number]))
    assert np.array_equal(found.masks(2)[1], PIXELS)


def test_segments_can_be_left_unread(tmp_path, images, content):
    content["annotations"][0]["segmentation"] = []
    found = read_coco(write(tmp_path, content), images, masks=False)
    assert found.segments is None
    assert len(found.boxes) == 3


@pytest.mark.parametrize("empty", [[], None])
def test_a_file_of_boxes_alone_has_no_segments(tmp_path, images, content, empty):
    for entry in content["annotations"]:
        entry["segmentation"] = empty
    found = read_coco(write(tmp_path, content), images)
    assert found.segments is None
    assert not found.problems


def test_an_area_that_is_not_stated_is_the_segments_or_else_the_boxs(tmp_path, images, content):
    for entry in content["annotations"]:
        del entry["area"]
    path = write(tmp_path, content)
    found = read_coco(path, images)
    assert found.areas.tolist() == [found.masks(0)[0].sum(), *found.masks(2).sum(axis=(1, 2))]
    assert read_coco(path, images, masks=False).areas.tolist() == [20, 41.5 * 40, 200]


def test_file_names_may_have_folders(tmp_path, images, content):
    for image in content["images"]:
        image["file_name"] = f"val2017/{image['file_name']}"
    assert read_coco(write(tmp_path, content), tmp_path).paths[0] == images / "000000397133.jpg"


NAMES = (
    "a\nb.jpg",
    "a\rb\t.jpg",
    "-dash 100%25?#*.jpg",
    "q'`; x.jpg",
    "\U0001f600\u202eabc.jpg",
    "x" * 240 + ".jpg",
    "\udce9.jpg",
)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_files_and_classes_of_any_name_are_read_and_found(tmp_path, images, content, name):
    (images / "000000397133.jpg").rename(images / name)
    content["images"][0]["file_name"] = content["categories"][0]["name"] = name
    found = read_coco(write(tmp_path, content), images)
    assert found.paths[0] == images / name and found.paths[0].is_file()
    assert name in found.classes


IDS = {"whole": [3, 2**70, 0], "texts": ["b", "a", "0"], "decimals": [2.5, 0.5, 1.0], "mixed": ["z", 2, 0.5]}


@pytest.mark.parametrize("kind", IDS)
def test_ids_are_of_any_kind_that_json_has_and_are_kept(tmp_path, images, content, kind):
    ids = IDS[kind]
    for key, entries in content.items():
        if key in ("images", "categories", "annotations"):
            for entry, name in zip(entries, ids, strict=True):
                entry["id"] = name
    for entry, image, category in zip(content["annotations"], [2, 0, 2], [2, 1, 0], strict=True):
        entry |= {"image_id": ids[image], "category_id": ids[category]}
    found = read_coco(write(tmp_path, content), images)
    assert found.ids == ids
    assert found.category_ids == ([0.5, 2, "z"] if kind == "mixed" else sorted(ids))
    assert found.annotation_ids.tolist() == [ids[1], ids[0], ids[2]]
    assert [found.category_ids[label] for label in found.labels] == [ids[1], ids[2], ids[0]]
    assert not found.problems


@pytest.mark.parametrize(("part", "said"), [("images", "an image has the id None"), ("categories", "a category has")])
def test_an_id_that_is_neither_number_nor_text_is_refused(tmp_path, images, content, part, said):
    content[part][0]["id"] = None
    with pytest.raises(MocoError, match=rf"{said}.*give it a number or a text"):
        read_coco(write(tmp_path, content), images)


def test_boxes_keep_their_digits_and_their_place_beyond_the_image(tmp_path, images, content):
    content["annotations"][0]["bbox"] = [-20.1, 4, 100.7, 0]
    found = read_coco(write(tmp_path, content), images, checks=LENIENT)
    assert found.stated[1].tolist() == [-20.1, 4, 100.7, 0]
    assert found.boxes[1] == pytest.approx([-20.1, 4, 80.6, 4])


def test_of_a_repeated_id_the_last_object_counts_each_time_and_is_trained_on_once(tmp_path, images, content):
    content["annotations"][0]["id"] = 7
    path = write(tmp_path, content)
    found = read_coco(path, images, checks=LENIENT)
    assert found.annotation_ids.tolist() == [900100397133, 7, 7]
    assert found.boxes[1:].tolist() == [[30, 10, 50, 20]] * 2  # as pycocotools' loadAnns gives them
    assert trainable(found).annotation_ids.tolist() == [7]
    assert "annotation 7 (toothbrush): 30, 10, 50, 20 in 64 x 48: its id is repeated" in found.problems[0].reason
    assert len(found.problems) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 2}, "annotation 82445: category 2 is not listed"),
        ({"image_id": 5}, "annotation 82445: image 5 is not listed"),
        ({"image_id": [1]}, "annotation 82445: image [1] is not listed"),
        ({"image_id": "37777"}, "annotation 82445: image '37777' is not listed, 37777 is; write both alike"),
        ({"bbox": [1, 2, 3]}, "annotation 82445: its bbox is [1, 2, 3], not four finite numbers; correct"),
        ({"bbox": [1, 2, 3, None]}, "not four finite numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "not four finite numbers"),
        ({"area": "5"}, "annotation 82445: its area is '5'; write square pixels"),
        ({"iscrowd": "maybe"}, "annotation 82445: its iscrowd is 'maybe'; write 0 or 1"),
        ({"id": None}, "an annotation's id is None; give it a number or a text"),
        ({"id": [1]}, "an annotation's id is [1]"),
    ],
)
def test_an_annotation_of_no_use_is_left_out_and_listed(tmp_path, images, content, change, reason):
    content["annotations"][0].update(change)
    path = write(tmp_path, content)
    found = read_coco(path, images, checks=LENIENT)
    assert len(found.boxes) == 2
    assert len(found.segments) == 2
    assert [len(found.masks(n)) for n in range(3)] == np.diff(found.first).tolist()
    assert len(found.problems) == 1
    assert reason in found.problems[0].reason
    assert found.problems[0].path == str(path if "image_id" in change else images / "000000252219.jpg")
    with pytest.raises(MocoError, match=r"instances_val2017: 1 of 3 annotations \(33.3%\)"):
        read_coco(path, images)


@pytest.mark.parametrize(("value", "ignored"), [("0", False), ("1", True), ("", False), ("True", True), (None, False)])
def test_a_crowd_that_is_stated_as_a_text_counts_as_the_number_would(tmp_path, images, content, value, ignored):
    content["annotations"][0]["iscrowd"] = value
    found = read_coco(write(tmp_path, content), images, checks=LENIENT)
    assert found.ignored[found.annotation_ids == 82445].tolist() == [ignored]
    assert not found.problems


def test_an_annotation_that_is_no_object_is_listed(tmp_path, images, content):
    content["annotations"].append("text")
    found = read_coco(write(tmp_path, content), images, checks=LENIENT)
    assert len(found.boxes) == 3
    assert found.problems[0].reason == "an annotation is 'text'"


def test_a_polygon_of_two_points_goes_and_its_annotation_stays(tmp_path, images, content):
    content["annotations"][0]["segmentation"].append([1, 2, 3, 4])
    found = read_coco(write(tmp_path, content), images, checks=LENIENT)
    assert len(found.segments[1]) == 2
    assert found.problems[0].reason == (
        "annotation 82445: 1 of its 3 polygons left out: [1, 2, 3, 4] is not of three or more corners; correct its corners"
    )


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "annotation 82445: has no segmentation, as others have"),
        ([[1, 2, 3, 4]], "annotation 82445: 1 of its 1 polygons"),
        ({"size": [64, 48], "counts": [3072]}, "its RLE is of size [64, 48], not [48, 64]"),
    ],
)
def test_an_object_without_a_usable_segment_counts_with_its_box_and_is_not_trained_on(
    tmp_path, images, content, segmentation, reason
):
    content["annotations"][0]["segmentation"] = segmentation
    path = write(tmp_path, content)
    found = read_coco(path, images, checks=LENIENT)
    assert found.annotation_ids.tolist() == [900100397133, 82445, 7]
    assert found.segments[1] == [] and not found.masks(2)[0].any()
    assert trainable(found, masks=True).annotation_ids.tolist() == [7]
    assert len(found.problems) == 1 and reason in found.problems[0].reason
    with pytest.raises(MocoError, match=r"1 of 3 annotations \(33.3%\)"):
        read_coco(path, images)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: "{", "cannot be read as JSON"),
        (lambda content: [], "no list 'images'"),
        (lambda content: content.pop("annotations") and content, "no list 'annotations'"),
        (lambda content: content["images"][0].pop("width") and content, r"each needs id, file_name, height, width"),
        (lambda content: content["categories"][0].pop("name") and content, "a category without an id or a name"),
        (lambda content: content["categories"].append(content["categories"][0]) or content, "the same id"),
    ],
)
def test_a_file_in_another_format_is_named_with_what_is_expected(tmp_path, images, content, damage, message):
    path = write(tmp_path, damage(content))
    with pytest.raises(MocoError, match=rf"instances_val2017\.json: .*{message}"):
        read_coco(path, images)


def test_a_missing_file_or_folder_is_named_with_its_source(tmp_path, images, content):
    with pytest.raises(MocoError, match=r"none\.json: no such file; annotations_trainval2017\.zip from http"):
        read_coco(tmp_path / "none.json", images)
    with pytest.raises(MocoError, match="nowhere: no such folder"):
        read_coco(write(tmp_path, content), tmp_path / "nowhere")


NAMES = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]


@pytest.fixture
def persons(content):
    points = [12, 8, 2, 14, 6, 1, 0, 0, 0, 0, 0, 0, 9, 7, 2]
    content["categories"] = [
        {"supercategory": "person", "id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [2, 4]]}
    ]
    for entry, given in zip(content["annotations"], (points, [0] * 15, [0] * 15), strict=True):
        entry.update(category_id=1, keypoints=given, num_keypoints=sum(v > 0 for v in given[2::3]))
    content["annotations"].append({**content["annotations"][2], "id": 8, "image_id": 37777})
    return content


def test_keypoints_come_with_names_and_the_pairs_that_a_mirror_swaps(tmp_path, images, persons):
    found = read_coco(write(tmp_path, persons, "person_keypoints_val2017.json"), images)
    assert found.keypoint_names == NAMES
    assert sorted(found.flip_pairs) == [(1, 2), (3, 4)]
    assert found.keypoints.shape == (4, 5, 3)
    row = found.annotation_ids.tolist().index(82445)
    assert found.keypoints[row].tolist() == [[12, 8, 2], [14, 6, 1], [0, 0, 0], [0, 0, 0], [9, 7, 2]]
    assert not np.delete(found.keypoints, row, axis=0).any()


def test_a_person_without_keypoints_has_unlabelled_ones(tmp_path, images, persons):
    del persons["annotations"][2]["keypoints"]
    found = read_coco(write(tmp_path, persons), images)
    assert len(found.boxes) == 4
    assert not found.keypoints[found.annotation_ids == 7].any()


def test_a_stated_number_of_keypoints_is_kept_and_others_are_counted(tmp_path, images, persons):
    persons["annotations"][0]["num_keypoints"] = 0
    persons["annotations"][1]["num_keypoints"] = 4
    del persons["annotations"][2]["num_keypoints"]
    persons["annotations"][3]["num_keypoints"] = "3"
    found = read_coco(write(tmp_path, persons), images, checks=LENIENT)
    assert dict(zip(found.annotation_ids.tolist(), found.num_keypoints.tolist(), strict=True)) == {
        900100397133: 4,
        82445: 0,
        7: 0,
    }
    assert found.problems[0].reason.startswith("annotation 8: its num_keypoints is '3'; write a whole number")


def test_keypoints_of_another_number_are_listed(tmp_path, images, persons):
    persons["annotations"][0]["keypoints"] = [1, 2, 2]
    found = read_coco(write(tmp_path, persons), images, checks=LENIENT)
    assert len(found.keypoints) == 3
    assert found.problems[0].reason == "annotation 82445: its keypoints are not 5 times x, y and visibility"


@pytest.fixture
def lvis(content):
    for number, image in enumerate(content["images"]):
        del image["file_name"]
        image["neg_category_ids"] = [[44], [], [1]][number]
        image["not_exhaustive_category_ids"] = [[], [90, 1], []][number]
    for category, frequency in zip(content["categories"], "rfc", strict=True):
        category.update(frequency=frequency, synset=f"{category['name']}.n.01", instance_count=3, image_count=2)
    for entry in content["annotations"]:
        del entry["iscrowd"]
    content["annotations"][1]["segmentation"] = [[10, 0, 12, 0, 12, 10, 10, 10]]
    return content


def test_lvis_has_frequencies_by_class_and_its_lists_as_labels(tmp_path, images, lvis):
    found = read_lvis(write(tmp_path, lvis, "lvis_v1_val.json"), tmp_path)
    assert found.classes == ["person", "bottle", "toothbrush"]
    assert found.federated.frequency == ["f", "c", "r"]
    assert found.federated.negative == [[1], [], [0]]
    assert found.federated.not_exhaustive == [[], [2, 0], []]
    assert not found.ignored.any()
    assert len(found.masks(2)) == 2


def test_lvis_images_lie_in_their_coco_folder_or_alone(tmp_path, images, lvis):
    path = write(tmp_path, lvis, "lvis_v1_val.json")
    expected = [images / f"{number:012d}.jpg" for number in (397133, 37777, 252219)]
    assert read_lvis(path, tmp_path).paths == expected
    assert read_lvis(path, images).paths == expected


def test_lvis_lists_follow_their_images_when_one_is_missing(tmp_path, images, lvis):
    (images / "000000397133.jpg").unlink()
    found = read_lvis(write(tmp_path, lvis), tmp_path, checks=LENIENT)
    assert found.federated.negative == [[], [0]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content["images"][1].pop("neg_category_ids"), "'neg_category_ids'"),
        (lambda content: content["images"][1].update(not_exhaustive_category_ids=[3]), "3"),
        (lambda content: content["categories"][1].pop("frequency"), "'frequency'"),
    ],
)
def test_a_file_without_lviss_lists_is_refused_by_name(tmp_path, images, lvis, damage, message):
    damage(lvis)
    with pytest.raises(MocoError, match=rf"lvis\.json: {message} is missing or unknown; .*lvisdataset\.org"):
        read_lvis(write(tmp_path, lvis, "lvis.json"), images)


def test_annotations_of_an_image_keep_the_files_order(tmp_path, images, content):
    first, _, last = content["images"]
    content["annotations"] = [
        {**INSTANCES["annotations"][2], "id": number, "image_id": (last if number % 2 else first)["id"]}
        for number in range(1, 101)
    ]
    found = read_coco(write(tmp_path, content), images)
    assert found.annotation_ids.tolist() == [*range(2, 101, 2), *range(1, 101, 2)]


def test_of_two_images_with_one_id_the_first_keeps_the_annotations(tmp_path, images, content):
    content["images"][1]["id"] = 252219
    content["images"].reverse()
    found = read_coco(write(tmp_path, content), images, checks=LENIENT)
    assert found.paths == [images / "000000252219.jpg", images / "000000397133.jpg"]
    assert found.annotation_ids.tolist() == [82445, 7, 900100397133]
    assert [problem.reason for problem in found.problems] == ["image id 252219 is listed twice"]


def test_reading_leaves_the_garbage_collector_on(tmp_path, images, content):
    read_coco(write(tmp_path, content), images)
    with pytest.raises(MocoError):
        read_coco(tmp_path / "none.json", images)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("json_file", "folder", "name"),
    [
        ("train/_annotations.coco.json", "train", "{}"),  # Roboflow
        ("annotations/instances_default.json", "images", "{}"),  # CVAT
        ("result.json", ".", "images/{}"),  # Label Studio
    ],
)
def test_images_are_found_where_roboflow_cvat_and_label_studio_export_them(
    tmp_path, images, content, json_file, folder, name, capsys
):
    root = tmp_path / "export"
    for image in content["images"]:
        image["file_name"] = name.format(image["file_name"])
        target = root / folder / image["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((images / Path(image["file_name"]).name).read_bytes())
    (root / json_file).parent.mkdir(exist_ok=True)
    (root / json_file).write_text(json.dumps(content))
    found = read_coco(root / json_file, root)
    assert found.paths == [root / folder / image["file_name"] for image in content["images"]]
    assert (f"those in {root / folder} are taken" in capsys.readouterr().out) == (folder != ".")


def test_a_folder_that_lacks_only_the_first_image_is_not_exchanged_for_another(tmp_path, images, content, capsys):
    beside = images.parent / "images" if images.name != "images" else images / "images"
    beside.mkdir()
    first, second = (content["images"][n]["file_name"] for n in range(2))
    (images / first).rename(beside / first)
    (beside / second).write_bytes(b"another image")
    path = beside.parent / "instances.json"
    path.write_text(json.dumps(content))
    assert {found.parent for found in read_coco(path, images, checks=LENIENT).paths} == {images}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("other", "whose"),
    [
        ([{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], r"Label Studio's own JSON; export it as COCO"),
        ([{"image": "a.jpg", "annotations": []}], "Create ML's JSON"),
        ({"version": "5.0", "shapes": [], "imagePath": "a.jpg"}, "labelme's JSON of one image"),
        ({"a.jpg123": {"filename": "a.jpg", "regions": []}}, "VIA's JSON"),
    ],
)
def test_json_of_another_program_is_refused_by_its_name(tmp_path, images, other, whose):
    with pytest.raises(MocoError, match=rf"no list 'images' \(this looks like {whose}\)"):
        read_coco(write(tmp_path, other), images)


def test_two_categories_of_one_name_are_refused_if_both_have_annotations(tmp_path, images, content):
    used = content["annotations"][0]["category_id"]
    name = next(category["name"] for category in content["categories"] if category["id"] == used)
    content["categories"].append({"id": 999, "name": name})
    assert read_coco(write(tmp_path, content), images).classes.count(name) == 2
    content["annotations"].append({**content["annotations"][0], "id": 12345, "category_id": 999})
    with pytest.raises(MocoError, match=rf"categories {used} and 999 are both {name!r}; give each its own name"):
        read_coco(write(tmp_path, content), images)
