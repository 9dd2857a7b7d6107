"""Schedules: the published rates at their boundaries, other batches, other lengths."""

import pytest

from moco.transfer.schedules import SCHEDULES, timetable


def test_voc_24k_has_the_rates_of_the_official_configuration_at_every_boundary():
    times = timetable(SCHEDULES["voc-24k"], 16, 16551)
    assert times.iterations == 24_000
    expected = {
        0: 2e-5,
        50: 0.02 * 0.5005,
        99: 0.02 * 0.99001,
        100: 0.02,
        17_999: 0.02,
        18_000: 2e-3,
        21_999: 2e-3,
        22_000: 2e-4,
        23_999: 2e-4,
    }
    for step, rate in expected.items():
        assert times.rate(step) == pytest.approx(rate, rel=1e-12), step


@pytest.mark.parametrize(
    ("name", "iterations", "steps"),
    [
        ("coco-1x", 90_000, (60_000, 80_000)),
        ("coco-2x", 180_000, (120_000, 160_000)),
        ("voc-seg", 30_000, (21_000, 27_000)),
        ("cityscapes", 90_000, (63_000, 81_000)),
    ],
)
def test_other_schedules_have_their_published_lengths_and_steps(name, iterations, steps):
    times = timetable(SCHEDULES[name], 16, 1000)
    assert (times.iterations, times.steps) == (iterations, steps)


def test_a_smaller_batch_takes_a_smaller_rate_and_more_iterations():
    times = timetable(SCHEDULES["voc-24k"], 4, 16551)
    assert times.iterations == 96_000
    assert times.steps == (72_000, 88_000)
    assert times.warmup == 400
    assert times.rate(400) == pytest.approx(0.005)


def test_a_squeezed_run_has_the_same_shape():
    times = timetable(SCHEDULES["voc-24k"], 8, 16551, iterations=480)
    assert (times.iterations, times.steps, times.warmup) == (480, (360, 440), 2)
    rates = [times.rate(step) for step in (0, 2, 359, 360, 440)]
    assert rates == pytest.approx([1e-5, 0.01, 0.01, 1e-3, 1e-4])


def test_epochs_become_iterations_of_whole_batches():
    times = timetable(SCHEDULES["labels-10%"], 256, 128_116)
    assert times.iterations == 20 * 500
    assert times.steps == (6_000, 8_000)
    assert [times.rate(step) for step in (5_999, 6_000, 8_000)] == pytest.approx([0.01, 0.002, 0.0004])


def test_a_rate_of_ones_own_is_for_the_schedules_batch():
    assert timetable(SCHEDULES["coco-1x"], 8, 1000, learning_rate=0.04).learning_rate == pytest.approx(0.02)
