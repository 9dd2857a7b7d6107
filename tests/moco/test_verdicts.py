"""Each thing that goes wrong is named with its remedy, and a good run has no bad verdict."""

import math

import pytest
from mechanisms import SMALL, dictionary
from small_material import ROOT

from moco.config import load_params
from moco.training.monitor import validation_of
from moco.verdicts import FEWEST_IMAGES, FEWEST_STEPS, History, Validation, Verdict, fell, leak_limit, verdicts

SETTINGS = load_params(ROOT / "params.yaml", ["pretrain.dictionary.start=random"]).pretrain
WELL = {"top1": 0.4, "loss": 5.0, "chance": 8.3, "queue_fill": 1.0, "feature_std": 0.9}
READ = {"knn_top1": 0.8, "spread": 0.6, "effective_rank": 60.0, "leak": 0.01}


def curves(epochs: float, steps: int = 200, first: float = 0, **values: float) -> list[dict[str, float]]:
    """Ten rows for each epoch."""
    numbers = range(round(10 * first) + 1, round(10 * epochs) + 1)
    return [{"step": steps * n / 10, "epoch": n / 10, **WELL, **values} for n in numbers]


def readings(**series: list[float]) -> list[dict[str, float]]:
    count = len(next(iter(series.values())))
    return [{"epoch": n + 1, **READ, **{name: values[n] for name, values in series.items()}} for n in range(count)]


def judged(steps=(), read=(), images: int = 6000, measured: int = 2048, probed: int = 512, **changes) -> list[Verdict]:
    history = History(SETTINGS.model_copy(update=changes), Validation(images, probed, measured))
    for row in steps:
        history.step(row)
    for row in read:
        history.reading(row)
    return verdicts(history)


def bad(*arguments, **more) -> list[str]:
    return [verdict.name for verdict in judged(*arguments, **more) if not verdict.good]


def remedy(*arguments, **more) -> str:
    (found,) = (verdict.remedy for verdict in judged(*arguments, **more) if not verdict.good)
    return found


def test_a_run_that_goes_well_is_told_so_in_six_sentences():
    steps, read = curves(5), readings(knn_top1=[0.7, 0.72, 0.74], effective_rank=[60, 57, 54])
    assert [verdict.sentence for verdict in judged(steps, read)] == [
        "The loss is 5.00, below chance (8.30).",
        "The pretext task is not solved by a shortcut: top-1 is 40.0 %.",
        "Batch norm gives no keys away: leak +1 points.",
        "Validation accuracy by kNN went from 70.0 % to 74.0 %.",
        "The queries have not collapsed: spread 0.90.",
        "The features use many dimensions: effective rank 54.0.",
    ]


def test_queries_in_one_direction_are_a_collapse_from_the_first_epoch_on():
    assert bad(curves(0.9, feature_std=0.01)) == bad(curves(1, feature_std=0.11)) == []
    assert bad(curves(1, feature_std=0.09)) == ["collapse"]
    (verdict,) = (one for one in judged(curves(1, feature_std=0.01)) if not one.good)
    assert verdict.name == "collapse" and "(spread 0.01)" in verdict.what
    slower = "raise pretrain.dictionary.momentum (now 0.99) or lower pretrain.lr_per_256 (now 0.09)"
    random = (
        f"{slower}, or, where it was so from the beginning, set pretrain.dictionary.start (now random) to keys or lower"
        " pretrain.dictionary.num_keys (now 4096)"
    )
    assert verdict.remedy == random
    assert remedy(read=readings(effective_rank=[1.9])) == remedy(curves(2.2, loss=8.29)) == random
    assert remedy(read=readings(knn_top1=[0.7, 0.5])) == slower  # not so from the beginning
    real = SETTINGS.dictionary.model_copy(update={"start": "keys"})
    assert remedy(curves(1, feature_std=0.01), dictionary=real) == slower
    assert remedy(curves(1, feature_std=0.01), dictionary=dictionary("momentum-batch")) == slower


@pytest.mark.parametrize("verdict", ["collapse", "chance"])
def test_nothing_is_said_of_an_epoch_of_few_steps_before_the_hundredth(verdict):
    wrong = {"collapse": {"feature_std": 0.01}, "chance": {"loss": 8.29}}[verdict]
    rows = [{"step": n, "epoch": n / 10, **WELL, **wrong} for n in range(1, 102)]
    first = 1 if verdict == "chance" else 0  # steps since the loss was first seen at chance
    assert bad(rows[: FEWEST_STEPS + first - 1], epochs=99) == []
    assert bad(rows[: FEWEST_STEPS + first], epochs=99) == [verdict]


def test_a_loss_at_chance_for_an_epoch_counts_from_the_full_dictionary_on():
    filling, later = curves(3, loss=8.29, queue_fill=0.9), curves(4.1, first=3, loss=8.29)
    assert bad(filling) == []
    assert bad(filling + later[:-1]) == []
    assert bad(filling + later) == ["chance"]
    assert bad(filling + [{**row, "loss": 5.0} if row["step"] == 700 else row for row in later]) == []


def test_a_run_that_ends_at_chance_is_told_so_however_short_it_was():
    assert bad(curves(1, steps=10, loss=8.29), epochs=2) == []
    assert remedy(curves(1, steps=10, loss=8.29), epochs=1) == "raise pretrain.epochs (now 1)"


