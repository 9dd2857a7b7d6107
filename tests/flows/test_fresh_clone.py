"""A clone of the project on another machine, with what its DVC remote holds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from s3_store import KEYS, keep_on_s3, s3_server
from small_material import copy_project
from small_pipeline import Pipeline


@pytest.fixture(scope="module", params=["folder", "s3"])
def origin(
    request: pytest.FixtureRequest, plain_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    """The project, every stage made (of a few bytes), committed and pushed."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    copy_project(folder)
    project = Pipeline(folder, plain_env | KEYS | {"PWD": str(folder)})
    for stage in yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].values():
        for kind in ("outs", "metrics", "plots"):
            for path in (
                folder / (name if isinstance(name, str) else next(iter(name))) for name in stage.get(kind, [])
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix:
                    path.write_text("{}\n" if path.suffix == ".json" else "step,loss\n1,2\n")
                else:
                    path.mkdir()
                    (path / "content").write_text(path.name)
    project.git("init", "--quiet")
    project.dvc("commit", "--force")
    with s3_server() as url:
        if request.param == "s3":
            keep_on_s3(project.dvc, url)
        else:
            project.dvc("remote", "add", "--default", "store", str(folder.parent / "store"))
        project.dvc("push", "--run-cache")
        project.commit()
        yield project


def clone(origin: Pipeline, folder: Path) -> Pipeline:
    origin.git("clone", "--quiet", str(origin.folder), str(folder))
    return Pipeline(folder, origin.env | {"PWD": str(folder), "PYTHONPATH": str(folder)})


def test_pull_brings_everything_and_ends_well(origin: Pipeline, tmp_path: Path) -> None:
    fresh = clone(origin, tmp_path / "clone")
    said = fresh.dvc("pull")  # exit code 0
    assert "outputs/transfer" not in said
    assert (fresh.folder / "outputs/pretrain/encoder/content").read_text() == "encoder"
    assert fresh.dvc("status").split() == ["fetch:", "always", "changed"]  # it looks each time
    assert fresh.dvc("diff") == ""


def test_one_stage_is_run_again_with_what_it_needs_alone(origin: Pipeline, tmp_path: Path) -> None:
    fresh = clone(origin, tmp_path / "clone")
    stages = yaml.safe_load((fresh.folder / "dvc.yaml").read_text())
    made = " ".join(stages["stages"]["linear"]["metrics"] + stages["stages"]["linear"]["plots"])
    stages["stages"]["linear"]["cmd"] = f"mkdir -p outputs/linear && touch {made}"
    fresh.write(stages["stages"])
    assert "Running stage 'linear'" in fresh.dvc("repro", "--pull", "--single-item", "linear")
    assert (fresh.folder / "outputs/pretrain/encoder/content").exists()
    assert not (fresh.folder / "data/raw").exists()
