from pathlib import Path

import pytest
from small_pipeline import Pipeline

from flows.graph import code_hash, stages_in_order
from moco.errors import MocoError


def test_stages_come_after_what_they_need(alone: Pipeline) -> None:
    order = list(stages_in_order(alone.folder))
    assert order.index("fetch") < order.index("pretrain") < order.index("linear") < order.index("report")


def test_siblings_wait_for_the_same_stage_and_not_for_each_other(alone: Pipeline) -> None:
    stages = stages_in_order(alone.folder)
    assert stages["linear"] == stages["detect"] == ["pretrain"]
    assert stages["report"] == ["detect", "linear"]
    assert stages["fetch"] == []


def test_each_stage_of_a_matrix_is_a_stage(alone: Pipeline) -> None:
    stages = {
        "train": {"matrix": {"seed": [1, 2]}, "cmd": "touch out${item.seed}", "outs": ["out${item.seed}"]},
        "last": {"cmd": "cat out1 out2", "deps": ["out1", "out2"]},
    }
    alone.write(stages)
    assert stages_in_order(alone.folder) == {"train@1": [], "train@2": [], "last": ["train@1", "train@2"]}


def test_a_pipeline_in_a_folder_below_is_named_as_dvc_names_it_from_the_root(
    alone: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    below = alone.folder / "below"
    below.mkdir()
    (below / "dvc.yaml").write_text("stages: {more: {cmd: touch x, deps: [../encoder], outs: [x]}}")
    monkeypatch.chdir(tmp_path)
    stages = stages_in_order(alone.folder, "below/dvc.yaml")
    assert stages == {"fetch": [], "pretrain": ["fetch"], "below/dvc.yaml:more": ["pretrain"]}
    assert "below/dvc.yaml:more" not in stages_in_order(alone.folder)


def test_data_under_dvc_add_is_no_stage(alone: Pipeline) -> None:
    (alone.folder / "table.csv").write_text("1")
    alone.dvc("add", "--quiet", "table.csv")
    alone.change("fetch", deps=["${fetch.path}", "table.csv"])
    stages = stages_in_order(alone.folder)
    assert stages["fetch"] == []
    assert "table.csv.dvc" not in stages


def test_a_mistake_in_dvc_yaml_is_one_line(alone: Pipeline) -> None:
    alone.change("pretrain", deps=["report.json"], outz=["x"])
    with pytest.raises(MocoError) as caught:
        stages_in_order(alone.folder)
    assert str(caught.value).startswith("dvc.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_pipeline_without_stages_is_an_error(alone: Pipeline) -> None:
    alone.write({})
    with pytest.raises(MocoError, match="no stages"):
        stages_in_order(alone.folder)


@pytest.mark.parametrize("data", ["images", "../photos"])
def test_the_hash_of_the_code_follows_the_code_and_neither_data_nor_what_python_leaves(
    alone: Pipeline, data: str
) -> None:
    code = alone.folder / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    images = alone.folder / data
    images.mkdir()
    (images / "a.png").write_bytes(b"1")
    alone.write(
        {
            "shard": {"cmd": "touch out", "deps": [data, "code"], "outs": ["out"]},
            "train": {"cmd": "touch end", "deps": ["out", "alone.py"], "outs": ["end"]},
        }
    )
    (alone.folder / "alone.py").write_text("1")

    def now() -> str:
        return code_hash(alone.folder, ["shard", "train"], data)

    first = now()
    (images / "b.png").write_bytes(b"2")
    (alone.folder / "out").write_text("made")
    (code / "__pycache__").mkdir()
    (code / "__pycache__/a.pyc").write_bytes(b"2")
    assert now() == first
    assert code_hash(alone.folder, ["shard"], data) != first
    (code / "a.py").write_text("2")
    assert (second := now()) != first
    (code / "a.py").rename(code / "b.py")
    assert now() not in (first, second)


def test_code_outside_the_project_counts_too(alone: Pipeline) -> None:
    library = alone.folder.parent / "library.py"
    library.write_text("1")
    alone.write({"train": {"cmd": "touch end", "deps": ["../library.py"], "outs": ["end"]}})
    first = code_hash(alone.folder, ["train"], "data/inbox")
    library.write_text("2")
    assert code_hash(alone.folder, ["train"], "data/inbox") != first