@pytest.mark.parametrize(
    ("mechanism", "what", "said"),
    [
        (
            "momentum-queue",
            "the queue never fills (90 % at the end)",
            "raise pretrain.epochs (now 5) or lower pretrain.dictionary.num_keys (now 100)",
        ),
        (
            "memory-bank",
            "the memory bank keeps random first keys to the end (90 % of its keys are real then)",
            "raise pretrain.epochs (now 5) to 2 at least",
        ),
    ],
)
def test_a_dictionary_that_cannot_fill_is_named_at_the_first_row(mechanism, what, said):
    slow, fast = ([{**row, "queue_fill": row["epoch"] / full} for row in curves(0.1)] for full in (5 / 0.9, 5))
    (verdict,) = (one for one in judged(slow, dictionary=dictionary(mechanism)) if not one.good)
    assert (verdict.name, verdict.what, verdict.remedy) == ("filling", what, said)
    assert bad(fast, dictionary=dictionary(mechanism)) == []


@pytest.mark.parametrize("mechanism", SMALL)
def test_a_mechanism_is_told_only_what_it_can_change(mechanism):
    described = dictionary(mechanism)
    found = remedy(curves(1, feature_std=0.01), dictionary=dictionary(mechanism))
    assert ("pretrain.dictionary.momentum " in found) == hasattr(described, "momentum_schedule")
    assert ("pretrain.dictionary.num_keys " in found) == (described.about.fills == "queue")
    assert "{" not in found
    assert (bad(curves(0.1, queue_fill=0.001), dictionary=dictionary(mechanism)) == ["filling"]) == bool(
        described.about.fills
    )


def test_a_rank_near_one_or_far_below_the_first_reading_is_told():
    assert bad(read=readings(effective_rank=[1.9])) == ["rank"]
    assert bad(read=readings(effective_rank=[2.0])) == []
    assert bad(read=readings(effective_rank=[80, 20])) == []
    assert bad(read=readings(effective_rank=[80, 19])) == ["rank"]


def test_a_leak_names_the_shuffle_if_it_is_off_and_the_groups_if_it_is_on():
    assert bad(read=readings(leak=[0.1])) == []
    leaking = readings(leak=[0.0, 0.6])
    assert remedy(read=leaking, shuffle_bn=False) == "set pretrain.shuffle_bn: true"
    assert remedy(read=leaking).startswith("raise pretrain.bn_group_size (now 64)")
    assert "60 points more often" in next(str(one) for one in judged(read=leaking) if not one.good)


def test_a_solved_pretext_task_is_a_shortcut_only_while_knn_falls_or_cannot_be_read():
    solved = curves(2, top1=0.999)
    assert bad(solved, readings(knn_top1=[0.8, 0.82])) == []
    assert "task is solved (99.9 %), and kNN has not" in judged(solved, readings(knn_top1=[0.8, 0.82]))[1].sentence
    assert bad(solved, readings(knn_top1=[0.8, 0.78])) == ["shortcut"]
    assert bad(solved, readings(knn_top1=[0.8, 0.6])) == ["shortcut"]  # not knn beside it
    assert bad(curves(2), readings(knn_top1=[0.8, 0.78])) == []
    assert bad(solved) == []  # kNN is still to be read
    assert bad(solved, images=0) == ["shortcut"]
    assert bad(solved, knn_every_epochs=0) == ["shortcut"]
    assert bad(curves(0.9, top1=0.999), images=0) == []
    assert bad(curves(2, top1=0.999, queue_fill=0.9), images=0) == []  # told from random keys by any encoder


def test_knn_far_below_its_best_is_told_and_chance_in_few_images_is_not():
    fallen = readings(knn_top1=[0.8, 0.9, 0.83])
    assert bad(read=fallen) == ["knn"]
    assert "from 90.0 % to 83.0 %" in next(str(one) for one in judged(read=fallen) if not one.good)
    assert "from 80.0 % to 83.0 %." in judged(read=readings(knn_top1=[0.8, 0.83]))[1].sentence
    assert "knn" not in [verdict.name for verdict in judged(read=readings(knn_top1=[0.8]))]  # one reading is no course
    assert bad(read=fallen, images=58) == []
    assert fell(0.8, 0.678, 100) and not fell(0.8, 0.679, 100)  # three standard errors of 0.0404
    assert not fell(1.0, 57 / 58, 58, least=0.0) and fell(1.0, 50 / 58, 58, least=0.0)


def test_what_was_not_measured_is_not_judged():
    nothing = readings(knn_top1=[math.nan] * 2, leak=[math.nan] * 2, effective_rank=[math.nan] * 2)
    assert judged(read=nothing, images=0) == []


@pytest.mark.parametrize(
    ("images", "group", "limit"), [(6000, 64, 0.1), (6000, 4, 0.1), (58, 8, 0.189), (58, 64, 1.414)]
)
def test_a_leak_among_few_images_must_be_larger(images, group, limit):
    assert leak_limit(validation_of(images, 0, group).probed) == pytest.approx(limit, abs=1e-3)


def test_no_verdict_on_features_is_made_of_fewer_images_than_can_carry_it():
    few = FEWEST_IMAGES - 1
    broken = readings(knn_top1=[1.0, 0.0], effective_rank=[9.0, 1.0], leak=[1.0, 1.0])
    assert {"leak", "knn", "rank"} <= {one.name for one in judged(curves(2), broken)}
    named = {one.name for one in judged(curves(2), broken, images=few, measured=few, probed=few)}
    assert not {"leak", "knn", "rank"} & named
