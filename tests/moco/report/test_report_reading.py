"""The checks name what went wrong, and only that."""

from dataclasses import replace

import numpy as np
import pytest

from moco.report.reading import checks, filling, warned
from moco.report.results import LinearScores
from moco.report.samples import Collapse, Samples


@pytest.fixture
def samples() -> Samples:
    collapse = {"moco": Collapse(0.5, 40, 192), "random": Collapse(0.14, 20, 192)}
    return Samples([], 0, True, [], [], 0, None, None, 0, collapse)


@pytest.fixture
def settings(params):
    return params.pretrain


def complaints(results, samples, settings) -> list[str]:
    return [sentence for good, sentence in checks(results, samples, settings) if not good]


def test_a_good_run_has_no_complaints(results, samples, settings):
    assert complaints(results, samples, settings) == []
    assert len(checks(results, samples, settings)) == 7


@pytest.mark.parametrize(
    ("curve", "value", "complaint"),
    [("loss", 8.2, "close to chance"), ("top1", 0.999, "pretext task is solved"), ("queue_fill", 0.5, "never filled")],
)
def test_a_bad_curve_is_named(results, samples, settings, curve, value, complaint):
    (said,) = complaints(replace(results, curves={**results.curves, curve: np.full(100, value)}), samples, settings)
    assert complaint in said


def test_falling_knn_is_named(results, samples, settings):
    worse = {name: np.repeat(values[:1], 3) for name, values in results.readings.items()}
    worse["knn_top1"] = np.array([0.6, 0.8, 0.5])
    (said,) = complaints(replace(results, readings=worse), samples, settings)
    assert "fell from 80.0 % to 50.0 %" in said


def test_collapse_is_judged_against_the_untrained_encoder(results, samples, settings):
    collapsed = {**samples.collapse, "moco": Collapse(0.02, 15, 192)}
    (said,) = complaints(results, replace(samples, collapse=collapsed), settings)
    assert "have collapsed: spread 0.02, untrained 0.14" in said


def test_a_rank_of_hardly_one_and_a_rank_that_fell_are_named(results, samples, settings):
    flat = {**samples.collapse, "moco": Collapse(0.5, 1.4, 192)}
    (said,) = complaints(results, replace(samples, collapse=flat), settings)
    assert "hardly more than one dimension: effective rank 1.4 of 192, untrained 20.0" in said
    fell = {**results.readings, "effective_rank": np.array([80.0, 15.0])}
    (said,) = complaints(replace(results, readings=fell), samples, settings)
    assert "from 80.0 at the first reading to 15.0" in said


@pytest.mark.parametrize(("shuffled", "remedy"), [(True, "make bn_group_size larger"), (False, "set shuffle_bn: true")])
def test_a_leak_is_named_with_what_would_close_it(results, samples, settings, shuffled, remedy):
    leaking = replace(results, readings={**results.readings, "leak": np.array([0.0, 0.7])})
    (said,) = complaints(leaking, samples, settings.model_copy(update={"shuffle_bn": shuffled}))
    assert f"leak +70 points; {remedy}" in said


def test_no_mechanism_is_blamed_for_a_queue_that_it_has_not(results, samples, settings):
    part = replace(results, curves={**results.curves, "queue_fill": np.full(100, 0.5)})
    (said,) = complaints(part, samples, settings)
    assert "The queue never filled (50 % at the end): train longer, or make queue_size smaller" in said
    (said,) = complaints(part, samples, settings.model_copy(update={"mechanism": "memory-bank"}))
    assert "memory bank was never free of random first keys" in said
    assert "queue" not in said
    batch = replace(results, curves={**results.curves, "queue_fill": np.ones(100)})
    assert complaints(batch, samples, settings.model_copy(update={"mechanism": "end-to-end"})) == []


def test_the_rise_of_the_loss_is_told_from_its_lowest_to_the_full_queue(results):
    loss = np.concatenate([[6.0, 5.0], np.linspace(5.5, 8.0, 28), np.linspace(7.9, 5, 70)])
    assert filling({**results.curves, "loss": loss}) == (2, 5.0, 30, 8.0)
    assert filling(results.curves) is None  # it fell all along
    assert filling({**results.curves, "loss": loss, "queue_fill": np.ones(100)}) is None
    assert filling({**results.curves, "loss": loss, "queue_fill": np.full(100, 0.9)}) is None


def test_what_was_warned_of_and_then_passed_is_still_told(results, settings):
    dip = np.where(results.curves["epoch"] == 2, 0.01, results.curves["feature_std"])
    curves = {**results.curves, "step": 20 * results.curves["step"], "feature_std": dip}
    (alarm,) = warned(replace(results, curves=curves), settings)
    assert alarm.name == "collapse"
    assert warned(results, settings) == []


def test_features_worse_than_pixels_are_not_praised(results, samples, settings):
    scores = {**results.scores, "pixels": LinearScores(0.9, 1, 0.9)}
    (said,) = complaints(replace(results, scores=scores), samples, settings)
    assert "do not beat raw pixels" in said
