"""VOC folders: XML, lists and label maps."""

import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
from PIL import Image

from moco.transfer.scenes.composition import Scene
from moco.transfer.scenes.voc_files import VOID, VocFolder, label_maps

CLASSES = ["T-shirt/top", "Cat <small> & dog"]
SIZE = (40, 50)


def masks():
    out = np.zeros((3, *SIZE), bool)
    out[0, 5:15, 5:20] = True
    out[1, 15:25, 8:30] = True  # touches the first
    out[2, 30:40, 40:50] = True  # in the corner
    return out


BOXES = np.array([[5, 5, 20, 15], [8, 15, 30, 25], [40, 30, 50, 40]])
OCCLUDED, TRUNCATED = np.array([True, False, False]), np.array([False, False, True])


def scene(which: slice) -> Scene:
    numbers, image = np.arange(3)[which], np.full((*SIZE, 3), 128, np.uint8)
    return Scene(image, numbers, masks()[which], BOXES[which], np.ones(len(numbers)), OCCLUDED[which], TRUNCATED[which])


@pytest.fixture
def folder(tmp_path):
    voc = VocFolder(tmp_path / "VOC2012", CLASSES, "A test")
    jpeg = cv2.imencode(".jpg", scene(slice(3)).image)[1].tobytes()
    labels, difficult = np.array([0, 1, 1]), np.array([False, False, True])
    for split, name, which in (
        ("train", "000001", slice(3)),
        ("train", "000002", slice(2, 3)),
        ("val", "000003", slice(0)),
        ("test", "000004", slice(1)),
    ):
        voc.add(split, name, jpeg, scene(which), labels[which], difficult[which])
    voc.finish()
    return tmp_path / "VOC2012"


def test_boxes_in_the_xml_count_from_one_and_include_their_last_pixel(folder):
    first = ET.parse(folder / "Annotations/000001.xml").find("object/bndbox")
    assert [int(first.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")] == [6, 6, 20, 15]


def test_the_xml_says_what_a_reader_of_voc_looks_for(folder):
    root = ET.parse(folder / "Annotations/000001.xml").getroot()
    assert root.tag == "annotation"
    assert root.findtext("folder") == "VOC2012"
    assert (folder / "JPEGImages" / root.findtext("filename")).is_file()
    assert root.findtext("source/database") == "A test"
    assert [root.findtext(f"size/{tag}") for tag in ("height", "width", "depth")] == ["40", "50", "3"]
    assert root.findtext("segmented") == "1"
    assert [item.findtext("name") for item in root.iter("object")] == [CLASSES[0], CLASSES[1], CLASSES[1]]
    assert [item.findtext("truncated") for item in root.iter("object")] == ["0", "0", "1"]
    assert [item.findtext("occluded") for item in root.iter("object")] == ["1", "0", "0"]
    assert [item.findtext("difficult") for item in root.iter("object")] == ["0", "0", "1"]
    assert not ET.parse(folder / "Annotations/000003.xml").findall("object")


def test_label_maps_are_palette_images_of_classes_and_objects(folder):
    for kind, values in (("SegmentationClass", (1, 2)), ("SegmentationObject", (1, 2))):
        with Image.open(folder / kind / "000001.png") as file:
            assert file.mode == "P"
            assert file.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
            labels = np.array(file)
        for mask, value in zip(masks(), values, strict=False):
            assert np.array_equal(labels == value, mask)


def test_difficult_objects_and_the_background_next_to_objects_are_void():
    of_class, of_object = label_maps(masks(), np.array([0, 4, 1]), np.array([False, False, True]))
    expected = np.zeros(SIZE, np.uint8)
    expected[4:16, 4:21] = VOID
    expected[14:26, 7:31] = VOID
    expected[29:, 39:] = VOID  # the third object with its border
    expected[5:15, 5:20] = 1
    expected[15:25, 8:30] = 5
    assert np.array_equal(of_class, expected)
    assert np.array_equal(of_object, np.where(expected == 5, 2, expected))


def test_the_lists_of_a_class_say_present_difficult_or_absent(folder):
    lists = folder / "ImageSets/Main"
    assert (lists / "T-shirt_top_train.txt").read_text() == "000001  1\n000002 -1\n"
    assert (lists / "Cat _small_ _ dog_train.txt").read_text() == "000001  1\n000002  0\n"
    assert (lists / "T-shirt_top_trainval.txt").read_text() == "000001  1\n000002 -1\n000003 -1\n"


def test_every_split_is_listed_for_detection_and_for_segmentation(folder):
    for kind in ("Main", "Segmentation"):
        names = {
            split: (folder / f"ImageSets/{kind}/{split}.txt").read_text().split()
            for split in ("train", "val", "trainval", "test")
        }
        assert names == {
            "train": ["000001", "000002"],
            "val": ["000003"],
            "trainval": ["000001", "000002", "000003"],
            "test": ["000004"],
        }


def test_classes_whose_lists_would_fall_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="differ"):
        VocFolder(tmp_path, ["a/b", "a&b"], "A test")
