"""Sets as transfer/params.yaml names them: what is listed of each, what is written of a test."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_material import write_arrays
from transfer_material import DETECTOR

from moco.errors import MocoError
from moco.transfer.config import Comparison, comparison_of
from moco.transfer.data.annotations import Detections
from moco.transfer.data_config import Shards
from moco.transfer.sets import Sets, average_precisions, open_data, write_detections

BOX = [10.0, 8.0, 30.0, 20.0]


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """COCO files of one object in its image, and of one that reaches past it and has a bad mask."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    good = {"id": 1, "image_id": "a", "category_id": 3, "bbox": BOX, "segmentation": [[10, 8, 40, 8, 40, 28]]}
    past = good | {"id": 2, "bbox": [40.0, 8.0, 50.0, 20.0], "segmentation": [[10, 8]]}
    for name in ("train", "test"):
        content = {
            "images": [{"id": "a", "file_name": "a.png", "width": 64, "height": 48}],
            "categories": [{"id": 3, "name": "cat"}],
            "annotations": [good, past],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data = {"format": "coco", "path": str(tmp_path), "max_bad_fraction": 1.0}
    data |= {name: str(tmp_path / f"{name}.json") for name in ("train", "test")}
    training = DETECTOR | {"neck": "fpn", "schedule": "coco-2x"}
    return comparison_of("instances", {"data": data, "training": training}, "params")


def test_a_box_beyond_its_image_is_a_problem_of_training_alone_and_each_set_has_its_list(comparison, tmp_path):
    sets = Sets.of(comparison, tmp_path / "quarantine.jsonl")
    assert sets.test.stated.tolist() == [BOX, [40, 8, 50, 20]]
    lists = [(tmp_path / f"{name}quarantine.jsonl").read_text() for name in ("", "test-")]
    assert [text.count("reaches past the image") for text in lists] == [1, 0]
    assert [text.count("polygons left out") for text in lists] == [1, 1]


def test_the_detections_of_a_test_are_written_a_file_for_each_kind(comparison, tmp_path):
    test = Sets.of(comparison).test
    runs = {"size": [48, 64], "counts": b"X1"}
    found = Detections(np.array([0]), np.array([[10, 8, 40, 28]]), np.array([0.5]), np.array([0]), [runs])
    write_detections(tmp_path, "instances", test, found)
    box, mask = (json.loads((tmp_path / f"results-{name}.json").read_text()) for name in ("box", "mask"))
    assert box == [{"image_id": "a", "category_id": 3, "bbox": BOX, "score": 0.5}]
    assert mask[0]["segmentation"] == {"size": [48, 64], "counts": "X1"}
    figures = average_precisions(comparison.data, "instances", test, found)
    assert figures["box"]["AR100"] == 0.5  # one of two objects; the one without a mask counts with its box
    assert figures["mask"]["AR100"] == 0
    test.category_ids = []
    write_detections(tmp_path / "nowhere", "instances", test, found)


def test_a_split_without_an_image_or_a_label_is_named(tmp_path):
    images = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8)
    shards = write_arrays(tmp_path, [(images, None, "train")], [], 20, val_fraction=0.2)
    data = Shards(format="shards", path=str(shards), train="train", test="test")
    with pytest.raises(MocoError, match=r"data.test = test: .* has no image there"):
        open_data(data, "classification", "test")
    with pytest.raises(MocoError, match=r"data.train = train: .* has no label there"):
        open_data(data, "classification", "train")
