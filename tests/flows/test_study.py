"""Studies as a person runs them, on a few images: experiments, resuming, failures, MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_pipeline import Pipeline, processes_with, wait_until
from test_two_drivers import clone

from moco.locks import exclusive

TINY = {
    "title": "A tiny study",
    "question": "Does it run?",
    "source": "nowhere",
    "metric": "linear_top1",
    "axis": {"label": "K", "kind": "log2"},
    "scales": {
        "laptop": {
            "stated": "Seconds.",
            "seeds": [0],
            "runs": [
                {"series": "MoCo", "x": 32, "set": {"pretrain.dictionary.num_keys": 32}},
                {"series": "MoCo", "x": 64, "set": {"pretrain.dictionary.num_keys": 64}},
            ],
        }
    },
}
NAMES = ["tiny-laptop-moco-32-s0", "tiny-laptop-moco-64-s0"]


def with_runs(runs: list[dict[str, object]], **grid: object) -> dict[str, object]:
    values = json.loads(json.dumps(TINY))
    values["scales"]["laptop"] |= {"runs": runs} | grid
    return values  # type: ignore[no-any-return]


def study(pipeline: Pipeline, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.study", *(arguments or ["tiny"])]
    return pipeline.run(*command, check=check, timeout=600)


def write(pipeline: Pipeline, values: dict[str, object], name: str = "tiny") -> None:
    (pipeline.folder / f"studies/{name}.yaml").write_text(yaml.safe_dump(values))


def ran(done: subprocess.CompletedProcess[str], stage: str) -> int:
    return done.stderr.count(f"Running stage '{stage}'")


def nothing_ran(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether no stage ran but the one that looks for new images each time."""
    return done.stderr.count("Running stage '") == ran(done, "fetch")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, server_env: dict[str, str]) -> Pipeline:
    """The project on a few images, with a study of two runs that is done."""
    folder = tmp_path_factory.mktemp("study") / "project"
    pipeline = clone(folder, server_env | {"PYTHONPATH": str(folder)})
    write(pipeline, TINY)
    pipeline.commit()
    done = study(pipeline)
    assert (ran(done, "fetch"), ran(done, "pretrain"), ran(done, "linear")) == (1, 2, 2)
    return pipeline


@pytest.mark.slow
def test_every_run_is_an_experiment_that_dvc_lists_and_applies(project: Pipeline) -> None:
    table = project.dvc("exp", "show", "--csv")
    assert all(name in table for name in NAMES)
    assert len(project.git("worktree", "list").splitlines()) == 1
    assert project.git("status", "--porcelain") == "?? dvc.lock"
    before = (project.folder / "params.yaml").read_text()
    # It names outputs of pipelines that were never run, such as transfer's, as missing; what there
    # is it brings.
    project.run(sys.executable, "-m", "dvc", "exp", "apply", NAMES[0], check=False)
    assert yaml.safe_load((project.folder / "params.yaml").read_text())["pretrain"]["dictionary"]["num_keys"] == 32
    assert project.dvc("status", "pretrain", "linear") == "Data and pipelines are up to date.\n"
    project.git("checkout", "--", ".")
    assert (project.folder / "params.yaml").read_text() == before


@pytest.mark.slow
def test_table_figure_and_page_lie_beside_the_records(project: Pipeline) -> None:
    folder = project.folder / "runs/studies/tiny-laptop"
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.json" for name in NAMES),
        "study.md",
        "table.csv",
        "figure.png",
    }
    record = json.loads((folder / f"{NAMES[0]}.json").read_text())
    assert record["commit"] == project.git("rev-parse", "HEAD")
    assert record["data_hash"] in (folder / "study.md").read_text()
    assert set(record["seconds"]) == {"pretrain", "linear"}
    assert record["restored"] == []
    assert record["epochs"][0]["knn_top1"] is not None
    assert not list((project.folder / "runs").glob("pretrain-*/step-*.pt"))  # a study has many runs


