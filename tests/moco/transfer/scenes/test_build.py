"""The set of composed scenes: what is in its files, and that both forms say the same."""

import errno
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from drawn_items import CLASSES, drawn_items
from PIL import Image

from moco.config import Fetch
from moco.errors import MocoError
from moco.settings import validate
from moco.sources.source import Arrays
from moco.sources.splits import choose_split
from moco.transfer.data.coco import read_coco
from moco.transfer.data.voc import read_voc, read_voc_segmentation
from moco.transfer.data_config import Scenes
from moco.transfer.scenes import build as scenes
from moco.transfer.scenes.build import build_scenes, scene, split_items
from moco.transfer.scenes.voc_files import VOID

SETTINGS = {
    "train": 12,
    "val": 4,
    "test": 5,
    "side": 96,
    "aspect_min": 0.75,
    "items_min": 2,
    "items_max": 6,
    "item_min": 24,
    "item_max": 60,
    "clutter": 0.5,
    "difficult_below": 0.4,
    "jpeg_quality": 92,
    "val_fraction": 0.3,
    "split_seed": 0,
    "seed": 5,
}
SPLITS = ("train", "val", "test")
TRAIN, TEST = drawn_items(60, seed=1), drawn_items(30, seed=2)
TRAIN[0][7] = TEST[0][3]  # a training image that is in the test set too


@pytest.fixture(scope="module", autouse=True)
def few_items():
    """Sixty training and thirty test items instead of Fashion-MNIST."""
    with pytest.MonkeyPatch.context() as patch:
        source = Arrays(lambda: [(*TRAIN, "train"), (*TEST, "test")], CLASSES)
        patch.setattr(scenes, "open_source", lambda settings: source)
        yield


@pytest.fixture(scope="module")
def built(few_items, tmp_path_factory):
    """Folder, settings and counts of a small set."""
    folder, settings = tmp_path_factory.mktemp("built") / "scenes", Scenes(**SETTINGS)
    return folder, settings, build_scenes(folder, settings)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def composed(settings):
    """Each scene with its split and its items, composed again: what the files must show."""
    items, _ = split_items(settings)
    for split in SPLITS:
        for number in range(getattr(settings, split)):
            yield split, items[split], scene(settings, items[split], split, number)


