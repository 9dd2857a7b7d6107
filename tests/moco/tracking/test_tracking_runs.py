"""What MLflow holds after a stage, and what a stage notices of MLflow: nothing."""

import functools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fault_proxy import fault_proxy

from moco import tracking
from moco.errors import Interrupted, MocoError
from moco.tracking import connection, pipeline, runs
from moco.tracking.sender import Sender


def history(client, run_id, name):
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))


def names(client, experiment):
    return sorted(run.info.run_name for run in client.search_runs([experiment]))


def test_a_stage_is_a_child_with_params_metrics_data_files_and_origin(tracked, tmp_path, monkeypatch):
    client, _ = tracked
    monkeypatch.setenv("MOCO_FLOW_RUN", "flow-7")
    parent = tracking.start_pipeline_run("a pipeline", flow_run="flow-7")
    monkeypatch.setenv("MOCO_PIPELINE_RUN", parent)
    (tmp_path / "curve.csv").write_text("step,loss\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "views.png").write_bytes(b"png")
    with tracking.stage_run("pretrain", {"views": {"order": "v2"}, "milestones": [0.6, 0.8]}) as run:
        for step in range(3):
            run.metrics({"loss": 3.0 - step, "knn_top1": None}, step)
        run.dataset("fashion-mnist", "0123456789abcdef0123456789abcdef.dir", "data/shards")
        run.artifact(tmp_path / "curve.csv", "curves")
        run.artifact(tmp_path / "pictures", "pictures")
        run.results({"moco": {"linear_top1": 0.84}, "labels": None, "loss": 0.5}, {"linear_top1": 0.84, "top": None})
    tracking.end_pipeline_run(parent, "FINISHED")

    child, whole = client.get_run(run.id), client.get_run(parent)
    assert (child.info.status, whole.info.status) == ("FINISHED", "FINISHED")
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert child.data.tags["flow_run"] == whole.data.tags["flow_run"] == "flow-7"
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert child.data.tags["mlflow.source.git.commit"] == head
    params = {"pretrain.views.order": "v2", "pretrain.milestones": "[0.6, 0.8]"}
    assert child.data.params == whole.data.params == params
    assert history(client, run.id, "loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]  # and no result at step 0
    assert "knn_top1" not in child.data.metrics
    assert child.data.metrics["moco.linear_top1"] == 0.84
    assert whole.data.metrics == {"pretrain/moco.linear_top1": 0.84, "pretrain/loss": 0.5, "linear_top1": 0.84}
    assert any(name.startswith("system/cpu") for name in child.data.metrics)
    (data,) = child.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("fashion-mnist", "0123456789abcdef0123456789abcdef.dir")
    assert [file.path for file in client.list_artifacts(run.id, "curves")] == ["curves/curve.csv"]
    assert [file.path for file in client.list_artifacts(run.id, "pictures")] == ["pictures/views.png"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(MocoError("the disk is full"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (Interrupted("saved"), "KILLED")],
)
def test_a_stage_that_fails_leaves_its_reason(tracked, error, status):
    client, _ = tracked
    with pytest.raises(type(error)), tracking.stage_run("shard", {}) as run:
        raise error
    recorded = client.get_run(run.id)
    assert recorded.info.status == status
    assert recorded.data.tags["error"] == f"{type(error).__name__}: {error}"


def test_a_resumed_stage_goes_on_with_its_run_and_records_each_step_once(tracked):
    client, experiment = tracked
    with tracking.stage_run("pretrain", {"seed": 0}) as first:
        for step in range(0, 60, 20):
            first.metrics({"loss": float(step)}, step)
    with tracking.stage_run("pretrain", {"seed": 0}, resume_id=first.id) as again:
        for step in range(20, 100, 20):  # the checkpoint was older than the last recorded step
            again.metrics({"loss": float(step)}, step)
    assert again.id == first.id
    assert history(client, first.id, "loss") == [(step, float(step)) for step in range(0, 100, 20)]
    assert names(client, experiment) == ["pretrain"]


def test_an_unknown_run_to_resume_is_replaced_by_a_new_one(tracked):
    client, _ = tracked
    with tracking.stage_run("pretrain", {}, resume_id="0" * 32) as run:
        pass
    assert run.id != "0" * 32
    assert client.get_run(run.id).info.status == "FINISHED"


def test_ending_a_pipeline_closes_the_children_that_died_without_a_word(tracked, monkeypatch):
    client, experiment = tracked
    parent = tracking.start_pipeline_run("a pipeline")
    child = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
    tracking.end_pipeline_run(parent, "FAILED")
    assert client.get_run(child).info.status == "KILLED"
    assert client.get_run(parent).info.status == "FAILED"


def test_a_flow_run_that_is_tried_again_keeps_its_parent_run(tracked):
    client, _ = tracked
    first = tracking.start_pipeline_run("a pipeline", flow_run="flow-1")
    tracking.end_pipeline_run(first, "FAILED")
    assert tracking.start_pipeline_run("a pipeline", flow_run="flow-1") == first
    assert client.get_run(first).info.status == "RUNNING"
    assert tracking.start_pipeline_run("a pipeline", flow_run="flow-2") != first


def test_the_parent_of_a_driver_that_was_killed_is_closed_by_the_next_one(tracked):
    client, _ = tracked
    ours = tracking.start_pipeline_run("alive", flow_run="flow-1")
    code = "import os; from moco import tracking as t; print(t.start_pipeline_run('d', 'f'), flush=True); os._exit(9)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    dead = answer.stdout.split()[-1]
    assert client.get_run(dead).info.status == "RUNNING"
    tracking.start_pipeline_run("next", flow_run="flow-2")
    assert client.get_run(dead).info.status == "KILLED"
    assert client.get_run(ours).info.status == "RUNNING"


def test_a_clock_that_is_set_back_makes_no_other_process_of_a_driver(monkeypatch):
    here = pipeline._address(psutil.Process())
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 0.0)
    assert pipeline._address(psutil.Process()) == here
    assert pipeline._is_alive(here)


def test_a_clock_that_is_set_back_leaves_the_machine_s_figures_in_order(tracked, monkeypatch):
    client, _ = tracked
    with tracking.stage_run("pretrain", {}) as run:
        back = SimpleNamespace(time=lambda: 0.0, monotonic=time.monotonic, time_ns=time.time_ns)
        monkeypatch.setattr(runs, "time", back)
    name = "system/cpu_utilization_percentage"
    assert [0 <= step < 600 for step, _ in history(client, run.id, name)] == [True]


STAGE = "from moco import tracking\nwith tracking.stage_run('{0}', {{}}): pass\n"


@pytest.mark.slow
def test_one_dvc_repro_gives_one_parent_run(tracked, tmp_path, monkeypatch):
    client, experiment = tracked
    monkeypatch.delenv("MOCO_PIPELINE_RUN")
    project = tmp_path / "project"
    project.mkdir()
    stages = ""
    for name in ("one", "two"):
        (project / f"{name}.py").write_text(STAGE.format(name))
        stages += f"  {name}:\n    cmd: {sys.executable} {name}.py\n"
    (project / "dvc.yaml").write_text(f"stages:\n{stages}")
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "DVC_NO_ANALYTICS": "1"}
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["init", "--no-scm", "-q"], ["repro", "-q"], ["repro", "-q", "--force"]):
        subprocess.run([*dvc, *command], cwd=project, env=environment, check=True)
    parents = client.search_runs([experiment], "tags.kind = 'pipeline'")
    assert len(parents) == 2
    for parent in parents:
        children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        name = parent.info.run_name
        assert sorted(child.info.run_name for child in children) == [f"one · {name}", f"two · {name}"]
        assert parent.info.status == "FINISHED"
        assert name.startswith("dvc repro")