@pytest.mark.slow
def test_a_second_call_runs_nothing(project: Pipeline) -> None:
    done = study(project)
    assert "2 runs, 2 of them done before" in done.stderr
    assert nothing_ran(done)
    assert "Experiment has been saved" not in done.stderr


@pytest.mark.slow
def test_without_its_record_a_run_is_restored_and_without_its_experiment_too(project: Pipeline) -> None:
    folder = project.folder / "runs/studies/tiny-laptop"
    before = json.loads((folder / f"{NAMES[0]}.json").read_text())
    (folder / f"{NAMES[0]}.json").unlink()
    project.dvc("exp", "remove", NAMES[1])
    done = study(project)
    assert "2 runs, 0 of them done before" in done.stderr
    assert nothing_ran(done)
    after = json.loads((folder / f"{NAMES[0]}.json").read_text())
    assert after["metrics"] == before["metrics"]
    assert after["restored"] == ["pretrain", "linear"]
    assert all(name in project.dvc("exp", "list") for name in NAMES)


@pytest.mark.slow
def test_changed_code_or_parameters_are_run_again(project: Pipeline) -> None:
    file = project.folder / "params.yaml"
    before = file.read_text()
    values = yaml.safe_load(before)
    values["linear"]["epochs"] += 1
    file.write_text(yaml.safe_dump(values))
    done = study(project)
    assert (ran(done, "pretrain"), ran(done, "linear")) == (0, 2)  # DVC restores what the change left alone
    file.write_text(before)
    code = project.folder / "pipelines/linear.py"
    code.write_text(code.read_text() + "# changed\n")
    done = study(project)
    assert "2 runs, 0 of them done before" in done.stderr
    assert (ran(done, "pretrain"), ran(done, "linear")) == (0, 2)
    project.git("checkout", "--", ".")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "edited", "change", "reason"),
    [
        ((112, 128), "pipelines/linear.py", ("if __name__", "# changed\nif __name__"), "code that the stages of "),
        (
            (144, 160),
            "params.yaml",
            ("temperature: 0.2", "temperature: 0.3"),
            "params.yaml was edited while the study ran",
        ),
    ],
)
def test_a_run_does_not_train_if_code_or_parameters_were_edited_after_the_start(
    project: Pipeline, sizes: tuple[int, int], edited: str, change: tuple[str, str], reason: str
) -> None:
    runs = [{"series": "MoCo", "x": x, "set": {"pretrain.dictionary.num_keys": x}} for x in sizes]
    write(project, with_runs(runs), "late")
    log = project.folder / "runs/late.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.study", "late", "--side-by-side", "1"],
            cwd=project.folder,
            env=project.env,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    wait_until(lambda: "pretrain: step 0 of" in log.read_text(), 240, "the first run trains")
    file = project.folder / edited
    before = file.read_text()
    assert change[0] in before
    file.write_text(before.replace(*change, 1))
    assert process.wait(240) == 1
    file.write_text(before)
    said, names = log.read_text(), [f"late-laptop-moco-{size}-s0" for size in sizes]
    assert said.count("pretrain: step 0 of") == 1
    records = project.folder / "runs/studies/late-laptop"
    (done,) = (name for name in names if (records / f"{name}.json").exists())  # either may be the first
    (late,) = (name for name in names if name != done)
    assert f"error: {late}: " in said
    assert reason in said.splitlines()[-1]


@pytest.mark.slow
def test_checkpoints_of_a_training_that_was_there_before_the_study_stay(project: Pipeline) -> None:
    file = project.folder / "params.yaml"
    before = file.read_text()
    values = yaml.safe_load(before)
    values["pretrain"]["dictionary"]["num_keys"] = 80
    values["pretrain"]["seed"] = 0
    file.write_text(yaml.safe_dump(values))
    project.dvc("repro", "pretrain")
    kept = sorted((project.folder / "runs").glob("pretrain-*/step-*.pt"))
    assert kept
    file.write_text(before)
    write(project, with_runs([{"series": "MoCo", "x": 80, "set": {"pretrain.dictionary.num_keys": 80}}]), "own")
    done = study(project, "own")
    assert (ran(done, "pretrain"), ran(done, "linear")) == (0, 1)
    assert sorted((project.folder / "runs").glob("pretrain-*/step-*.pt")) == kept
    project.git("checkout", "--", ".")


