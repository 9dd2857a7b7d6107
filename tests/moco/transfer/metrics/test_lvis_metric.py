"""LVIS's metrics beside a slow statement of its rules, one detection at a time."""

from dataclasses import replace

import numpy as np
import pytest
from odd_files import as_columns, odd_file, write
from pycocotools import mask
from random_detections import HEIGHT, WIDTH, random_set

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.data.coco import read_lvis
from moco.transfer.data.problems import Checks
from moco.transfer.data.results import write_results
from moco.transfer.metrics import lvis
from moco.transfer.metrics.coco import coco_ap
from moco.transfer.metrics.lvis import best_of_each_image, lvis_ap

RANGES = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
THRESHOLDS = [0.5 + 0.05 * step for step in range(10)]


def as_runs(segment):
    if isinstance(segment, list):
        return mask.merge(mask.frPyObjects(segment, HEIGHT, WIDTH))
    return mask.frPyObjects(segment, HEIGHT, WIDTH) if isinstance(segment["counts"], list) else segment


def overlap(truth: AnnotatedSet, found: Detections, g: int, d: int, kind: str) -> float:
    if kind == "segm":
        return float(mask.iou([found.segments[d]], [as_runs(truth.segments[g])], [0])[0, 0])
    a, b = found.boxes[d].astype(float), truth.boxes[g].astype(float)
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def curve_of_class(truth, found, c, kind, threshold, low, high, allowed):
    """Precision at recall 0, 0.01 … 1, and the largest recall; None without objects."""
    outcome = []  # (score, right) of what counts
    objects = 0
    for _, n in sorted(zip(truth.ids, range(len(truth)), strict=True)):
        here = truth.instances(n)
        mine = [g for g in range(here.start, here.stop) if truth.labels[g] == c]
        outside = {g: not low <= truth.areas[g] <= high for g in mine}
        objects += sum(not outside[g] for g in mine)
        if not mine and c not in truth.federated.negative[n]:
            continue  # it was not looked for
        taken: set[int] = set()
        rows = [d for d in allowed if found.image[d] == n and found.labels[d] == c]
        for d in sorted(rows, key=lambda d: -found.scores[d]):
            free = [(overlap(truth, found, g, d, kind), g) for g in mine if g not in taken]
            free = [(iou, g) for iou, g in free if iou >= threshold - 1e-12]
            free = [(iou, g) for iou, g in free if not outside[g]] or free
            if free:  # the best that counts, else the best that does not; of equals the last
                g = max(free)[1]
                taken.add(g)
                if not outside[g]:
                    outcome.append((found.scores[d], True))
            else:
                size = (
                    mask.area(found.segments[d]) if kind == "segm" else np.prod(found.boxes[d, 2:] - found.boxes[d, :2])
                )
                if low <= size <= high and c not in truth.federated.not_exhaustive[n]:
                    outcome.append((found.scores[d], False))
    if not objects:
        return None
    outcome.sort(key=lambda one: -one[0])
    right = np.cumsum([one[1] for one in outcome])
    precision = right / (np.arange(len(outcome)) + 1)
    best = [precision[right / objects >= level].max(initial=0) for level in np.linspace(0, 1, 101)]
    return best, right[-1] / objects if len(right) else 0.0


