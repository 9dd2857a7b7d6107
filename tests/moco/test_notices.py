"""What is allowed and does nothing is said; what the recipes hold is not complained of."""

from pathlib import Path

import pytest

from moco import notices, presets
from moco.config import load_params
from moco.errors import MocoError

PARAMS = Path(__file__).parents[2] / "params.yaml"


def said(*overrides: str) -> list[str]:
    return notices.of_params(load_params(PARAMS, overrides))


@pytest.mark.parametrize("name", presets.NAMES)
def test_no_recipe_holds_a_value_that_does_nothing(name, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text())
    presets.apply(name, path)
    assert notices.of_params(load_params(path)) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["dictionary.num_keys=127"], "pretrain.dictionary.num_keys = 127 is less than pretrain.global_batch = 128: only"),
        (["bn_group_size=128"], "pretrain.shuffle_bn = true does nothing: pretrain.bn_group_size = 128 is the whole"),
        (["dictionary={kind: memory-bank, num_keys: 9, momentum: 0.5}"], "pretrain.shuffle_bn = true does nothing: keys of"),
        (["warmup_epochs=5"], "pretrain.warmup_epochs = 5 is as long as pretrain.epochs = 5: the rate never reaches"),
        (["milestones=[0.5]"], "pretrain.milestones = [0.5] does nothing: pretrain.schedule is cosine"),
        (["schedule=steps"], "pretrain.schedule = steps does nothing: pretrain.milestones is empty"),
        (["views.order=v1", "views.blur_p=0.5"], "pretrain.views.blur_p = 0.5 does nothing"),
        ([f"views.{key}=0" for key in ("brightness", "contrast", "saturation", "hue")], "pretrain.views.jitter_p = 0.8 does"),
        (["encoder.stem=imagenet"], "pretrain.image_size = 28 is less than the 32 pixels that one feature"),
    ],
)  # fmt: skip
def test_what_does_nothing_in_pretraining_is_said_once(overrides, line):
    lines = said(*(f"pretrain.{override}" for override in overrides))
    assert len(lines) == 1
    assert lines[0].startswith(line)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("fetch.labels=none", "fetch.labels = none does nothing: the source fashion-mnist"),
        ("shard.max_side=16", "shard.max_side = 16 is less than pretrain.image_size = 28"),
        ("linear.learning_rates=[1, 1]", "linear.learning_rates = [1.0, 1.0] names a rate twice"),
    ],
)
def test_what_does_nothing_in_other_sections_is_said(override, line):
    assert [text for text in said(override) if text.startswith(line)] == said(override) != []


@pytest.mark.parametrize("source", ["folder", "tars"])
def test_sources_whose_labels_may_be_ignored_are_said_nothing_of_and_have_no_labelled_images(source):
    without = [f"fetch.source={source}", "fetch.path=x", "fetch.labels=none"]
    assert said(*without) == []
    with pytest.raises(MocoError, match=r"pretrain\.images \(labelled\) finds none"):
        said(*without, "pretrain.images=labelled")


def test_what_the_data_makes_useless_is_said():
    settings = load_params(PARAMS).pretrain
    assert notices.of_data(settings, 4096, 1) == []
    assert ["4096 keys are more than the 4095" in line for line in notices.of_data(settings, 4095, 1)] == [True]
    assert ["there is no validation image" in line for line in notices.of_data(settings, 4096, 0)] == [True]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["pretrain.encoder.stem=9x9-stride1-padding0-nopool", "pretrain.image_size=8"], "image_size (8) must not be less than 9"),
        (["fetch.source=folder", "fetch.labels=none", "pretrain.images=labelled"], "pretrain.images (labelled) finds none"),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_refused_with_both_keys(overrides, told):
    with pytest.raises(MocoError) as error:
        load_params(PARAMS, overrides)
    assert told in str(error.value)
    assert "with --set" in str(error.value)