def voc_objects(voc: Path, image: int) -> list[dict[str, object]]:
    found = []
    for item in ET.parse(voc / f"Annotations/{image:06d}.xml").iter("object"):
        x0, y0, x1, y1 = (int(item.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax"))
        difficult = item.findtext("difficult") == "1"
        found.append({"class": item.findtext("name"), "box": [x0 - 1, y0 - 1, x1, y1], "difficult": difficult})
    return found


def read_labels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def test_the_coco_files_hold_exactly_the_masks_that_were_composed(built):
    from pycocotools.coco import COCO

    folder, settings, _ = built
    files = {split: COCO(str(folder / f"annotations/instances_{split}.json")) for split in SPLITS}
    for image, (split, items, made) in enumerate(composed(settings), start=1):
        found = files[split].loadAnns(files[split].getAnnIds(imgIds=[image]))
        assert len(found) == len(made.chosen)
        assert [entry["category_id"] - 1 for entry in found] == items.labels[made.chosen].tolist()
        for entry, mask, (x0, y0, x1, y1) in zip(found, made.masks, made.boxes, strict=True):
            assert np.array_equal(files[split].annToMask(entry), mask)
            assert entry["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert entry["area"] == mask.sum()


def test_both_forms_of_masks_occur(built):
    folder, _, counts = built
    for split in SPLITS:
        annotations = json.loads((folder / f"annotations/instances_{split}.json").read_text())["annotations"]
        forms = [type(entry["segmentation"]) for entry in annotations]
        assert forms.count(list) == counts[split]["polygons"] > 0
        assert forms.count(dict) == counts[split]["run_lengths"] > 0


def test_the_voc_files_say_the_same_as_the_scenes(built):
    folder, settings, _ = built
    voc = folder / "VOCdevkit/VOC2012"
    difficult_ones = 0
    for image, (_, items, made) in enumerate(composed(settings), start=1):
        labels, difficult = items.labels[made.chosen], made.visible < settings.difficult_below
        found = voc_objects(voc, image)
        assert [entry["class"] for entry in found] == [CLASSES[label] for label in labels]
        assert [entry["box"] for entry in found] == made.boxes.tolist()
        assert [entry["difficult"] for entry in found] == difficult.tolist()
        of_class, of_object = (read_labels(voc / f"Segmentation{kind}/{image:06d}.png") for kind in ("Class", "Object"))
        for number, (mask, label, void) in enumerate(zip(made.masks, labels, difficult, strict=True)):
            assert (of_class[mask] == (VOID if void else label + 1)).all()
            assert np.array_equal(of_object == number + 1, np.zeros_like(mask) if void else mask)
        assert set(of_class[~made.masks.any(axis=0)]) == {0, VOID}
        difficult_ones += int(difficult.sum())
    assert difficult_ones > 0


def test_the_json_has_the_sections_that_tools_expect(built):
    folder, *_ = built
    content = json.loads((folder / "annotations/instances_val.json").read_text())
    assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
    first = content["images"][0]
    assert (first["id"], first["license"], first["file_name"]) == (13, 1, "000013.jpg")
    assert content["licenses"][0]["id"] == 1
    assert content["info"]["description"] == "Scenes of Fashion-MNIST items, val"
    assert content["categories"][1] == {"id": 2, "name": CLASSES[1], "supercategory": "fashion"}
    assert {entry["iscrowd"] for entry in content["annotations"]} == {0}


def test_the_readers_of_both_forms_find_the_same_instances(built):
    folder, *_ = built
    voc, coco_of = folder / "VOCdevkit", {}
    for split in SPLITS:
        coco = read_coco(folder / f"annotations/instances_{split}.json", voc / "VOC2012/JPEGImages")
        boxes = read_voc(voc, [("2012", split)], classes=CLASSES)
        masks = read_voc(voc, [("2012", split)], classes=CLASSES, masks=True)
        for found in (coco, boxes, masks):
            assert not found.problems
            assert found.classes == CLASSES
            assert found.paths == coco.paths
            assert np.array_equal(found.sizes, coco.sizes)
            assert np.array_equal(found.first, coco.first)
            assert np.array_equal(found.boxes, coco.boxes)
            assert np.array_equal(found.labels, coco.labels)
        assert not coco.ignored.any()
        assert np.array_equal(boxes.ignored, masks.ignored)
        for n in range(len(coco)):
            easy = ~boxes.ignored[boxes.instances(n)]
            assert np.array_equal(masks.masks(n)[easy], coco.masks(n)[easy])
        coco_of[split] = len(coco)
    maps = read_voc_segmentation(voc, [("2012", "trainval")], classes=CLASSES)
    assert len(maps) == coco_of["train"] + coco_of["val"]
    assert maps.semantic_classes == ["background", *CLASSES]


def test_the_pictures_show_the_scenes(built):
    folder, settings, _ = built
    for image, (_, _, made) in enumerate(composed(settings), start=1):
        with Image.open(folder / f"VOCdevkit/VOC2012/JPEGImages/{image:06d}.jpg") as file:
            assert np.abs(np.asarray(file, float) - made.image).mean() < 12


def test_no_item_is_in_two_splits(built):
    folder, *_ = built
    shown: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    for line in (folder / "items.csv").read_text().splitlines()[1:]:
        _, _, split, row = line.split(",")
        shown[split].add((TEST if split == "test" else TRAIN)[0][int(row)].tobytes())
    assert all(shown.values())
    assert not shown["train"] & shown["val"]
    assert not (shown["train"] | shown["val"]) & {image.tobytes() for image in TEST[0]}


def test_validation_items_are_those_that_the_fetch_stage_sets_aside():
    import hashlib

    settings = Scenes(**SETTINGS)
    fetch = Fetch(source="fashion-mnist", path="-", labels="none", val_fraction=0.3, test_fraction=0.1, split_seed=0)
    items, classes = split_items(settings)
    sides = [choose_split(hashlib.sha256(image).hexdigest(), "train", fetch) for image in TRAIN[0]]
    for split in ("train", "val"):
        expected = [row for row, side in enumerate(sides) if side == split and row != 7]
        assert items[split].rows.tolist() == expected
        assert np.array_equal(items[split].images, TRAIN[0][expected])
        assert np.array_equal(items[split].labels, TRAIN[1][expected])
    assert items["test"].rows.tolist() == list(range(30))
    assert classes == CLASSES


def test_the_same_settings_give_the_same_bytes_and_another_seed_gives_others(built, tmp_path):
    folder, settings, counts = built
    assert build_scenes(tmp_path / "again", settings) == counts
    assert content(tmp_path / "again") == content(folder)
    build_scenes(tmp_path / "other", settings.model_copy(update={"seed": 6}))
    jpegs = [
        {data for name, data in content(place).items() if name.endswith(".jpg")}
        for place in (folder, tmp_path / "other")
    ]
    assert not jpegs[0] & jpegs[1]


def test_more_scenes_of_a_split_change_none_of_the_others(built, tmp_path):
    folder, settings, _ = built
    build_scenes(tmp_path / "more", settings.model_copy(update={"train": 15}))
    images = [sorted((place / "VOCdevkit/VOC2012/JPEGImages").iterdir()) for place in (folder, tmp_path / "more")]
    few, many = ([path.read_bytes() for path in paths] for paths in images)
    assert many[:12] == few[:12]
    assert many[15:] == few[12:]


def test_the_counts_are_those_of_the_files(built):
    folder, _, counts = built
    rows = [line.split(",") for line in (folder / "items.csv").read_text().splitlines()[1:]]
    first = {"train": 1, "val": 13, "test": 17}
    for split in SPLITS:
        annotations = json.loads((folder / f"annotations/instances_{split}.json").read_text())["annotations"]
        mine = [row for row in rows if row[2] == split]
        assert [[int(row[0]), int(row[1])] for row in mine] == [
            [entry["id"], entry["image_id"]] for entry in annotations
        ]
        objects = [
            entry
            for image in range(first[split], first[split] + SETTINGS[split])
            for entry in voc_objects(folder / "VOCdevkit/VOC2012", image)
        ]
        found = counts[split]
        assert found["scenes"] == SETTINGS[split]
        assert found["instances"] == len(annotations) == len(objects)
        assert found["difficult"] == sum(entry["difficult"] for entry in objects)
        assert found["items"] == len({row[3] for row in mine})


def test_scenes_have_the_sides_asked_for(built):
    _, settings, _ = built
    sizes = [made.image.shape[:2] for *_, made in composed(settings)]
    assert all(max(size) == 96 and 72 <= min(size) <= 96 for size in sizes)
    assert {size[0] < size[1] for size in sizes} == {True, False}
    square = settings.model_copy(update={"aspect_min": 1.0})
    assert {made.image.shape[:2] for *_, made in composed(square)} == {(96, 96)}


def test_a_build_that_breaks_off_leaves_the_earlier_set_in_place(built, tmp_path, monkeypatch):
    _, settings, _ = built
    (tmp_path / "set").mkdir()
    (tmp_path / "set/earlier").touch()

    def full(*values):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scenes.VocFolder, "finish", full)
    with pytest.raises(OSError, match="No space left on device"):
        build_scenes(tmp_path / "set", settings)
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "earlier"]
    monkeypatch.undo()
    build_scenes(tmp_path / "set", settings.model_copy(update={"train": 1, "val": 1, "test": 1}))
    assert not (tmp_path / "set/earlier").exists()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"item_max": 80}, "item_max (80) must not exceed the shortest side, side x aspect_min = 72 pixels"),
        ({"item_min": 61}, "item_min (61) must not exceed item_max (60)"),
        ({"items_min": 7}, "items_min (7) must not exceed items_max (6)"),
        ({"train": 0}, "train = 0: input should be greater than or equal to 1"),
        ({"sides": 96}, "sides is no known key"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_in_one_line(values, line):
    with pytest.raises(MocoError) as caught:
        validate(SETTINGS | values, "scenes", Scenes)
    assert line in str(caught.value)


def test_a_share_that_leaves_a_split_without_items_is_refused():
    with pytest.raises(MocoError, match=r"^scenes\.val_fraction = 1e-06: leaves no items") as caught:
        split_items(Scenes(**SETTINGS | {"val_fraction": 1e-6}))
    assert "\n" not in str(caught.value)
