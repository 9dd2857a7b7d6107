"""The report judges a run as its alarms did (test_alarms.py), and compares it with baselines."""

from dataclasses import replace

import numpy as np
import pytest

from moco.report.reading import filling, judged
from moco.report.results import LinearScores


@pytest.fixture
def settings(params):
    return params.pretrain


def test_a_good_run_has_no_complaints_and_raised_none(results, settings):
    said, warned = judged(results, settings)
    assert [verdict.name for verdict in said if verdict.good] == [
        "chance",
        "shortcut",
        "leak",
        "knn",
        "collapse",
        "rank",
        "baselines",
    ]
    assert all(verdict.good for verdict in said) and warned == []


def test_features_worse_than_pixels_are_not_praised(results, settings):
    scores = {**results.scores, "pixels": LinearScores(0.9, 1, 0.9)}
    (bad,) = (one for one in judged(replace(results, scores=scores), settings)[0] if not one.good)
    assert "do not beat raw pixels" in bad.sentence


def test_a_lead_that_chance_can_make_is_no_praise_and_few_images_carry_no_verdict(results, settings):
    fewer = replace(results, confusion=results.confusion[:90])
    (bad,) = (one for one in judged(fewer, settings)[0] if not one.good)
    assert "by no more than chance makes on 90 test images" in bad.sentence
    few = replace(results, confusion=results.confusion[:29])
    assert "baselines" not in [one.name for one in judged(few, settings)[0]]


def test_the_rise_of_the_loss_is_told_from_its_lowest_to_the_full_queue(results):
    loss = np.concatenate([[6.0, 5.0], np.linspace(5.5, 8.0, 28), np.linspace(7.9, 5, 70)])
    assert filling({**results.curves, "loss": loss}) == (2, 5.0, 30, 8.0)
    assert filling(results.curves) is None  # it fell all along
    assert filling({**results.curves, "loss": loss, "queue_fill": np.ones(100)}) is None
    assert filling({**results.curves, "loss": loss, "queue_fill": np.full(100, 0.9)}) is None