@pytest.mark.slow
def test_runs_that_share_a_training_train_once(project: Pipeline) -> None:
    runs = [{"series": "MoCo", "x": x, "set": {"pretrain.dictionary.num_keys": 96, "linear.epochs": x}} for x in (1, 2)]
    write(project, with_runs(runs), "probe")
    done = study(project, "probe", "--side-by-side", "2")
    assert (ran(done, "pretrain"), ran(done, "linear")) == (1, 2)


@pytest.mark.slow
def test_a_second_start_of_a_study_leaves_the_first_alone(project: Pipeline) -> None:
    lock = project.folder / "runs/studies/tiny-laptop.lock"
    with exclusive(lock, lock, patience=0):
        done = study(project, check=False)
    assert done.returncode == 1
    assert "runs/studies/tiny-laptop: another process runs this study (process " in done.stderr
    assert nothing_ran(done)


@pytest.mark.slow
def test_an_interrupted_study_goes_on_from_the_last_checkpoint(project: Pipeline) -> None:
    long = [
        {
            "series": "MoCo",
            "x": 48,
            "set": {"pretrain.dictionary.num_keys": 48, "pretrain.epochs": 40, "pretrain.knn_every_epochs": 0},
        }
    ]
    write(project, with_runs(long), "long")
    (project.folder / "machine.yaml").write_text("processes: 1\ncheckpoint_every_steps: 20\n")
    others = set((project.folder / "runs").glob("pretrain-*/step-*.pt"))
    with (project.folder / "runs/study.log").open("wb") as log:
        first = subprocess.Popen(
            [sys.executable, "-m", "flows.study", "long"],
            cwd=project.folder,
            env=project.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def saved() -> bool:
        assert first.poll() is None, (project.folder / "runs/study.log").read_text()
        return not others.issuperset((project.folder / "runs").glob("pretrain-*/step-*.pt"))

    wait_until(saved, 240, "a checkpoint")
    begin = time.monotonic()
    os.kill(first.pid, signal.SIGINT)
    first.wait(20)
    wait_until(lambda: not processes_with(str(project.folder)), 10 - (time.monotonic() - begin), "all processes end")
    assert len(project.git("worktree", "list").splitlines()) == 1
    assert not (project.folder / "runs/studies/long-laptop/long-laptop-moco-48-s0.json").exists()
    done = study(project, "long")
    begun = next(line for line in done.stderr.splitlines() if "pretrain: step " in line)
    assert "pretrain: step 0 of" not in begun
    assert (project.folder / "runs/studies/long-laptop/study.md").exists()


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_others_finish(project: Pipeline) -> None:
    runs = [
        {
            "series": "MoCo",
            "x": 32,
            "set": {"pretrain.dictionary.num_keys": 32, "pretrain.encoder": {"kind": "module", "name": "nowhere:net"}},
        },
        {"series": "MoCo", "x": 64, "set": {"pretrain.dictionary.num_keys": 64}},
    ]
    write(project, with_runs(runs), "broken")
    done = study(project, "broken", check=False)
    assert done.returncode == 1
    said = "broken-laptop-moco-32-s0: pretrain: encoder module:nowhere:net: there is no module nowhere"
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    page = (project.folder / "runs/studies/broken-laptop/study.md").read_text()
    assert "there is no module nowhere" in page
    assert "broken-laptop-moco-64-s0" in project.dvc("exp", "list")
    assert len(project.git("worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_what_these_images_rule_out_is_said_in_a_line_and_the_rest_runs(project: Pipeline) -> None:
    runs = [
        {"series": "curated", "x": 0.5, "set": {"pretrain.images": "labelled", "pretrain.images_fraction": 0.5}},
        {"series": "uncurated", "x": 0.5, "set": {"pretrain.images": "unlabelled", "pretrain.images_fraction": 0.5}},
        {"series": "uncurated", "x": 1, "set": {"pretrain.images": "unlabelled"}},
    ]
    write(project, with_runs(runs), "mixed")
    done = study(project, "mixed")
    lines = [line for line in done.stderr.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert "pretrain.images = unlabelled: there is no such training image (mixed-laptop-uncurated-0.5-s0" in lines[0]
    assert "1 runs, 0 of them done before" in done.stderr
    assert "there is no such training image" in (project.folder / "runs/studies/mixed-laptop/study.md").read_text()


@pytest.mark.slow
def test_a_study_may_change_the_shards_without_touching_the_projects(project: Pipeline) -> None:
    shards = (project.folder / "data/shards/index.json").read_bytes()
    lock = (project.folder / "dvc.lock").read_bytes()
    runs = [{"series": "MoCo", "x": 32, "set": {"pretrain.dictionary.num_keys": 32}}]
    write(project, with_runs(runs, set={"shard.max_side": 16}), "smaller")
    done = study(project, "smaller")
    assert (ran(done, "shard"), ran(done, "pretrain")) == (1, 1)
    assert (project.folder / "data/shards/index.json").read_bytes() == shards
    assert (project.folder / "dvc.lock").read_bytes() == lock
    assert "1 of them done before" in study(project, "smaller").stderr


@pytest.mark.slow
def test_mistakes_are_one_line_before_anything_runs(project: Pipeline) -> None:
    for arguments, said in (
        (("none-such",), "error: studies/none-such.yaml: no such study; there are: "),
        (("tiny", "--scale", "paper"), "error: studies/tiny.yaml: has no scale paper; choose one of laptop"),
    ):
        done = study(project, *arguments, check=False)
        assert done.returncode == 1
        assert next(line for line in done.stderr.splitlines() if line.startswith("error: ")).startswith(said)
        assert "Traceback" not in done.stderr
        assert nothing_ran(done)
    for option, value in (("--seeds", "-1"), ("--side-by-side", "0"), ("--retries", "11")):
        done = study(project, "tiny", option, value, check=False)
        assert done.returncode == 2
        assert f"error: argument {option}: '{value}' is no whole number from " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_mlflow_holds_the_study_its_runs_and_their_stages(tmp_path: Path, server_env: dict[str, str]) -> None:
    import mlflow

    pipeline = clone(
        tmp_path / "project", server_env | {"PYTHONPATH": str(tmp_path / "project"), "MOCO_TRACKING": "on"}
    )
    write(pipeline, with_runs([{"series": "MoCo", "x": 64, "set": {"pretrain.dictionary.num_keys": 64}}]))
    pipeline.commit()
    study(pipeline, "tiny", "--seeds", "0")
    study(pipeline, "tiny", "--seeds", "0", "1")  # resumes the same study
    client = mlflow.MlflowClient(f"sqlite:///{pipeline.folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("moco").experiment_id], max_results=1000)
    children = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    studies = [run for run in runs if run.data.tags.get("kind") == "study"]
    assert [run.info.run_name for run in studies] == ["study tiny, laptop"]
    top = studies[0].info.run_id
    pipelines = {run.info.run_name: run for run in runs if children[run.info.run_id] == top}
    assert set(pipelines) == {NAMES[1][:-1] + seed for seed in "01"}
    for name, run in pipelines.items():
        below = {one.info.run_name for one in runs if children[one.info.run_id] == run.info.run_id}
        assert {f"pretrain · {name}", f"linear · {name}"} <= below
        assert run.info.status == "FINISHED"
        record = json.loads((pipeline.folder / f"runs/studies/tiny-laptop/{name}.json").read_text())
        assert record["tracked"] == run.info.run_id
        assert run.data.metrics["linear/moco.linear_top1"] == record["metrics"]["linear"]["moco"]["linear_top1"]
    assert studies[0].info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(top)} == {"study.md", "table.csv", "figure.png"}
    assert set(studies[0].data.metrics) == {"moco/64"}
    assert not client.search_registered_models()  # runs that are made to be compared are no candidates
