"""Every mistake in a settings file is answered by one line, before anything is done."""

from collections import Counter

import pytest
import yaml
from mistakes import ROOT, SCHEMAS, Mistake, fields, files, mistakes, put

from moco.config import Params
from moco.errors import MocoError
from moco.settings import validate
from moco.yaml_files import read_yaml


@pytest.fixture(scope="module")
def all_mistakes() -> list[Mistake]:
    return list(mistakes())


def test_every_mistake_is_one_line_with_file_key_and_value(all_mistakes):
    faults = [(one.key, one.kind, fault) for one in all_mistakes if (fault := one.fault())]
    assert faults == []


def test_the_walk_makes_mistakes_of_each_kind_in_each_file(all_mistakes):
    made = Counter((one.file, one.kind) for one in all_mistakes)
    assert len(made) == 3 * 5
    assert min(made.values()) >= 5


def test_every_number_of_every_file_has_a_lower_and_an_upper_bound():
    unbounded = set()
    for file, values in files():
        for key, schema in fields(validate(values, file, SCHEMAS[file]), values):
            for one in (inner for outer in schema.get("anyOf", [schema]) for inner in (outer, outer.get("items", {}))):
                if one.get("type") in ("integer", "number"):
                    low, high = {"minimum", "exclusiveMinimum"} & set(one), {"maximum", "exclusiveMaximum"} & set(one)
                    if not (low and high):
                        unbounded.add(f"{file} {key}")
    assert unbounded == set()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["pretrain.dim=true"], "--set: pretrain.dim = True: input should be a valid integer"),
        (["pretrain.dim='3'"], "--set: pretrain.dim = '3': input should be a valid integer, without quotes"),
        (["fetch.path=5"], "--set: fetch.path = 5: input should be a valid string; put it in quotes"),
        (["pretrain.epoch=3"], "--set: pretrain.epoch is no known key; did you mean epochs?"),
        (["pretrain.views={}"], "--set: pretrain.views.order is missing; add it; "),
        (["pretrain.head=mlpbn"], "'mlp-bn'; did you mean mlp-bn?"),
        (["pretrain.dictionary.kind=memory-bnk"], "momentum-batch; did you mean memory-bank?"),
        (["pretrain.optimizer.kind=adamw"], "values.yaml with --set pretrain.optimizer.kind: pretrain.optimizer.momentum"),
        (["pretrain.bn_group_size=48"], "values.yaml with --set pretrain.bn_group_size: pretrain: global_batch (128)"),
        (["pretrian.epochs=3"], "there is no section 'pretrian'; did you mean pretrain?"),
        (["pretrain.viewz.hue=0"], "there is no section 'pretrain.viewz'; did you mean views?"),
        (
            ["pretrain.stream.lanes=4"],
            "the file has no pretrain.stream; set it whole: 'pretrain.stream={lanes: 4}'",
        ),
        (["pretrain.shuffle_bn=yes"], "pretrain.shuffle_bn = 'yes': input should be a valid boolean; write true or false"),
        (["pretrain.epochs.x=0"], "pretrain.epochs is no section, it holds 5"),
        (["fetch.path=2026-02-28"], "2026-02-28 reads as a date; put it in quotes"),
        (["fetch.path=2026-02-30"], "2026-02-30 reads as a date; put it in quotes"),
        (["fetch.path=" + "x" * 100_000], "xxx'… (100,000 characters)"),
        (["pretrain.encoder.name=" + "x" * 4000], "pretrain.encoder.name: 'xxx"),
        (["fetch." + "x" * 100_000 + "=1"], "xxx… is no known key"),
    ],
)  # fmt: skip
def test_a_line_says_what_came_from_the_command_line(overrides, told):
    with pytest.raises(MocoError) as error:
        validate(read_yaml(ROOT / "params.yaml"), "values.yaml", Params, overrides)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_what_the_file_has_wrong_beside_the_command_line_is_told_as_the_files():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    put(values, "report.views", 0)
    with pytest.raises(MocoError) as error:
        validate(values, "params.yaml", Params, ["pretrain.dim=0"])
    assert str(error.value) == (
        "--set: pretrain.dim = 0: input should be greater than or equal to 2;"
        " params.yaml: report.views = 0: input should be greater than or equal to 1"
    )
