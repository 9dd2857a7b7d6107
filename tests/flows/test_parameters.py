from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows import parameters
from flows.ingest import ingest
from flows.parameters import Pretrain, form_of
from flows.pretrain_and_evaluate import pretrain_and_evaluate
from flows.study import study
from flows.transfer import transfer
from moco.config import Params, load_params
from moco.errors import MocoError

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


def changes(
    given: dict[str, Any], preset: str = parameters.AS_IT_IS, others: Sequence[str] = (), workspace: Params = PARAMS
) -> dict[str, Any]:
    return parameters.changes(workspace, preset, given, others)


def test_an_empty_form_changes_nothing() -> None:
    assert changes({"pretrain": None, "pretrain.epochs": None}) == {}
    assert changes({"pretrain": Pretrain()}, others=[]) == {}


def test_a_part_of_a_section_is_enough_at_any_depth() -> None:
    given = Pretrain(epochs=PARAMS.pretrain.epochs + 1, views={"hue": 0.25})
    assert changes({"pretrain": given}) == {"pretrain.epochs": PARAMS.pretrain.epochs + 1, "pretrain.views.hue": 0.25}


def test_a_value_given_as_it_is_already_changes_nothing() -> None:
    assert changes({"pretrain": Pretrain(**PARAMS.pretrain.model_dump(mode="json"))}) == {}


def test_what_is_empty_follows_a_file_that_changed_since() -> None:
    later = PARAMS.model_copy(update={"pretrain": PARAMS.pretrain.model_copy(update={"temperature": 0.5})})
    assert changes({"pretrain": Pretrain(seed=7)}, workspace=later) == {"pretrain.seed": 7}


def test_an_inner_section_may_come_and_go() -> None:
    streams = {"lanes": 4, "window": 64}
    assert changes({"pretrain": Pretrain(stream=streams)}) == {"pretrain.stream": streams}
    values = PARAMS.pretrain.model_copy(update={"stream": Pretrain(stream=streams).stream})
    streamed, workspace = form_of(type(values), values), PARAMS.model_copy(update={"pretrain": values})
    assert changes({}, others=["pretrain.stream=null"], workspace=workspace) == {"pretrain.stream": None}
    given = {"pretrain": streamed(stream={"lanes": 8})}
    assert changes(given, workspace=workspace) == {"pretrain.stream.lanes": 8}


def test_another_kind_of_dictionary_may_be_chosen_and_a_part_of_the_present_one_is_enough() -> None:
    bank = {"kind": "memory-bank", "num_keys": 9, "momentum": 0.5}
    assert changes({"pretrain": Pretrain(dictionary=bank)}) == {"pretrain.dictionary": bank}
    network = Pretrain(encoder={"kind": "timm", "name": "resnet10t", "freeze": ["layer1"]})
    found = changes({"pretrain": network})["pretrain.encoder"]
    assert found == {"kind": "timm", "name": "resnet10t", "options": {}, "freeze": ["layer1"]}  # as YAML takes it
    assert changes({"pretrain": Pretrain(dictionary={"num_keys": 9})}) == {"pretrain.dictionary.num_keys": 9}


def test_a_preset_comes_first_and_the_fields_below_change_it() -> None:
    found = changes({"pretrain.epochs": 3}, preset="v2", others=["linear.epochs=7"])
    assert (found["pretrain.epochs"], found["linear.epochs"]) == (3, 7)
    assert (found["pretrain.encoder.name"], found["pretrain.image_size"]) == ("resnet50", 224)


@pytest.mark.parametrize("values", [{"epochs": 0}, {"epoch": 1}, {"views": {"hue": 2}}, {"seed": "7"}])
def test_a_field_refuses_what_it_cannot_be(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pretrain(**values)


@pytest.mark.parametrize(
    ("given", "others", "told"),
    [
        ({"pretrain.global_batch": 100}, [], r"the form's pretrain.global_batch: .*multiple of bn_group_size"),
        ({"pretrain.epochs": 3, "pretrain": Pretrain(epochs=4)}, [], "has pretrain.epochs twice, as 3 and as 4"),
        ({}, ["pretrain.epoch=3"], "did you mean epochs"),
    ],
)
def test_what_is_wrong_together_is_one_line(given: dict[str, Any], others: list[str], told: str) -> None:
    with pytest.raises(MocoError, match=told):
        changes(given, others=others)


@pytest.mark.parametrize("flow", [ingest, pretrain_and_evaluate, transfer, study])
def test_each_field_of_a_form_has_its_description_and_none_posts_a_value_of_the_file(flow: Any) -> None:
    schema = parameter_schema(flow.fn).model_dump()
    for name, field in schema["properties"].items():
        assert field["description"].endswith((".", ")")), name
        assert "default" in field or flow is ingest, name  # which takes nothing in without paths
    for section in Params.model_fields:
        for name, field in schema["definitions"].get(section.title(), {"properties": {}})["properties"].items():
            assert field.get("default") is None, name
            assert field["description"], name
            assert field.get("type") != "boolean", name  # the form would post false for a switch that nobody touched


def test_the_form_shows_ranges_and_present_values_and_begins_with_what_people_change() -> None:
    schema = parameter_schema(pretrain_and_evaluate.fn).model_dump()
    assert list(schema["properties"])[:2] == ["preset", "basics"]
    assert schema["properties"]["basics"]["default"] == {}
    basics = schema["definitions"]["Basics"]["properties"]
    assert list(basics) == list(parameters.BASICS)
    assert basics["epochs"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 100_000,
        "title": "Epochs",
        "description": f"Passes over the training images. Now: {PARAMS.pretrain.epochs}.",
    }
