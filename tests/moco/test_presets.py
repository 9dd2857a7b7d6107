"""Presets write the published values and leave the rest of the file alone."""

import subprocess
from pathlib import Path

import pytest
import yaml

from moco import presets
from moco.config import load_params
from moco.errors import MocoError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    return path


@pytest.mark.parametrize("name", presets.NAMES)
def test_a_preset_states_every_value_of_the_section_and_fits_the_schema(name, params):
    presets.apply(name, params)
    written = load_params(params).pretrain.model_dump(mode="json")
    stated = yaml.safe_load((presets.FOLDER / f"{name}.yaml").read_text())["pretrain"]
    assert written == stated


def test_the_committed_parameters_are_the_small_preset():
    committed = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True)
    if committed.returncode:
        pytest.skip("not a git checkout")
    small = yaml.safe_load((presets.FOLDER / "small.yaml").read_text())["pretrain"]
    assert yaml.safe_load(committed.stdout)["pretrain"] == small


def test_there_and_back_restores_the_file_to_the_byte(params):
    before = params.read_bytes()
    assert presets.apply("v2", params)
    assert params.read_bytes() != before
    presets.apply("small", params)
    assert params.read_bytes() == before


def test_other_sections_and_comments_stay(params):
    text = params.read_text().replace("source: fashion-mnist", "source: folder")
    params.write_text(text.replace("    num_keys: 4096", "    num_keys: 4096 # the dictionary"))
    presets.apply("v1", params)
    assert "source: folder # fashion-mnist | folder" in params.read_text()
    assert "num_keys: 65536 # the dictionary" in params.read_text()


def test_changes_are_reported_with_both_values(params):
    changes = presets.apply("v2", params)
    assert "pretrain.encoder.name: thin -> resnet50" in changes
    assert "pretrain.views.blur_p: 0.0 -> 0.5" in changes
    assert not any(change.startswith("pretrain.dim") for change in changes)
    assert presets.apply("v2", params) == []


def test_a_missing_section_or_key_is_filled_in_and_a_stray_one_removed(params):
    values = yaml.safe_load(params.read_text())
    params.write_text(yaml.safe_dump({**values, "pretrain": {"encoder": {"name": "thin"}, "typo": 1}}))
    assert "pretrain.typo: removed" in presets.apply("cifar", params)
    assert load_params(params).pretrain.encoder.name == "resnet18"
    params.write_text(yaml.safe_dump({name: values[name] for name in values if name != "pretrain"}))
    presets.apply("small", params)
    assert yaml.safe_load(params.read_text())["pretrain"] == values["pretrain"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", r"params.yaml:\d+: not valid YAML"),
        ("3", r"holds a number \(3\), expected lines of KEY: VALUE"),
        ("", "holds nothing, expected lines of KEY: VALUE"),
        ("fetch: {source: x}", "fetch.source = 'x'"),
    ],
)
def test_a_file_that_cannot_take_a_preset_is_named_and_left_as_it_was(params, text, complaint):
    params.write_text(text)
    with pytest.raises(MocoError, match=complaint):
        presets.apply("v2", params)
    assert params.read_text() == text


def test_an_unknown_preset_is_answered_with_the_known_ones(params):
    with pytest.raises(MocoError, match="'v3' is unknown; choose one of small, cifar, v1, v2, vit"):
        presets.apply("v3", params)


def test_v1_and_v2_differ_in_what_the_second_paper_changed(params):
    presets.apply("v1", params)
    v1 = load_params(params).pretrain
    presets.apply("v2", params)
    v2 = load_params(params).pretrain
    assert (v1.head, v1.temperature, v1.schedule, v1.milestones) == ("linear", 0.07, "steps", [0.6, 0.8])
    assert (v2.head, v2.temperature, v2.schedule, v2.views.blur_p) == ("mlp", 0.2, "cosine", 0.5)
    assert v1.dictionary.num_keys == v2.dictionary.num_keys == 65536
    assert v1.views.jitter_p == 1 and v1.views.hue == 0.4 and v1.views.blur_p == 0
