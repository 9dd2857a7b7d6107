"""The flow as a process of its own, against a real server: what a person sees, what is left."""

import json
import os
import signal
import time
import urllib.request
from typing import Any

import pytest
from small_pipeline import Pipeline, processes_with, wait_until

from pipelines import STOPPED

SLEEPER = """python -c "import time; print('pretrain  10% · loss 3', flush=True); time.sleep(120)" """


def ask(pipeline: Pipeline, path: str, **body: Any) -> list[dict[str, Any]]:
    """A POST to the Prefect server."""
    request = urllib.request.Request(
        f"{pipeline.env['PREFECT_API_URL']}/{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def latest_run(pipeline: Pipeline) -> dict[str, Any]:
    return ask(pipeline, "flow_runs/filter", sort="START_TIME_DESC", limit=1)[0]


def artifacts(pipeline: Pipeline) -> dict[str, Any]:
    run = {"flow_runs": {"id": {"any_": [latest_run(pipeline)["id"]]}}}
    return {item["key"]: item["data"] for item in ask(pipeline, "artifacts/filter", **run)}


def test_every_stage_runs_once_and_the_result_is_shown(served: Pipeline) -> None:
    said = served.flow().stderr
    assert said.count("Running stage") == 5
    assert served.dvc("status") == "Data and pipelines are up to date.\n"
    run = latest_run(served)
    assert run["state_type"] == "COMPLETED"
    tasks = ask(served, "task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
    assert {task["name"] for task in tasks} == {"fetch", "pretrain", "linear", "detect", "report"}
    shown = artifacts(served)
    assert shown["progress-pretrain"] == 40
    assert "| moco | 0.5 |" in shown["result"]
    assert "| ap | 0.25 |" in shown["result"]
    assert "outputs/report/report.html" in shown["result"]


def test_a_second_run_has_nothing_to_do(served: Pipeline) -> None:
    served.dvc("repro", "--quiet")
    lock = (served.folder / "dvc.lock").read_bytes()
    assert "Running stage" not in served.flow().stderr
    assert (served.folder / "dvc.lock").read_bytes() == lock


def test_siblings_run_side_by_side(served: Pipeline) -> None:
    wait = "for i in $(seq 100); do [ -f runs/{other} ] && break; sleep 0.1; done; test -f runs/{other}"
    meet = f"touch runs/{{me}}; {wait}"
    for me, other in (("linear", "detect"), ("detect", "linear")):
        served.change(me, cmd=f"{meet.format(me=me, other=other)} && echo '{{}}' > {me}.json")
    served.flow()


def test_the_line_that_says_what_to_mend_is_the_runs_message_and_siblings_still_finish(served: Pipeline) -> None:
    mistake = "linear.learning_rates = []: give at least one"
    served.change("linear", cmd=f"echo tried >> runs/tries && echo 'error: {mistake}' >&2 && exit 1")
    done = served.flow(check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: linear: {mistake}" or f"error: linear: {mistake}" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert mistake in latest_run(served)["state"]["message"]
    assert (served.folder / "runs/tries").read_text() == "tried\n"  # a person's mistake is not tried again
    assert (served.folder / "detect.json").exists()
    assert not (served.folder / "outputs/report").exists()


@pytest.mark.slow
def test_a_stage_that_was_killed_is_tried_again(served: Pipeline) -> None:
    served.change("pretrain", cmd="test -f runs/second || { touch runs/second; kill -9 $$; }; echo weights > encoder")
    served.flow()
    assert (served.folder / "encoder").exists()


def test_a_bad_parameter_is_one_line_before_any_stage(alone: Pipeline) -> None:
    done = alone.flow("--set", "pretrain.epochs=0", check=False)
    assert done.returncode == 1
    assert done.stderr == "error: --set: pretrain.epochs = 0: input should be greater than or equal to 1\n"
    text = (alone.folder / "params.yaml").read_text()
    (alone.folder / "params.yaml").write_text(text.replace("  epochs: ", "  epochz: ", 1))
    done = alone.flow(check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: pretrain.epochz is no known key; did you mean epochs?")
    assert len(done.stderr.splitlines()) == 1


def test_changed_parameters_become_an_experiment_and_leave_the_workspace_alone(served: Pipeline) -> None:
    served.change("fetch", always_changed=True)  # as the project's own
    served.dvc("repro", "--quiet")
    served.commit()
    said = served.flow("--set", "pretrain.epochs=3").stderr
    assert "Running stage 'fetch'" in said and "Running stage 'pretrain'" in said
    name = latest_run(served)["name"]
    table = served.dvc("exp", "show", "--csv")
    assert name in table
    assert served.git("status", "--porcelain") == ""
    assert len(served.git("worktree", "list").splitlines()) == 1
    assert (served.folder / "runs/reports" / name / "report.html").exists()
    assert f"dvc exp apply {name}" in artifacts(served)["result"]
    served.dvc("exp", "apply", name)
    assert "epochs: 3" in (served.folder / "params.yaml").read_text()
    assert served.dvc("status").split() == ["fetch:", "always", "changed"]


@pytest.mark.slow
def test_the_folder_of_a_failed_run_with_changes_is_kept_and_named(served: Pipeline) -> None:
    served.change("linear", cmd="echo 'error: no such class' >&2; exit 1")
    served.commit()
    done = served.flow("--set", "pretrain.epochs=3", check=False)
    run = latest_run(served)
    assert f"runs/worktrees/{run['name']}" in done.stderr
    assert (served.folder / "runs/worktrees" / run["name"] / "encoder").exists()
    assert "no such class" in run["state"]["message"]
    assert run["name"] not in served.dvc("exp", "show", "--csv")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("changes", [(), ("--set", "pretrain.epochs=3")])
def test_a_stopped_run_leaves_no_process_within_ten_seconds(
    served: Pipeline, number: signal.Signals, changes: tuple[str, ...]
) -> None:
    served.change("pretrain", cmd=SLEEPER)
    run = served.start_flow(*changes)
    log = served.folder / "runs/flow.log"
    wait_until(lambda: " - pretrain  10%" in log.read_text(), 180, "pretrain runs")
    before = log.read_text()
    begin = time.monotonic()
    os.kill(run.pid, number)
    run.wait(10)
    wait_until(lambda: not processes_with(str(served.folder)), 10 - (time.monotonic() - begin), "all processes end")
    assert run.returncode == 130
    assert log.read_text().removeprefix(before) == f"{STOPPED}\n"
    found = latest_run(served)
    assert found["state_type"] == "CRASHED"
    tasks = ask(served, "task_runs/filter", flow_runs={"id": {"any_": [found["id"]]}})
    states = {task["name"]: task["state_name"] for task in tasks}
    assert (states["fetch"], states["pretrain"], states["linear"]) == ("Completed", "Failed", "NotReady")
    assert len(served.git("worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_outputs_are_pushed_where_a_remote_is_configured(served: Pipeline) -> None:
    store = served.folder.parent / "store"
    served.dvc("remote", "add", "--default", "store", str(store))
    served.flow()
    assert any(store.rglob("*"))
    assert "Cache and remote 'store' are in sync" in served.dvc("status", "--cloud")


@pytest.mark.slow
def test_it_runs_without_a_server(alone: Pipeline) -> None:
    said = alone.flow().stderr
    assert said.count("Running stage") == 5
    assert "| moco | 0.5 |" in said
    wait_until(lambda: not processes_with(str(alone.folder)), 10, "the temporary server ends")
