"""What is wrong is named once with its remedy; what is well is left in peace."""

import math

import pytest

from moco import presets
from moco.alarms import Validation, Watch, alarms, fell, leak_limit, numbers
from moco.config import load_params
from moco.training.monitor import validation_of

SETTINGS = load_params(presets.FOLDER / "small.yaml").pretrain
UNLABELLED = Validation(6000, 0, 512)
WELL = {"top1": 0.4, "loss": 5.0, "chance": 8.3, "queue_fill": 1.0, "feature_std": 0.9}
READ = {"knn_top1": 0.8, "spread": 0.6, "effective_rank": 60.0, "leak": 0.01}


def curves(epochs: float, **values: float) -> list[dict[str, float]]:
    """Ten rows an epoch, of 20 steps each."""
    return [{"step": 20 * n, "epoch": n / 10, **WELL, **values} for n in range(1, round(10 * epochs) + 1)]


def readings(*found: dict[str, float]) -> list[dict[str, float]]:
    return [{"epoch": number, **READ, **values} for number, values in enumerate(found, start=1)]


def names(settings=SETTINGS, steps=(), read=(), images=6000) -> list[str]:
    return [alarm.name for alarm in alarms(settings, Validation(6000, images, 512), steps, read)]


def test_a_run_that_goes_well_warns_of_nothing():
    better = [{"knn_top1": 0.7 + n / 50, "effective_rank": 60 - 3 * n} for n in range(5)]
    assert names(steps=curves(5), read=readings(*better)) == []


def test_queries_in_one_direction_are_a_collapse_from_the_first_epoch_on():
    assert names(steps=curves(0.9, feature_std=0.01)) == []
    (alarm,) = alarms(SETTINGS, UNLABELLED, curves(3, feature_std=0.01), [])
    assert alarm.name == "collapse"
    assert "spread 0.01" in alarm.what
    assert "raise pretrain.momentum (now 0.99) or lower pretrain.lr_per_256 (now 0.09), or" in alarm.remedy
    assert "pretrain.queue_size (now 4096)" in alarm.remedy
    (alarm,) = alarms(
        SETTINGS.model_copy(update={"mechanism": "momentum-batch"}), UNLABELLED, curves(3, feature_std=0.01), []
    )
    assert alarm.remedy == "raise pretrain.momentum (now 0.99) or lower pretrain.lr_per_256 (now 0.09)"


def test_a_rank_near_one_or_far_below_the_first_reading_is_told():
    assert names(read=readings({"effective_rank": 1.3})) == ["rank"]
    assert names(read=readings({"effective_rank": 80.0}, {"effective_rank": 21.0})) == []
    assert names(read=readings({"effective_rank": 80.0}, {"effective_rank": 19.0})) == ["rank"]


def test_a_leak_names_the_shuffle_if_it_is_off_and_the_groups_if_it_is_on():
    (alarm,) = alarms(SETTINGS.model_copy(update={"shuffle_bn": False}), UNLABELLED, [], readings({"leak": 0.6}))
    assert (alarm.name, alarm.remedy) == ("leak", "set pretrain.shuffle_bn: true")
    (alarm,) = alarms(SETTINGS, UNLABELLED, [], readings({"leak": 0.6}))
    assert "raise pretrain.bn_group_size (now 64)" in alarm.remedy


def test_a_solved_pretext_task_is_a_shortcut_only_while_knn_falls():
    solved = curves(2, top1=0.999)
    assert names(steps=solved, read=readings({}, {"knn_top1": 0.82})) == []
    assert names(steps=solved, read=readings({}, {"knn_top1": 0.78})) == ["shortcut"]
    assert names(steps=curves(2), read=readings({}, {"knn_top1": 0.78})) == []


def test_knn_far_below_its_best_is_told_and_chance_in_few_images_is_not():
    fallen = readings({}, {"knn_top1": 0.9}, {"knn_top1": 0.83})
    assert names(read=fallen) == ["knn"]
    assert names(read=fallen, images=58) == []
    assert fell(0.9, 0.6, 58)
    assert not fell(1.0, 57 / 58, 58, least=0.0)
    assert fell(1.0, 50 / 58, 58, least=0.0)


def test_a_loss_at_chance_for_an_epoch_counts_from_the_full_dictionary_on():
    filling = curves(3, loss=8.29, queue_fill=0.9)
    assert names(steps=filling) == []
    later = [{**row, "step": row["step"] + 600, "epoch": row["epoch"] + 3} for row in curves(1.1, loss=8.29)]
    assert names(steps=filling + later[:-1]) == []
    assert names(steps=filling + later) == ["chance"]
    touched = [{**row, "loss": 5.0} if row["step"] == 700 else row for row in later]
    assert names(steps=filling + touched) == []


def test_an_epoch_of_a_few_steps_is_no_time_to_learn():
    short = [{"step": n, "epoch": n / 10, **WELL, "loss": 8.29} for n in range(1, 31)]
    assert names(steps=short) == []


@pytest.mark.parametrize("mechanism", ["memory-bank", "end-to-end"])
def test_no_momentum_is_recommended_to_a_mechanism_without_momentum_encoder(mechanism):
    settings = SETTINGS.model_copy(update={"mechanism": mechanism})
    (alarm,) = alarms(settings, UNLABELLED, curves(1, feature_std=0.01), [])
    assert "momentum" not in alarm.remedy


def test_each_kind_is_said_once_and_not_again_by_a_watch_that_has_seen_the_rows():
    rows, read = curves(4, feature_std=0.01), readings({"leak": 0.6}, {"leak": 0.7})
    assert names(steps=rows, read=read) == ["collapse", "leak"]
    watch = Watch(SETTINGS, Validation(6000, 6000, 512))
    assert [alarm.name for row in rows[:20] for alarm in watch.step(row)] == ["collapse"]
    assert [alarm for row in rows[20:] for alarm in watch.step(row)] == []


def test_labels_are_not_needed_and_an_empty_cell_is_nan():
    assert math.isnan(numbers({"epoch": "2", "leak": ""})["leak"])
    bare = readings({"knn_top1": math.nan, "leak": math.nan}, {"knn_top1": math.nan, "leak": math.nan})
    assert names(steps=curves(2), read=bare, images=0) == []


@pytest.mark.parametrize(
    ("images", "group", "limit"), [(6000, 64, 0.1), (6000, 4, 0.1), (58, 8, 0.189), (58, 64, 1.414)]
)
def test_a_leak_among_few_images_must_be_larger(images, group, limit):
    assert leak_limit(validation_of(images, 0, group).probed) == pytest.approx(limit, abs=1e-3)