def test_three_processes_at_once_set_up_a_fresh_database(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/fresh.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MOCO_PIPELINE_RUN": ""}
    code = (
        "from moco import tracking\n"
        "with tracking.stage_run('s', {'a': 1}) as run: run.metrics({'x': 1.0}, 0)\n"
        "print(run.id)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ids = [process.communicate(timeout=120)[0].strip() for process in processes]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client, _ = connection.connect()
    assert len(set(ids)) == 3
    assert [client.get_run(run_id).data.metrics["x"] for run_id in ids] == [1.0] * 3


def test_artifacts_of_a_sqlite_database_lie_beside_it_whatever_the_folder_of_the_process(
    tracked, tmp_path, monkeypatch
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "a.txt").write_text("a")
    with tracking.stage_run("report", {}) as run:
        run.artifact("a.txt")
    assert (tmp_path / "mlartifacts" / run.id / "artifacts" / "a.txt").read_text() == "a"
    assert [path.name for path in elsewhere.iterdir()] == ["a.txt"]


def test_without_a_setting_the_database_is_in_the_root_of_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("setting", [("MOCO_TRACKING", "off"), ("RANK", "1")])
def test_switched_off_or_on_another_rank_nothing_is_recorded(tracked, monkeypatch, setting):
    client, experiment = tracked
    monkeypatch.setenv(*setting)
    assert tracking.start_pipeline_run("a pipeline") is None
    with tracking.stage_run("pretrain", {"a": 1}) as run:
        run.metrics({"loss": 1.0}, 0)
        run.results({"x": 1})
        run.artifact("missing.txt")
    assert run.id is None
    assert client.search_runs([experiment]) == []


def test_a_switch_that_is_neither_on_nor_off_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("MOCO_TRACKING", "perhaps")
    with pytest.raises(MocoError, match="MOCO_TRACKING='perhaps'"):
        tracking.enabled()


def test_the_package_works_where_mlflow_is_not_installed():
    code = (
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('mlflow', 'dvc', 'prefect', 'psutil'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "import importlib.util; real = importlib.util.find_spec\n"
        "gone = ('mlflow', 'psutil')\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in gone else real(name, *rest)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "from moco import tracking\n"
        "with tracking.stage_run('pretrain', {'a': 1}) as run: run.metrics({'x': 1.0}, 0)\n"
        "assert run.id is None and tracking.start_pipeline_run('p') is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_server_that_is_not_there_costs_no_time_and_is_said_once(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MOCO_PIPELINE_RUN", "")
    began = time.monotonic()
    with tracking.stage_run("pretrain", {"a": 1}) as run:
        assert time.monotonic() - began < 15
        began = time.monotonic()
        for step in range(1000):
            run.metrics({"loss": 1.0}, step)
        assert time.monotonic() - began < 0.5
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "127.0.0.1:9 is out of reach" in said[0]
    assert "the record is not complete" in said[1] and "`dvc repro --force --single-item pretrain`" in said[1]
    assert "secret" not in "".join(said)


def test_a_record_that_is_refused_is_said_once_and_the_others_are_kept(tracked, tmp_path, capsys):
    client, _ = tracked
    with tracking.stage_run("report", {}) as run:
        run.artifact(tmp_path / "missing.html")
        run.artifact(tmp_path / "missing too.html")
        run.metrics({"x": 1.0}, 0)
    assert client.get_run(run.id).data.metrics["x"] == 1.0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.slow
def test_a_server_killed_in_the_middle_holds_nothing_up_and_gets_the_rest_when_it_is_back(server, capsys, monkeypatch):
    monkeypatch.setattr(runs, "GATHER_SECONDS", 0.1)
    with tracking.stage_run("pretrain", {"a": 1}) as run:
        run.metrics({"loss": 0.0}, 0)
        time.sleep(1)
        server.kill()
        slowest = 0.0
        for step in range(1, 50):
            began = time.monotonic()
            run.metrics({"loss": float(step)}, step)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.05)
        assert slowest < 0.1
        while not run._said:
            time.sleep(0.1)
        server.start()
    client, _ = connection.connect()
    assert history(client, run.id, "loss") == [(step, float(step)) for step in range(50)]
    assert client.get_run(run.id).info.status == "FINISHED"
    assert len([line for line in capsys.readouterr().out.splitlines() if "out of reach" in line]) == 1


@pytest.fixture
def troubled(server, monkeypatch):
    """A proxy before the server; calls that failed are repeated soon."""
    monkeypatch.setattr(runs, "Sender", functools.partial(Sender, retry_seconds=0.2))
    monkeypatch.setattr(runs, "GATHER_SECONDS", 0.1)
    with fault_proxy(server.uri) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        yield proxy


def measured(run, steps):
    """Give the seconds that the slowest call took."""
    slowest = 0.0
    for step in steps:
        began = time.monotonic()
        run.metrics({"loss": float(step)}, step)
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.02)
    return slowest


@pytest.mark.slow
def test_a_server_that_answers_500_for_a_while_has_the_whole_record_in_the_end(troubled, capsys):
    with tracking.stage_run("pretrain", {"a": 1}) as run:
        assert measured(run, range(10)) < 0.1
        troubled.status = 500
        assert measured(run, range(10, 50)) < 0.1
        while not run._said:
            time.sleep(0.1)
        troubled.status = None
    client, _ = connection.connect()
    assert history(client, run.id, "loss") == [(step, float(step)) for step in range(50)]
    assert client.get_run(run.id).info.status == "FINISHED"
    said = capsys.readouterr().out
    assert "too many 500 error responses" in said and "not complete" not in said


@pytest.mark.slow
@pytest.mark.parametrize("enough", [True, False])
def test_a_slow_server_has_the_record_in_time_or_a_line_says_that_it_has_not(troubled, monkeypatch, capsys, enough):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    troubled.delay = 1.0
    began = time.monotonic()
    with tracking.stage_run("linear", {"a": 1}) as run:
        assert time.monotonic() - began < 15  # the loading of modules; the server is given up for now
        assert measured(run, range(50)) < 0.1
        while not run.id:
            time.sleep(0.1)
        if not enough:
            troubled.delay = 20.0
            monkeypatch.setitem(runs.FLUSH_SECONDS, "FINISHED", 1.0)
        began = time.monotonic()
    said = capsys.readouterr().out
    assert ("the record is not complete" in said) is not enough
    if enough:
        client, _ = connection.connect(patient=True)
        assert history(client, run.id, "loss") == [(step, float(step)) for step in range(50)]
        assert client.get_run(run.id).info.status == "FINISHED"
    else:
        assert time.monotonic() - began < 5
        assert "`dvc repro --force --single-item linear` records it" in said


@pytest.mark.slow
def test_a_server_that_stays_away_delays_the_end_by_seconds_only(server, monkeypatch):
    with tracking.stage_run("pretrain", {}) as run:
        server.kill()
        run.metrics({"loss": 1.0}, 0)
        began = time.monotonic()
    assert time.monotonic() - began < runs.FLUSH_SECONDS["FINISHED"] + 2


def test_dvc_s_hash_of_an_output_is_read_from_its_lock_file(tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "schema: '2.0'\nstages:\n  shard:\n    cmd: x\n    deps:\n    - {path: data/raw, md5: old.dir}\n"
        "    outs:\n    - {path: data/shards, md5: abc.dir, nfiles: 3}\n"
    )
    assert tracking.dvc_digest("data/shards", lock) == "abc.dir"
    assert tracking.dvc_digest("data/raw", lock) is None
    assert tracking.dvc_digest("data/shards", tmp_path / "missing") is None


def test_workers_forked_while_a_run_is_recorded_end_as_usual(tracked):
    with tracking.stage_run("pretrain", {}) as run:
        for step in range(100):
            run.metrics({"loss": 1.0}, step)
            if step % 20 == 0:
                child = os.fork()
                if child == 0:
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0


def test_the_beginning_of_a_pipeline_says_where_to_look(tracked, tmp_path, capsys):
    parent = tracking.start_pipeline_run("a pipeline")
    command = f"DO_NOT_TRACK=true mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    assert capsys.readouterr().out == f"tracking: run {parent}; to see it: {command}\n"


def test_the_page_of_a_run_on_a_server_is_printed_without_a_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.example.org/")
    assert connection.where_to_look("3", "abc") == "https://tracking.example.org/#/experiments/3/runs/abc"


def test_no_password_of_a_server_is_printed_by_anything(server, monkeypatch, tmp_path):
    """Of a run that ends well, and of one whose server is gone."""
    address = server.uri.replace("//", "//me:secret@")
    code = (
        "from moco import tracking\n"
        "parent = tracking.start_pipeline_run('a pipeline')\n"
        "import os; os.environ['MOCO_PIPELINE_RUN'] = parent or ''\n"
        "with tracking.stage_run('pretrain', {'seed': 1}) as run: run.metrics({'loss': 1.0}, 0)\n"
        "tracking.end_pipeline_run(parent, 'FINISHED')\n"
    )

    def said() -> str:
        env = {**os.environ, "MLFLOW_TRACKING_URI": address, "MOCO_TRACKING": "on"}
        env.pop("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", None)
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    printed = said()
    assert f"tracking: {server.uri}/#/experiments" in printed
    assert "secret" not in printed
    server.kill()
    printed = said()
    assert "out of reach" in printed
    assert "secret" not in printed


def test_a_pipeline_run_in_which_nothing_ran_leaves_no_record(tracked, monkeypatch):
    client, experiment = tracked
    empty, failed, whole = (tracking.start_pipeline_run(name, flow_run=name) for name in ("a", "b", "c"))
    monkeypatch.setenv("MOCO_PIPELINE_RUN", whole)
    with tracking.stage_run("fetch", {}):
        pass
    for run, status in ((empty, "FINISHED"), (failed, "FAILED"), (whole, "FINISHED")):
        tracking.end_pipeline_run(run, status)
    assert {run.info.run_name for run in client.search_runs([experiment])} == {"b", "c", "fetch · c"}


def test_mlflow_s_usage_reports_are_off_before_mlflow_is_imported():
    code = (
        "from moco.tracking.connection import import_mlflow; import_mlflow()\n"
        "from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY; print(MLFLOW_DISABLE_TELEMETRY.get())"
    )
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name and "TRACK" not in name}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True"]
