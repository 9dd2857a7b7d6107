"""The checks name what went wrong, and only that."""

from dataclasses import replace

import numpy as np
import pytest

from moco.report.reading import checks
from moco.report.results import LinearScores
from moco.report.samples import Collapse, Samples


@pytest.fixture
def samples() -> Samples:
    collapse = {"moco": Collapse(0.5, 40, 192), "random": Collapse(0.14, 20, 192)}
    return Samples([], True, [], [], 0, None, None, 0, collapse)


def complaints(results, samples) -> list[str]:
    return [sentence for good, sentence in checks(results, samples) if not good]


def test_a_good_run_has_no_complaints(results, samples):
    assert complaints(results, samples) == []
    assert len(checks(results, samples)) == 5


@pytest.mark.parametrize(
    ("curve", "value", "complaint"),
    [
        ("loss", 8.2, "close to chance"),
        ("top1", 0.999, "pretext task is solved"),
        ("queue_fill", 0.5, "never filled"),
    ],
)
def test_a_bad_curve_is_named(results, samples, curve, value, complaint):
    (said,) = complaints(replace(results, curves={**results.curves, curve: np.full(100, value)}), samples)
    assert complaint in said


def test_falling_knn_is_named(results, samples):
    worse = {"epoch": np.arange(3.0), "knn_top1": np.array([0.6, 0.8, 0.5])}
    (said,) = complaints(replace(results, knn=worse), samples)
    assert "fell from 80.0 % to 50.0 %" in said


def test_collapse_is_judged_against_the_untrained_encoder(results, samples):
    collapsed = {**samples.collapse, "moco": Collapse(0.02, 1.5, 192)}
    (said,) = complaints(results, replace(samples, collapse=collapsed))
    assert "have collapsed: spread 0.02, untrained 0.14" in said


def test_features_worse_than_pixels_are_not_praised(results, samples):
    scores = {**results.scores, "pixels": LinearScores(0.9, 1, 0.9)}
    (said,) = complaints(replace(results, scores=scores), samples)
    assert "do not beat raw pixels" in said
