"""Server, pool, worker, `prefect deploy --all` and deployment runs, as in docs/prefect.md."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_pipeline import Pipeline, make_pipeline, processes_with, wait_until
from test_flow_runs import ask

from flows import services

NAME = "pretrain-and-evaluate/pretrain-and-evaluate"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, server_env: dict[str, str]) -> Iterator[Pipeline]:
    """The small pipeline, deployed, with a worker that waits for runs."""
    pipeline = make_pipeline(tmp_path_factory.mktemp("deployed") / "project", server_env)
    pipeline.dvc("repro", "--quiet")
    pipeline.commit()
    for pool in ("moco", "moco-data"):
        pipeline.run("prefect", "work-pool", "create", pool, "--type", "process")
    pipeline.run("prefect", "deploy", "--all")
    with (pipeline.folder / "runs/worker.log").open("wb") as log:
        worker = subprocess.Popen(
            ["prefect", "worker", "start", "--pool", "moco"],
            cwd=pipeline.folder.parent,  # the worker's own folder does not matter
            env=pipeline.env | {"PWD": str(pipeline.folder.parent)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield pipeline
    services.end([services.Service("worker", worker, Path("worker.log"))], [])  # and the run that an event started


def start(pipeline: Pipeline, *arguments: str, name: str = NAME) -> str:
    said = pipeline.run("prefect", "deployment", "run", name, *arguments).stdout
    found = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", said)
    assert found, said
    return found[0]


def state(pipeline: Pipeline, run: str) -> str:
    said = pipeline.run("prefect", "flow-run", "inspect", run, "--output", "json").stdout
    found = re.search(r'"state_type":\s*"(\w+)"', said)
    assert found, said
    return found[1]


def runs_of(pipeline: Pipeline, deployment: str) -> int:
    asked = json.dumps({"deployments": {"name": {"any_": [deployment]}}}).encode()
    request = urllib.request.Request(
        f"{pipeline.env['PREFECT_API_URL']}/flow_runs/count", asked, {"Content-Type": "application/json"}
    )
    return int(urllib.request.urlopen(request, timeout=10).read())


@pytest.mark.slow
def test_a_deployment_run_with_a_changed_parameter_finishes_the_pipeline(deployed: Pipeline) -> None:
    deployed.run(
        "prefect",
        "deployment",
        "run",
        NAME,
        "--watch",
        "--flow-run-name",
        "three-epochs",
        "-p",
        'pretrain={"epochs": 3}',
        timeout=300,
    )
    assert "three-epochs" in deployed.dvc("exp", "show", "--csv")
    assert deployed.git("status", "--porcelain") == ""


@pytest.mark.slow
def test_a_deployment_run_without_changes_uses_the_projects_own_folder(deployed: Pipeline) -> None:
    (deployed.folder / "outputs/report/report.html").unlink()
    deployed.run("prefect", "deployment", "run", NAME, "--watch", timeout=300)
    assert (deployed.folder / "outputs/report/report.html").exists()


@pytest.mark.slow
def test_the_automation_for_vanished_machines_is_accepted(deployed: Pipeline) -> None:
    said = deployed.run("prefect", "automation", "create", "--from-file", "flows/crashed.yaml").stdout
    assert "Created automation" in said


@pytest.mark.slow
def test_parameters_outside_the_schema_are_refused_on_the_spot(deployed: Pipeline) -> None:
    done = deployed.run("prefect", "deployment", "run", NAME, "-p", 'pretrain={"epochs": 0}', check=False)
    assert done.returncode != 0
    assert "epochs" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("-p", 'pretrain={"epochs": 4}')])
def test_cancelling_leaves_no_process_within_ten_seconds(deployed: Pipeline, arguments: tuple[str, ...]) -> None:
    mark = "time.sleep(119)"
    deployed.change("pretrain", cmd=f"""python -c "import time; print('on', flush=True); {mark}" """)
    run = start(deployed, *arguments)

    def flow_processes() -> list[str]:
        worker = {"prefect worker"}
        return [
            command for command in processes_with(str(deployed.folder)) if not any(name in command for name in worker)
        ]

    wait_until(lambda: any(mark in command for command in flow_processes()), 120, "pretrain runs")
    deployed.run("prefect", "flow-run", "cancel", run)
    begin = time.monotonic()
    wait_until(lambda: not flow_processes(), 10, "all processes end")
    assert time.monotonic() - begin < 10
    wait_until(lambda: state(deployed, run) == "CANCELLED", 30, "the run is cancelled")
    assert len(deployed.git("worktree", "list").splitlines()) == 1
    assert Path(deployed.folder / "dvc.lock").exists()


NOTED = """echo "on $MOCO_FLOW_RUN" >> runs/noted; until [ -f runs/go ]; do sleep 0.2; done; \
echo weights > encoder; echo "off $MOCO_FLOW_RUN" >> runs/noted"""


@pytest.mark.slow
def test_runs_of_two_deployments_do_not_meet_and_the_next_deployment_follows(deployed: Pipeline) -> None:
    automation = deployed.run("prefect", "automation", "inspect", "transfer after nightly", "--json").stdout
    assert json.loads(automation)[0]["enabled"] is False
    deployed.run("prefect", "automation", "resume", "transfer after nightly")
    deployed.change("pretrain", cmd=NOTED)
    deployed.commit()
    noted = deployed.folder / "runs/noted"
    first = start(deployed)
    wait_until(noted.exists, 120, "pretrain of the first run")
    # Without the parameter of its own: this pipeline has no champion.
    second = start(deployed, "-p", "pretrain={}", name="pretrain-and-evaluate/nightly")

    def logged() -> str:
        found = ask(deployed, "logs/filter", logs={"flow_run_id": {"any_": [second]}}, limit=200)
        return "\n".join(line["message"] for line in found)

    wait_until(lambda: "waiting: " in logged(), 120, "the second run waits")
    (name,) = (run["name"] for run in ask(deployed, "flow_runs/filter", flow_runs={"id": {"any_": [first]}}))
    assert f"another process runs a flow here (flow run {name} of pretrain-and-evaluate, process " in logged()
    assert noted.read_text() == f"on {first}\n"
    assert state(deployed, first) == state(deployed, second) == "RUNNING"
    (deployed.folder / "runs/go").touch()
    for run in (first, second):
        wait_until(lambda run=run: state(deployed, run) == "COMPLETED", 180, "both finish")
    assert noted.read_text() == f"on {first}\noff {first}\n"  # the second found it done
    wait_until(lambda: runs_of(deployed, "transfer") == 1, 60, "a run of transfer, for nightly completed")


@pytest.mark.slow
def test_the_event_of_new_images_starts_the_nightly_deployment(deployed: Pipeline) -> None:
    """The server that runs it made an automation of the trigger in prefect.yaml."""
    before = runs_of(deployed, "nightly")
    code = "from types import SimpleNamespace; from pipelines.ingest import emit; emit(SimpleNamespace(images=5), 2)"
    said = deployed.run(sys.executable, "-c", code)
    assert said.stdout + said.stderr == ""
    wait_until(lambda: runs_of(deployed, "nightly") > before, 60, "a run of the deployment nightly")
