"""COCO's metrics: the same detections through pycocotools and through ours."""

import contextlib
import io
import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from odd_files import OBJECTS, as_columns, odd_file, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from random_detections import random_set

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.data.coco import read_coco
from moco.transfer.data.problems import Checks
from moco.transfer.data.results import write_results
from moco.transfer.metrics import coco
from moco.transfer.metrics.coco import coco_ap

BOX_NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
NAMES = {
    "bbox": BOX_NAMES,
    "segm": BOX_NAMES,
    "keypoints": ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"],
}


def pycocotools_of(truth: AnnotatedSet, found: Detections, kind: str, sigmas=None) -> COCOeval:
    """pycocotools' own evaluation, from files in COCO's format as they would be written."""
    image = np.repeat(truth.ids, np.diff(truth.first))

    def xywh(box: np.ndarray) -> list[float]:
        x0, y0, x1, y1 = box.tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    annotated = {
        "images": [
            {"id": name, "height": int(height), "width": int(width)}
            for name, (height, width) in zip(truth.ids, truth.sizes, strict=True)
        ],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(truth.classes)],
        "annotations": [
            {
                "id": int(truth.annotation_ids[row]),
                "image_id": int(image[row]),
                "category_id": int(truth.labels[row]) + 1,
                "bbox": xywh(truth.boxes[row]),
                "area": float(truth.areas[row]),
                "iscrowd": int(truth.ignored[row]),
                "segmentation": truth.segments[row],
                "keypoints": truth.keypoints[row].ravel().tolist(),
                "num_keypoints": int((truth.keypoints[row, :, 2] > 0).sum()),
            }
            for row in range(len(image))
        ],
    }
    results = []
    for row in range(len(found.image)):
        result = {
            "image_id": truth.ids[found.image[row]],
            "category_id": int(found.labels[row]) + 1,
            "score": float(found.scores[row]),
        }
        if kind == "bbox":
            result["bbox"] = xywh(found.boxes[row])
        elif kind == "segm":
            result["segmentation"] = dict(found.segments[row])
        else:
            result["keypoints"] = found.keypoints[row].ravel().tolist()
        results.append(result)
    return evaluated(annotated, results, kind, sigmas)