def slowly(truth: AnnotatedSet, found: Detections, kind: str) -> dict[str, float | None]:
    kept = []
    for n in range(len(truth)):
        kept += sorted(np.flatnonzero(found.image == n), key=lambda d: -found.scores[d])[: lvis.MAX_DETECTIONS]
    kept.sort()
    curves = {
        (size, c, t): curve_of_class(truth, found, c, kind, threshold, low, high, kept)
        for size, (low, high) in RANGES.items()
        for c in range(len(truth.classes))
        for t, threshold in enumerate(THRESHOLDS)
    }

    def mean(part: int, size: str = "", steps=range(10), groups: str = "rcf") -> float | None:
        values = [
            np.mean(curve[part])
            for (own, c, t), curve in curves.items()
            if own == size and t in steps and truth.federated.frequency[c] in groups and curve is not None
        ]
        return float(np.mean(values)) if values else None

    return {
        "AP": mean(0),
        "AP50": mean(0, steps=[0]),
        "AP75": mean(0, steps=[5]),
        **{f"AP{size}": mean(0, size) for size in "sml"},
        **{f"AP{group}": mean(0, groups=group) for group in "rcf"},
        **{f"AR{size}": mean(1, size) for size in RANGES},
    }


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(2))
def test_every_figure_is_what_the_rules_give(kind, seed, monkeypatch):
    monkeypatch.setattr(lvis, "MAX_DETECTIONS", 60)  # fewer than the crowded image has
    truth, found = random_set(seed, federated=True)
    ours = lvis_ap(truth, found, kind)
    classes = ours.pop("per_class")
    assert ours == {name: pytest.approx(value, abs=1e-9) for name, value in slowly(truth, found, kind).items()}
    assert 0 < ours["APr"] < 1 and ours["APr"] != ours["APc"]
    assert classes[truth.classes[-1]]["AP"] is None


@pytest.mark.parametrize("seed", [seed for seed in range(10) if seed % 5 != 4])  # without repeated ids
def test_an_odd_file_is_worth_what_lvis_api_says(tmp_path, seed, monkeypatch):
    """`pip install --no-deps lvis`: its requirements would replace opencv-python-headless."""
    lvis_api = pytest.importorskip("lvis")
    monkeypatch.setattr(np, "float", float, raising=False)  # NumPy has had none since 1.24
    content, detections = odd_file(seed, tmp_path)
    random = np.random.default_rng(seed)
    names = [category["id"] for category in content["categories"]]
    shown = {(entry["image_id"], entry["category_id"]) for entry in content["annotations"]}
    for category, frequency in zip(content["categories"], "rcf", strict=True):
        category["frequency"] = frequency
    for image in content["images"]:
        absent = [name for name in names if (image["id"], name) not in shown]
        image["neg_category_ids"] = [name for name in absent if random.random() < 0.5]
        image["not_exhaustive_category_ids"] = [name for name in names if random.random() < 0.2]
    path = write(tmp_path, content)
    truth = read_lvis(path, tmp_path, checks=Checks(max_bad_fraction=1))
    assert truth.ignored.any() and (truth.areas == 0).any()
    for kind in ("bbox", "segm"):
        found = as_columns(truth, detections)
        write_results(tmp_path / "results.json", truth, found, kind)
        known = lvis_api.LVIS(str(path))
        theirs = lvis_api.LVISEval(known, lvis_api.LVISResults(known, str(tmp_path / "results.json")), kind)
        theirs.run()
        ours = lvis_ap(truth, found, kind)
        assert 0.05 < ours["AP"] < 0.9
        for name, value in theirs.results.items():
            own = ours[name.removesuffix("@300")]
            assert (-1 if own is None else own) == pytest.approx(value, abs=1e-9), (kind, name)


def test_the_best_detections_of_an_image_are_kept_in_their_order():
    image, scores = np.array([1, 0, 1, 1, 0]), np.float32([0.2, 0.9, 0.5, 0.5, 0.1])
    found = Detections(image, np.arange(20, dtype=np.float32).reshape(5, 4), scores, np.arange(5))
    assert best_of_each_image(found, 2).labels.tolist() == [1, 2, 3, 4]
    assert best_of_each_image(found, 1).labels.tolist() == [1, 2]
    assert lvis.MAX_DETECTIONS == 300  # of LVIS v1


def test_a_set_without_frequencies_is_refused_and_cocos_rules_are_there_for_any():
    truth, found = random_set(0, federated=True)
    plain = replace(truth, federated=None)
    with pytest.raises(MocoError, match=r"^random: no frequencies and negatives"):
        lvis_ap(plain, found)
    assert coco_ap(truth, found) == coco_ap(plain, found)
    assert coco_ap(truth, found)["AP"] != lvis_ap(truth, found, "bbox")["AP"]
