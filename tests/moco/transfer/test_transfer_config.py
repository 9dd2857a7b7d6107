"""The schema of transfer/params.yaml: a key means one thing; an error is one line with the key."""

from pathlib import Path
from typing import get_args

import pytest
import yaml
from small_material import ROOT
from transfer_material import SETTINGS, settings

from moco.errors import MocoError
from moco.settings import validate
from moco.transfer.config import TransferParams, load_transfer_params
from moco.transfer.schedules import SCHEDULES, BoxSizes, LabelSizes, PixelSizes, sizes_of

SIZES = {"semantic": PixelSizes, "classification": LabelSizes}


def test_every_schedule_that_a_task_may_name_is_there_with_sizes_of_its_kind():
    named = {task: get_args(schema.model_fields["schedule"].annotation) for task, (schema, _) in SETTINGS.items()}
    for task, schedules in named.items():
        assert all(isinstance(SCHEDULES[name].sizes, SIZES.get(task, BoxSizes)) for name in schedules)
    assert set().union(*named.values()) == set(SCHEDULES)


def test_sizes_are_the_schedules_where_the_settings_have_none():
    chosen = settings("detection", short_sides=None, long_side=None, test_short_side=None)
    assert sizes_of(chosen, BoxSizes) == BoxSizes(tuple(range(480, 801, 32)), 800, 1333)
    assert sizes_of(settings("detection", test_short_side=None), BoxSizes) == BoxSizes((48, 64), 800, 96)
    assert sizes_of(settings("semantic", crop_size=None), PixelSizes) == PixelSizes(513, (0.5, 2.0))
    assert sizes_of(settings("classification"), LabelSizes) == LabelSizes(16, 16)


@pytest.mark.parametrize("name", ["params", "voc", "coco"])
def test_the_files_of_the_project_are_allowed_and_hold_no_null_but_for_a_set_that_is_not_made(name):
    assert load_transfer_params(ROOT / f"transfer/{name}.yaml").tasks
    lines = (ROOT / f"transfer/{name}.yaml").read_text().splitlines()
    assert [line for line in lines if "null" in line] == ["scenes: null"] * (name != "params")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("tasks=[keypoints]", "tasks names keypoints, which has no section; add it, or leave the task out"),
        ("watched=", "watched = None: input should be a valid string"),
        ("detection.training.neck=", "detection.training.neck = None: input should be 'c4' or 'fpn'"),
        ("semantic.training.neck=fpn", "semantic.training.neck is no known key; remove it"),
        ("detection.training.schedule=3x", "detection.training.schedule = '3x': input should be 'voc-24k', 'coco-1x'"),
        ("semantic.training.schedule=coco-1x", "semantic.training.schedule = 'coco-1x': input should be 'voc-seg'"),
        ("detection.training.crop_size=64", "detection.training.crop_size is no known key; did you mean roi_size?"),
        ("semantic.training.scales=[2, 1]", "semantic.training.scales: [2.0, 1.0] must rise"),
        ("semantic.data.format=coco", "semantic.data.format = coco: choose one of voc, cityscapes"),
        ("detection.data.train=[trainval]", "detection.data.train.0: 'trainval' names no year; write YEAR/LIST"),
        ("instances.data.train=[a.json]", "instances.data.train = ['a.json']: input should be a valid string"),
        ("instances.data.eleven_points=true", "instances.data.eleven_points is no known key; remove it"),
        (
            "classification.data.test=tests",
            "classification.data.test = 'tests': input should be 'train', 'val' or 'test'",
        ),
        ("moco.stem=tiny", "moco.stem: stem = 'tiny' is no known stem; choose one of imagenet, small"),
        ("supervised.kind=file", "with --set supervised.kind: supervised.training is no known key; remove it"),
        ("supervised.kind=weights", "supervised.kind = weights: choose one of trained, file"),
    ],
)
def test_what_does_not_fit_together_is_one_line_that_names_the_key_as_the_file_has_it(change, line):
    values = yaml.safe_load((ROOT / "transfer/params.yaml").read_text())
    key, _, value = change.partition("=")
    with pytest.raises(MocoError) as refused:
        if "." in key:
            validate(values, "params.yaml", TransferParams, [change])
        else:
            validate(values | {key: yaml.safe_load(value)}, "params.yaml", TransferParams)
    assert str(refused.value).startswith((f"{'--set' if '.' in key else 'params.yaml'}: {line}", f"params.yaml {line}"))
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_of_an_earlier_version_gets_one_line_with_every_key_that_changed():
    with pytest.raises(MocoError) as refused:
        load_transfer_params(Path(__file__).with_name("earlier_params.yaml"))
    path, _, rest = str(refused.value).partition(": ")
    assert path.endswith("earlier_params.yaml")
    first, second, *deleted = rest.split("; ")[1:]
    assert first == "add `kind: trained` to supervised"
    assert second == (
        "write instances.data.train, instances.data.test, classification.data.train, classification.data.test as one"
        " name, not a list"
    )
    assert deleted[1:4] == [
        "delete from detection.data: label_maps",
        "delete from detection.training: crop_size, scales, label_fraction",
        "delete from instances.data: label_maps, classes, eleven_points",
    ]
    assert len(deleted) == 9


def test_what_the_line_asks_for_makes_an_earlier_file_a_valid_one():
    path = Path(__file__).with_name("earlier_params.yaml")
    values = yaml.safe_load(path.read_text())
    with pytest.raises(MocoError) as refused:
        load_transfer_params(path)
    values["supervised"]["kind"] = "trained"
    with pytest.raises(MocoError, match=r"random\.kind is missing; add it"):
        validate(values, "params.yaml", TransferParams)
    values["random"] = {"kind": "resnet", "name": values["random"]["architecture"], "stem": values["random"]["stem"]}
    for section in ("instances", "classification"):
        values[section]["data"] |= {side: values[section]["data"][side][0] for side in ("train", "test")}
    for part in str(refused.value).split("; delete from ")[1:]:
        (section, inner), keys = part.split(": ")[0].split("."), part.split(": ")[1].split(", ")
        for key in keys:
            del values[section][inner][key]
    params = validate(values, "params.yaml", TransferParams)
    assert params == load_transfer_params(ROOT / "transfer/params.yaml")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("detection.training.long_side=100", "short_sides (112) must not exceed long_side (100)"),
        ("detection.training.test_short_side=200", "test_short_side (200) must not exceed long_side (144)"),
        ("instances.training.anchor_sizes=[8, 16]", "anchor_sizes ([8, 16]) must be 5 for neck fpn"),
        ("detection.training.proposals_test=[50, 200]", "proposals_test ([50, 200]) must fall"),
        ("classification.training.crop_size=32", "crop_size (32) must not exceed test_short_side (28)"),
    ],
)
def test_values_that_contradict_each_other_are_one_line_with_both(change, told):
    values = yaml.safe_load((ROOT / "transfer/params.yaml").read_text())
    with pytest.raises(MocoError) as refused:
        validate(values, "params.yaml", TransferParams, [change])
    key = change.partition("=")[0]
    assert str(refused.value).startswith(f"params.yaml with --set {key}: {key.rpartition('.')[0]}: {told}")


@pytest.mark.parametrize("key", ["tasks", "inits"])
def test_a_row_of_the_table_is_named_once(key):
    values = yaml.safe_load((ROOT / "transfer/params.yaml").read_text())
    with pytest.raises(MocoError, match=f"{key} .* holds one twice; name each once"):
        validate(values | {key: 2 * values[key]}, "params.yaml", TransferParams)