def evaluated(annotated: dict, results: list[dict], kind: str, sigmas=None) -> COCOeval:
    """pycocotools' evaluation of copies: it changes what it is given."""
    annotated, results = deepcopy(annotated), deepcopy(results)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO()
        theirs.dataset = annotated
        theirs.createIndex()
        evaluation = COCOeval(theirs, theirs.loadRes(results), kind)
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def none_for_undefined(value: float) -> float | None:
    return None if value == -1 else pytest.approx(float(value), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_every_figure_is_pycocotools(kind, seed):
    truth, found = random_set(seed)
    assert truth.ignored.any() and np.bincount(found.image).max() > 100
    theirs, ours = pycocotools_of(truth, found, kind), coco_ap(truth, found, kind)
    assert len(theirs.stats) == len(NAMES[kind])
    for name, value in zip(NAMES[kind], theirs.stats, strict=True):
        assert ours[name] == none_for_undefined(value), name
    assert 0.02 < ours["AP"] < 0.95
    for c, name in enumerate(truth.classes):
        for key, chosen in (("AP", slice(None)), ("AP50", slice(0, 1)), ("AP75", slice(5, 6))):
            precision = theirs.eval["precision"][chosen, :, c, 0, -1]
            assert ours["per_class"][name][key] == none_for_undefined(precision.mean()), (name, key)
    assert ours["per_class"][truth.classes[-1]]["AP"] is None  # it has no objects


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("seed", range(10))
def test_an_odd_file_is_worth_what_pycocotools_says_and_so_is_our_result_file(tmp_path, seed):
    content, detections = odd_file(seed, tmp_path)
    truth = read_coco(write(tmp_path, content), tmp_path, checks=Checks(max_bad_fraction=1))
    assert len(truth.labels) == OBJECTS
    found = as_columns(truth, detections)
    points = truth.keypoints.shape[1]
    for kind, column in (("bbox", "bbox"), ("segm", "segmentation"), ("keypoints", "keypoints")):
        sigmas = None if kind != "keypoints" or points == 17 else [np.mean(coco.COCO_SIGMAS)] * points
        given = [{key: one[key] for key in ("image_id", "category_id", "score", column)} for one in detections]
        write_results(tmp_path / "results.json", truth, found, kind)
        written = json.loads((tmp_path / "results.json").read_text())
        ours = coco_ap(truth, found, kind)
        assert 0.05 < ours["AP"] < 0.8
        for results in (given, written):
            theirs = evaluated(content, results, kind, sigmas)
            for name, value in zip(NAMES[kind], theirs.stats, strict=True):
                assert ours[name] == none_for_undefined(value), (kind, name)


def test_an_iou_of_exactly_a_threshold_is_pycocotools_match_whatever_the_decimals(tmp_path):
    random = np.random.default_rng(0)
    content, _ = odd_file(0, tmp_path)
    shares = random.choice([50, 55, 60, 65, 70, 75, 80, 85, 90, 95], 60) / 100
    boxes = np.round(random.uniform(0.1, 9, (60, 4)), 2)
    image, category = content["images"][0]["id"], content["categories"][0]["id"]
    row = {"image_id": image, "category_id": category, "iscrowd": 0, "area": 5.0}
    pairs = []
    for box, share in zip(boxes.tolist(), shares.tolist(), strict=True):
        given = {"image_id": image, "category_id": category, "bbox": [*box[:2], round(box[2] * share, 6), box[3]]}
        content["annotations"] = [row | {"id": 1, "bbox": box}]
        truth = read_coco(write(tmp_path, content), tmp_path, masks=False)
        found = as_columns(truth, [given | {"score": 1.0, "segmentation": {}, "keypoints": []}])
        pairs.append((coco_ap(truth, found)["AP"], evaluated(content, [given | {"score": 1.0}], "bbox").stats[0]))
    assert [ours for ours, _ in pairs] == pytest.approx([theirs for _, theirs in pairs], abs=1e-9)
    assert len({round(ours, 1) for ours, _ in pairs}) > 5


def test_detections_that_are_not_of_finite_numbers_are_refused():
    truth, found = random_set(0)
    found.boxes[7, 2] = found.boxes[9] = np.nan
    with pytest.raises(MocoError, match=r"the detections: 2 of \d+ are not of finite numbers"):
        coco_ap(truth, found)


def test_own_keypoints_take_the_mean_of_cocos_sigmas():
    truth, found = random_set(0, points=4)
    theirs = pycocotools_of(truth, found, "keypoints", [np.mean(coco.COCO_SIGMAS)] * 4)
    ours = coco_ap(truth, found, "keypoints")
    for name, value in zip(NAMES["keypoints"], theirs.stats, strict=True):
        assert ours[name] == none_for_undefined(value), name


def test_cocos_sigmas_are_the_evaluators_own():
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(iouType="keypoints").params.kpt_oks_sigmas
    assert theirs == pytest.approx(coco.COCO_SIGMAS)


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_classes_evaluated_in_parts_give_the_same(kind, monkeypatch):
    truth, found = random_set(1)
    whole = coco_ap(truth, found, kind)
    monkeypatch.setattr(coco, "PAIRS_AT_ONCE", 2 * len(truth))
    assert coco_ap(truth, found, kind) == whole


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_no_detections_are_worth_nothing_and_no_objects_undefined(kind):
    truth, found = random_set(0)
    nothing = Detections(found.image[:0], found.boxes[:0], found.scores[:0], found.labels[:0], [], found.keypoints[:0])
    assert coco_ap(truth, nothing, kind)["AP"] == 0.0
    without = truth.with_instances(np.zeros(len(truth.labels), bool))
    assert coco_ap(without, found, kind)["AP"] is None
    assert coco_ap(without, nothing, kind)["AP"] is None


def test_image_ids_may_be_words():
    truth, found = random_set(0)
    found.scores = np.random.default_rng(0).permutation(len(found.scores)).astype(np.float32)  # no ties
    words = replace(truth, ids=[f"2007_{name:06d}" for name in truth.ids])
    assert coco_ap(words, found) == coco_ap(truth, found)


def test_nothing_is_printed_and_nothing_given_is_changed(capfd):
    truth, found = random_set(0)
    segments = [dict(one) if isinstance(one, dict) else [*one] for one in truth.segments]
    for kind in NAMES:
        coco_ap(truth, found, kind)
    assert capfd.readouterr() == ("", "")
    assert truth.segments == segments
    assert all(set(one) == {"size", "counts"} for one in found.segments)


def test_what_is_not_there_cannot_be_compared():
    truth, found = random_set(0)
    with pytest.raises(MocoError, match=r"^random: no segments"):
        coco_ap(replace(truth, segments=None), found, "segm")
    with pytest.raises(MocoError, match=r"^the detections: no keypoints"):
        coco_ap(truth, replace(found, keypoints=None), "keypoints")
    with pytest.raises(MocoError, match=r"^random: 17 keypoints an object, but the detections have 5"):
        coco_ap(truth, replace(found, keypoints=found.keypoints[:, :5]), "keypoints")
