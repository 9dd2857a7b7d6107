"""Reading Cityscapes' folders."""

import numpy as np
import pytest
from PIL import Image

from moco.errors import MocoError
from moco.transfer.data.cityscapes import read_cityscapes
from moco.transfer.data.problems import Checks

IMAGES = ("aachen/aachen_000001_000019", "aachen/aachen_000000_000019", "zurich/zurich_000000_000019")
LENIENT = Checks(max_bad_fraction=1.0)


@pytest.fixture
def root(tmp_path):
    for name in IMAGES:
        for kind, files in (("leftImg8bit", ["leftImg8bit"]), ("gtFine", ["gtFine_labelIds", "gtFine_color"])):
            for file in files:
                path = tmp_path / kind / "train" / f"{name}_{file}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                mode = "L" if file == "gtFine_labelIds" else "RGB"
                Image.new(mode, (16, 8)).save(path)
    return tmp_path


def test_images_are_found_with_their_label_maps_in_the_order_of_cities(root):
    found = read_cityscapes(root, "train")
    assert found.ids == ["aachen_000000_000019", "aachen_000001_000019", "zurich_000000_000019"]
    assert found.sizes.tolist() == [[8, 16]] * 3
    assert found.paths[2] == root / "leftImg8bit/train/zurich/zurich_000000_000019_leftImg8bit.png"
    assert found.label_maps[2] == root / "gtFine/train/zurich/zurich_000000_000019_gtFine_labelIds.png"


def test_label_ids_become_the_19_classes_and_all_others_are_ignored(root):
    path = root / "gtFine/train/zurich/zurich_000000_000019_gtFine_labelIds.png"
    numbers = np.full((8, 16), 255, np.uint8)  # 255: the license plate's -1
    numbers[0] = range(16)
    numbers[1] = range(16, 32)
    numbers[2, :3] = [32, 33, 34]
    Image.fromarray(numbers).save(path)
    found = read_cityscapes(root, "train")
    classes = found.semantic_classes
    assert len(classes) == 19
    translated = found.label_map(2)
    named = {
        int(number): classes[label] for number, label in zip(numbers.flat, translated.flat, strict=True) if label != 255
    }
    assert len(named) == 19
    assert named[7] == "road" == classes[0]
    assert named[11] == "building" == classes[2]
    assert named[24] == "person" == classes[11]
    assert named[26] == "car" == classes[13]
    assert named[33] == "bicycle" == classes[18]
    assert not {0, 1, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 34, 255} & set(named)


def test_a_label_map_or_an_image_without_its_partner_is_listed(root):
    lone_map = root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    (root / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png").unlink()
    missing_map = root / "gtFine/train/zurich/zurich_000000_000019_gtFine_labelIds.png"
    missing_map.unlink()
    found = read_cityscapes(root, "train", checks=LENIENT)
    assert found.ids == ["aachen_000001_000019"]
    assert [(problem.path, problem.reason) for problem in found.problems] == [
        (str(lone_map), "a label map without its image"),
        (str(missing_map), "no such label map"),
    ]
    with pytest.raises(MocoError, match="2 of 3 images"):
        read_cityscapes(root, "train")


@pytest.mark.parametrize("folder", ["leftImg8bit", "gtFine"])
def test_a_missing_folder_is_named_with_its_archive(root, folder):
    (root / folder / "train").rename(root / folder / "elsewhere")
    with pytest.raises(MocoError, match=rf"{folder}/train: no such folder; unpack .*cityscapes-dataset\.com"):
        read_cityscapes(root, "train")
