from pathlib import Path

import pytest
from pydantic import ValidationError

from flows import parameters
from moco.config import Params, load_params

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
Pretrain = parameters.with_defaults(type(PARAMS.pretrain), PARAMS.pretrain)


def test_a_section_left_as_it_is_has_the_values_of_the_file_and_overrides_nothing() -> None:
    assert Pretrain().model_dump() == PARAMS.pretrain.model_dump()
    assert parameters.overrides({"pretrain": Pretrain()}, PARAMS) == {}


def test_a_part_of_a_section_is_enough_at_any_depth() -> None:
    given = Pretrain(epochs=PARAMS.pretrain.epochs + 1, views={"hue": 0.25})
    assert given.temperature == PARAMS.pretrain.temperature
    assert given.views.flip_p == PARAMS.pretrain.views.flip_p
    assert parameters.overrides({"pretrain": given}, PARAMS) == {
        "pretrain.epochs": PARAMS.pretrain.epochs + 1,
        "pretrain.views.hue": 0.25,
    }


def test_a_value_given_as_it_is_already_overrides_nothing() -> None:
    given = Pretrain(**PARAMS.pretrain.model_dump())
    assert parameters.overrides({"pretrain": given}, PARAMS) == {}


def test_an_inner_section_may_come_and_go() -> None:
    streams = {"lanes": 4, "window": 64}
    assert parameters.overrides({"pretrain": Pretrain(stream=streams)}, PARAMS) == {"pretrain.stream": streams}
    values = PARAMS.pretrain.model_copy(update={"stream": Pretrain(stream=streams).stream})
    streamed = parameters.with_defaults(type(values), values)
    workspace = PARAMS.model_copy(update={"pretrain": values})
    assert parameters.overrides({"pretrain": streamed(stream=None)}, workspace) == {"pretrain.stream": None}
    assert parameters.overrides({"pretrain": streamed(stream={"lanes": 8})}, workspace) == {"pretrain.stream.lanes": 8}


def test_what_was_not_given_follows_a_file_that_changed_since() -> None:
    later = PARAMS.model_copy(update={"pretrain": PARAMS.pretrain.model_copy(update={"temperature": 0.5})})
    assert parameters.overrides({"pretrain": Pretrain(seed=7)}, later) == {"pretrain.seed": 7}


@pytest.mark.parametrize(
    "values", [{"epochs": 0}, {"epoch": 1}, {"views": {"hue": 2}}, {"global_batch": 100, "bn_group_size": 32}]
)
def test_the_schema_still_refuses(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pretrain(**values)


def test_the_form_shows_descriptions_and_defaults_of_inner_sections_too() -> None:
    schema = Pretrain.model_json_schema()
    epochs = schema["properties"]["epochs"]
    assert (epochs["default"], epochs["minimum"]) == (PARAMS.pretrain.epochs, 1)
    assert epochs["description"] == "Passes over the training images."
    assert schema["$defs"]["Views"]["properties"]["hue"]["default"] == PARAMS.pretrain.views.hue


def test_another_kind_of_dictionary_may_be_chosen_and_a_part_of_the_present_one_is_enough() -> None:
    other = Pretrain(dictionary={"kind": "memory-bank", "num_keys": 9, "momentum": 0.5})
    assert parameters.overrides({"pretrain": other}, PARAMS) == {
        "pretrain.dictionary": {"kind": "memory-bank", "num_keys": 9, "momentum": 0.5}
    }
    network = Pretrain(encoder={"kind": "timm", "name": "resnet10t", "freeze": ["layer1"]})
    found = parameters.overrides({"pretrain": network}, PARAMS)["pretrain.encoder"]
    assert found == {"kind": "timm", "name": "resnet10t", "options": {}, "freeze": ["layer1"]}  # as YAML takes it
    smaller = Pretrain(dictionary={"num_keys": 9})
    assert parameters.overrides({"pretrain": smaller}, PARAMS) == {"pretrain.dictionary.num_keys": 9}


def test_the_flow_takes_every_section_of_the_parameter_file() -> None:
    from inspect import signature

    from flows.pretrain_and_evaluate import pretrain_and_evaluate

    assert [*Params.model_fields, "retries"] == list(signature(pretrain_and_evaluate.fn).parameters)
