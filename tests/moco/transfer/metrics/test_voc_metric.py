"""VOC's metrics beside the development kit's loops, detection by detection."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from random_detections import random_set

from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.metrics.voc import voc_ap


def kit(truth: AnnotatedSet, found: Detections, c: int, percent: int, eleven_points: bool) -> float | None:
    """AP of a class in the kit's terms: closed boxes from 1, loops, exact fractions."""
    objects = {
        n: [
            (*truth.boxes[g].tolist(), bool(truth.ignored[g]))
            for g in range(truth.first[n], truth.first[n + 1])
            if truth.labels[g] == c
        ]
        for n in range(len(truth))
    }
    positives = sum(not difficult for mine in objects.values() for *_, difficult in mine)
    if positives == 0:
        return None
    detected = {n: [False] * len(mine) for n, mine in objects.items()}
    rows = [d for d in range(len(found.image)) if found.labels[d] == c]
    tp, fp = [], []
    for d in sorted(rows, key=lambda d: -found.scores[d]):
        n, (x0, y0, x1, y1) = int(found.image[d]), found.boxes[d].tolist()
        bb = [int(x0) + 1, int(y0) + 1, int(x1), int(y1)]
        best, chosen = Fraction(-1), None
        for j, (gx0, gy0, gx1, gy1, _) in enumerate(objects[n]):
            gt = [int(gx0) + 1, int(gy0) + 1, int(gx1), int(gy1)]
            iw = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
            ih = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1) + (gt[2] - gt[0] + 1) * (gt[3] - gt[1] + 1) - iw * ih
                if Fraction(iw * ih, ua) > best:
                    best, chosen = Fraction(iw * ih, ua), j
        right, wrong = 0, 0
        if best >= Fraction(percent, 100):
            if not objects[n][chosen][-1]:
                right, wrong = (0, 1) if detected[n][chosen] else (1, 0)
                detected[n][chosen] = True
        else:
            wrong = 1
        tp.append(right)
        fp.append(wrong)
    recall = [Fraction(sum(tp[: i + 1]), positives) for i in range(len(tp))]
    counted = [sum(tp[: i + 1]) + sum(fp[: i + 1]) for i in range(len(tp))]
    precision = [Fraction(sum(tp[: i + 1]), both) if both else Fraction(0) for i, both in enumerate(counted)]
    if eleven_points:
        levels = [Fraction(tenths, 10) for tenths in range(11)]
        return float(
            sum(max([p for r, p in zip(recall, precision, strict=True) if r >= level], default=0) for level in levels)
            / 11
        )
    mrec, mpre = [0, *recall, 1], [0, *precision, 0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return float(sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec))))


def one_image(objects: np.ndarray, boxes: np.ndarray, scores: list[float], difficult=()) -> tuple:
    truth, _ = random_set(0)
    truth = replace(
        truth.subset([0]).with_instances(np.zeros(truth.first[1], bool)),
        first=np.array([0, len(objects)]),
        boxes=np.float32(objects),
        labels=np.zeros(len(objects), np.int64),
        ignored=np.isin(np.arange(len(objects)), difficult),
    )
    zeros = np.zeros(len(boxes), np.int64)
    return truth, Detections(zeros, np.float32(boxes), np.float32(scores), zeros)


@pytest.mark.parametrize("eleven_points", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_class_is_what_the_kits_loops_give(seed, eleven_points):
    truth, found = random_set(seed)
    assert truth.ignored.any()  # difficult ones
    ours = voc_ap(truth, found, eleven_points=eleven_points)
    tables = []
    for c, name in enumerate(truth.classes):
        table = [kit(truth, found, c, percent, eleven_points) for percent in range(50, 100, 5)]
        if table[0] is None:
            assert ours["per_class"][name] == {"AP": None, "AP50": None, "AP75": None}
            continue
        tables.append(table)
        expected = {"AP": np.mean(table), "AP50": table[0], "AP75": table[5]}
        assert ours["per_class"][name] == pytest.approx(expected, abs=1e-12)
    assert len(tables) == len(truth.classes) - 1  # the last has no objects
    means = np.mean(tables, axis=0)
    assert {key: ours[key] for key in ("AP", "AP50", "AP75")} == pytest.approx(
        {"AP": means.mean(), "AP50": means[0], "AP75": means[5]}, abs=1e-12
    )
    assert 0.05 < ours["AP"] < ours["AP50"] < 0.95


BOX = [10, 10, 30, 30]


def test_a_class_with_difficult_objects_alone_is_left_out():
    truth, found = one_image([BOX], [BOX], [0.9], difficult=[0])
    assert voc_ap(truth, found)["AP50"] is None


def test_of_two_objects_with_equal_overlap_the_first_counts():
    truth, found = one_image([BOX, BOX], [BOX], [0.9], difficult=[0])
    assert voc_ap(truth, found)["AP"] == 0
    truth, found = one_image([BOX, BOX], [BOX], [0.9], difficult=[1])
    assert voc_ap(truth, found)["AP"] == 1


def test_an_overlap_of_exactly_the_threshold_is_enough():
    truth, found = one_image([[0, 0, 20, 10]], [[0, 0, 15, 10]], [0.9])
    figures = voc_ap(truth, found)
    assert figures["AP75"] == 1 and figures["AP"] == pytest.approx(0.6)  # 0.5, 0.55 … 0.75
    assert voc_ap(*one_image([[0, 0, 1, 1]], [[2, 2, 3, 3]], [0.9]))["AP"] == 0  # apart both ways


def test_recall_of_exactly_three_tenths_reaches_the_fourth_of_eleven_points():
    objects = [[20 * n, 0, 20 * n + 10, 10] for n in range(10)]
    truth, found = one_image(objects, objects[:3], [0.9, 0.8, 0.7])
    assert voc_ap(truth, found, eleven_points=True)["AP50"] == pytest.approx(4 / 11)
    assert voc_ap(truth, found)["AP50"] == pytest.approx(0.3)
