"""A verdict that turns bad is raised once, at once, in the words of the report at that moment."""

import itertools
import math

import numpy as np
import pytest
from small_material import ROOT

from moco.alarms import Watch
from moco.config import load_params
from moco.report.reading import judged
from moco.report.results import Results
from moco.training.monitor import validation_of

EPOCHS, KNN = 3, {"fine": [0.75, 0.80, 0.77], "fallen": [0.75, 0.80, 0.72], "unlabelled": [math.nan] * 3}
SETTINGS = load_params(ROOT / "params.yaml").pretrain.model_copy(update={"epochs": EPOCHS})
GRID = [
    dict(zip(("loss", "top1", "feature_std", "full", "knn", "leak"), values, strict=True))
    for values in itertools.product((5.0, 8.29), (0.4, 0.999), (0.9, 0.01), (0.5, 2, 9), KNN, (0.01, 0.6))
]


def rows_of(case: dict) -> list[tuple[str, dict[str, float]]]:
    """Two rows of curves and a reading each epoch; in some, what goes wrong passes at the end."""
    rows = []
    for n in range(1, 2 * EPOCHS + 1):
        row = {name: case[name] for name in ("loss", "top1", "feature_std")}
        row |= {"step": 60 * n, "epoch": n / 2, "chance": 8.3, "queue_fill": min(1, n / 2 / case["full"])}
        if case["full"] == 2 and n == 2 * EPOCHS:
            row |= {"loss": 5.0, "top1": 0.4, "feature_std": 0.9}
        rows.append(("step", row))
        if n % 2 == 0:
            knn = KNN[case["knn"]][n // 2 - 1]
            values = {"knn_top1": knn, "effective_rank": 60.0 - 25 * n / 2 * (case["leak"] > 0.1), "leak": case["leak"]}
            rows.append(("reading", {"epoch": n / 2, **values}))
    return rows


def results_of(rows: list[tuple[str, dict[str, float]]], labelled: bool) -> Results:
    """The files of a run that ends with these rows."""

    def table(kind: str) -> dict[str, np.ndarray]:
        mine = [row for of, row in rows if of == kind]
        return {name: np.array([row[name] for row in mine]) for name in (mine[0] if mine else ())}

    split = {"images": 3000, "labelled": 3000 * labelled}
    fetch = {"train": split, "val": split, "test": split}
    return Results(fetch, {}, {}, {}, table("step"), table("reading"), {}, {}, [])


@pytest.mark.parametrize("case", GRID)
def test_at_every_moment_the_report_says_what_the_run_has_said(case):
    labelled, rows = case["knn"] != "unlabelled", rows_of(case)
    watch = Watch(SETTINGS, validation_of(3000, 3000 * labelled, SETTINGS.bn_group_size))
    raised: list[str] = []
    for number, (kind, row) in enumerate(rows, start=1):
        new = watch.step(row) if kind == "step" else watch.reading(row)
        said, warned = judged(results_of(rows[:number], labelled), SETTINGS)
        bad = {verdict.name: str(verdict) for verdict in said if not verdict.good}
        assert all(bad[verdict.name] == str(verdict) for verdict in new)  # the same figures, the same remedy
        raised += [verdict.name for verdict in new]
        assert set(bad) <= set(raised)
        assert [verdict.name for verdict in warned] == raised
    assert len(raised) == len(set(raised))
    if case["knn"] == "fine" and case["top1"] < 0.99:
        assert "knn" not in raised
        assert any("from 75.0 % to 77.0 %, highest 80.0 %" in str(verdict) for verdict in said if verdict.good)


def test_the_grid_has_each_kind_of_alarm_and_some_that_pass():
    raised, passed = set[str](), set[str]()
    for case in GRID:
        said, warned = judged(results_of(rows_of(case), case["knn"] != "unlabelled"), SETTINGS)
        raised |= {verdict.name for verdict in warned}
        passed |= {verdict.name for verdict in warned} & {verdict.name for verdict in said if verdict.good}
    assert raised == {"chance", "filling", "shortcut", "leak", "knn", "collapse", "rank"}
    assert {"collapse", "shortcut"} <= passed


def test_a_watch_that_has_seen_the_rows_before_does_not_repeat_itself():
    rows = rows_of(GRID[-1])
    curves, readings = ([row for of, row in rows if of == kind] for kind in ("step", "reading"))
    watch = Watch(SETTINGS, validation_of(3000, 0, SETTINGS.bn_group_size))
    first = watch.replay(curves[:4], readings[:2])
    second = watch.replay(curves[4:], readings[2:])
    whole = Watch(SETTINGS, validation_of(3000, 0, SETTINGS.bn_group_size)).replay(curves, readings)
    assert first and [*map(str, first + second)] == [*map(str, whole)]
