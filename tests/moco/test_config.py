"""The schema of params.yaml."""

from pathlib import Path
from typing import get_args

import pytest
import yaml
from mechanisms import SMALL, dictionary
from pydantic import BaseModel

from moco.config import Params, load_params, settings_hash
from moco.errors import MocoError
from moco.transfer.config import TransferParams

PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_the_projects_own_file_is_valid():
    assert load_params(PARAMS).fetch.source == "fashion-mnist"


def test_overrides_are_typed_by_the_schema():
    params = load_params(PARAMS, ["pretrain.epochs=3", "pretrain.views.blur_p=0.25", "shard.max_side=null"])
    assert (params.pretrain.epochs, params.pretrain.views.blur_p, params.shard.max_side) == (3, 0.25, None)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("pretrain.epochs=0", "pretrain.epochs = 0: input should be greater than or equal to 1"),
        ("pretrain.tau=0.1", "pretrain.tau is no known key"),
        ("pretrain.dictionary.momentum=1.0", "pretrain.dictionary.momentum = 1.0"),
        ("pretrain.dictionary.momentum=-0.1", "pretrain.dictionary.momentum = -0.1"),
        ("pretrain.dictionary.num_keys=0", "pretrain.dictionary.num_keys = 0"),
        ("pretrain.dictionary={kind: memory-bank, momentum: 0.5, num_keys: 0}", "pretrain.dictionary.num_keys = 0"),
        (
            "pretrain.dictionary.kind=queue",
            "pretrain.dictionary.kind = queue: choose one of momentum-queue, memory-bank",
        ),
        ("pretrain.images_fraction=0", "pretrain.images_fraction = 0"),
        ("fetch.source=mnist", "fetch.source = 'mnist'"),
        ("pretrain.bn_group_size=48", "must be a multiple of bn_group_size"),
        ("fetch.val_fraction=0.95", "must be below 1"),
        ("pretrian.epochs=3", "no section 'pretrian'"),
        ("epochs=3", "expected SECTION.KEY=VALUE"),
        ("pretrain.epochs", "expected SECTION.KEY=VALUE"),
        ("pretrain.epochs=[", "not valid YAML (expected the node content, but found '<stream end>'); quote it"),
    ],
)
def test_a_wrong_key_or_value_is_one_clear_line(override, told):
    with pytest.raises(MocoError) as error:
        load_params(PARAMS, [override])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_broken_or_incomplete_is_named(tmp_path):
    with pytest.raises(MocoError, match="no such file"):
        load_params(tmp_path / "params.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("fetch: [1,\nshard: 2")
    with pytest.raises(MocoError, match=r"broken\.yaml:2: not valid YAML"):
        load_params(broken)
    values = yaml.safe_load(PARAMS.read_text())
    del values["pretrain"]["temperature"]
    broken.write_text(yaml.safe_dump(values))
    with pytest.raises(MocoError, match=r"pretrain\.temperature is missing"):
        load_params(broken)


def test_the_hash_of_settings_follows_their_values_not_their_order():
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})
    assert settings_hash(load_params(PARAMS).shard) == settings_hash(load_params(PARAMS).shard)


@pytest.mark.parametrize("kind", ["{kind: memory-bank, num_keys: 9, momentum: 0.5", "{kind: end-to-end"])
@pytest.mark.parametrize("setting", ["symmetric: true", "momentum_schedule: cosine", "start: keys"])
def test_what_a_mechanism_cannot_do_is_no_key_of_it(kind, setting):
    with pytest.raises(MocoError, match=f"pretrain.dictionary.{setting.split(':')[0]} is no known key"):
        load_params(PARAMS, [f"pretrain.dictionary={kind}, {setting}}}"])


def test_negatives_are_the_queues_the_draws_or_the_rest_of_the_batch():
    settings = load_params(PARAMS).pretrain
    sizes = {kind: settings.model_copy(update={"dictionary": dictionary(kind)}).negatives for kind in SMALL}
    assert sizes == {"momentum-queue": 100, "memory-bank": 100, "end-to-end": 127, "momentum-batch": 127}


def test_the_keys_of_an_earlier_version_are_one_line_that_says_where_they_are_now(tmp_path):
    lines = PARAMS.read_text().replace(
        "  dictionary:\n", "  mechanism: momentum-queue\n  queue_size: 9\n  dictionary:\n"
    )
    (tmp_path / "params.yaml").write_text(lines.replace("  neighbors:", "  neighbours:"))  # codespell:ignore neighbours
    with pytest.raises(MocoError) as error:
        load_params(tmp_path / "params.yaml")
    moved = (
        "pretrain.mechanism -> pretrain.dictionary.kind, pretrain.queue_size -> pretrain.dictionary.num_keys,"
        " report.neighbours -> report.neighbors"  # codespell:ignore neighbours
    )
    assert (
        str(error.value) == f"{tmp_path}/params.yaml: these keys have moved: {moved}; CHANGELOG.md shows the new form"
    )


def fields_of(schema) -> set[str]:
    """Names of all keys of a schema and of the sections and kinds within it."""
    found, left = set(), [schema]
    while left:
        kind = left.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= set(kind.model_fields)
            left += [field.rebuild_annotation() for field in kind.model_fields.values()]
        else:
            left += get_args(kind)
    return found


@pytest.mark.parametrize("schema", [Params, TransferParams])
def test_no_key_has_a_name_that_the_run_cache_of_dvc_leaves_out(schema):
    assert {"momentum", "seed"} & fields_of(schema)
    assert not {"size", "nfiles"} & fields_of(schema)  # runs that differ in them alone would restore each other
