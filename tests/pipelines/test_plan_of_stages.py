"""`moco plan` says what would run, why, and how long it took, and runs nothing."""

import os
import sys
from pathlib import Path

import pytest
import yaml
from test_versions import dvc

from pipelines import stage
from pipelines.cli import main
from pipelines.plan import plan

STAGES = """\
stages:
  fetch:
    cmd: echo data > raw
    always_changed: true
    outs: [raw]
  train:
    cmd: echo weights > encoder
    deps: [raw, moco/net.py]
    params: [pretrain, linear.seed]
    outs: [encoder]
  judge:
    cmd: echo good > page
    deps: [encoder]
    outs: [page]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "params.yaml").write_text("pretrain: {epochs: 1, views: {order: v2}}\nlinear: {seed: 0, epochs: 3}\n")
    (tmp_path / "moco").mkdir()
    (tmp_path / "moco/net.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    dvc(tmp_path, "init", "--no-scm", "-q")
    return tmp_path


def test_before_the_first_run_everything_runs_and_nothing_is_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["plan"])
    said = capsys.readouterr().out
    for name in ("fetch", "train", "judge"):
        assert f"runs       {name}: it has not run yet" in said
    assert not (project / "encoder").exists()


def test_changed_values_code_and_lost_outputs_are_named_with_what_follows(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dvc(project, "repro")
    assert [(one.stage, one.runs, one.why) for one in plan(project)] == [
        ("fetch", None, ""),
        ("train", False, ""),
        ("judge", False, ""),
    ]
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["pretrain"]["views"]["order"], values["linear"] = "v1", {"seed": 4, "epochs": 9}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    (project / "moco/net.py").write_text("x = 2\n")
    with stage.alone("train"):
        pass
    main(["plan"])
    said = capsys.readouterr().out
    assert "looks      fetch: whether there is anything new" in said
    assert "runs       train: linear.seed 0 -> 4; pretrain.views.order 'v2' -> 'v1'; code changed: moco/net.py" in said
    assert "(took 0 s the last time)" in said
    assert "may run    judge: if train makes something new" in said
    assert "without judge" in said
    (project / "page").unlink()
    assert [one.why for one in plan(project)][-1] == "outputs missing or changed: page"
