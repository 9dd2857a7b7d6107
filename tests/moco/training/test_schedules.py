"""The learning rate and the momentum over time."""

from pathlib import Path

import pytest
from mechanisms import dictionary

from moco.config import load_params
from moco.training.schedules import learning_rate, momentum

PRETRAIN = load_params(Path(__file__).parents[3] / "params.yaml").pretrain


def test_cosine_falls_from_the_scaled_base_to_nothing():
    settings = PRETRAIN.model_copy(update={"schedule": "cosine", "lr_per_256": 0.03, "global_batch": 512})
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.06)
    assert rates[50] == pytest.approx(0.03)
    assert rates[99] < 1e-4
    assert rates == sorted(rates, reverse=True)


def test_the_rate_first_rises_to_its_base_where_there_is_a_warm_up():
    values = {"schedule": "cosine", "lr_per_256": 0.03, "global_batch": 256, "epochs": 10, "warmup_epochs": 2}
    settings = PRETRAIN.model_copy(update=values)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:20] == pytest.approx([0.03 * (step + 1) / 21 for step in range(20)])
    assert rates[20] == pytest.approx(0.03)
    assert rates[60] == pytest.approx(0.015)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    longer = settings.model_copy(update={"warmup_epochs": 50})  # than the run
    assert all(learning_rate(longer, step, 100) > 0 for step in range(100))


def test_steps_fall_to_a_tenth_at_each_milestone():
    settings = PRETRAIN.model_copy(
        update={"schedule": "steps", "milestones": [0.6, 0.8], "lr_per_256": 0.03, "global_batch": 256}
    )
    at = [learning_rate(settings, step, 200) for step in (0, 119, 120, 159, 160, 199)]
    assert at == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])


def test_momentum_rises_to_1_by_half_a_cosine_or_stays():
    settings = dictionary("momentum-queue", momentum_schedule="cosine", momentum=0.99)
    at = [momentum(settings, step, 100) for step in range(100)]
    assert (at[0], at[50]) == (pytest.approx(0.99), pytest.approx(0.995))
    assert at == sorted(at)
    assert 0.99999 < at[99] < 1
    constant = settings.model_copy(update={"momentum_schedule": "constant"})
    assert {momentum(constant, step, 100) for step in range(100)} == {0.99}
