"""The child run: one for each stage, recorded from a separate thread."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from moco.errors import Interrupted
from moco.tracking.connection import again, connect, describe, enabled, import_mlflow, is_passing, public_uri
from moco.tracking.pipeline import PARENT, dvc_parent, origin_tags
from moco.tracking.sender import Sender

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

START_SECONDS = 20.0
"""Longest wait for the run's id at the start of a stage."""
FLUSH_SECONDS = {"FINISHED": 30.0, "FAILED": 5.0, "KILLED": 5.0}
"""Longest wait at the end of a stage for what is still to be sent."""
UNREACHED_SECONDS = 6.0
"""The same where nothing could be sent so far, and not because it takes its time."""
GATHER_SECONDS = 1.0
"""Step metrics of this long travel in one request."""
WAITING_POINTS = 200_000
"""Metric values kept while the server is away; later ones are dropped, and counted."""
BATCH = 1000
"""MLflow's limit for the values in one request."""


@contextmanager
def stage_run(stage: str, params: Mapping[str, Any], *, resume_id: str | None = None) -> "Iterator[TrackedRun]":
    """Record a stage as a child of the pipeline's run.

    The run ends FINISHED, FAILED with the error as a tag, or KILLED after Ctrl-C and SIGTERM.
    Tracking never raises, and never holds a stage up for longer than `START_SECONDS` and
    `FLUSH_SECONDS`.

    Args:
        stage: name of the stage and of its run.
        params: the stage's section of params.yaml; nested keys are joined by dots after the stage's
            name.
        resume_id: the run to resume; one that the server does not know becomes a new one.
    """
    if not enabled():
        yield TrackedRun()
        return
    run = _MlflowRun(stage, params, resume_id)
    try:
        yield run
    except BaseException as error:
        run.tags({"error": f"{type(error).__name__}: {error}"[:5000]})
        run.close("KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED")
        raise
    run.close("FINISHED")


class TrackedRun:
    """A stage's run, with tracking off: every method returns at once, and does nothing."""

    id: str | None = None
    """MLflow's id, to be stored by a stage that can be resumed; None while there is none."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a step; None is left out, and so is what a resumed run has recorded."""

    def results(self, values: Mapping[str, Any], first: Mapping[str, float | None] | None = None) -> None:
        """Record final numbers, nested or not; the pipeline's run has them as STAGE/NAME.

        MLflow shows names without a slash before all others. A name that has values by step keeps
        those alone: the last of them is its final one.

        Args:
            values: all of the stage.
            first: what people compare runs by; on the pipeline's run without the stage's name.
        """

    def artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Copy a file or a folder (curves, pictures, pages) as it is a moment after this call."""

    def dataset(self, name: str, digest: str, source: Path | str, context: str = "training") -> None:
        """Name the data that the stage reads.

        Args:
            name: what it is called.
            digest: its hash, DVC's (`dvc_digest`) or the shard set's; MLflow keeps 36 characters.
            source: where it lies.
            context: what it is read for: training, validation, testing.
        """

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags on the run."""


class _MlflowRun(TrackedRun):
    def __init__(self, stage: str, params: Mapping[str, Any], resume_id: str | None) -> None:
        import_mlflow()  # not in the thread: a worker forked during an import would wait forever
        self._stage, self._params, self._resume_id = stage, params, resume_id
        self._parent, self._own_parent = os.environ.get("MOCO_PIPELINE_RUN"), False
        self._client: MlflowClient | None = None
        self._points: list[Metric] = []
        self._points_lock = threading.Lock()
        self._dropped = 0
        self._sending_points = False
        self._recorded: dict[str, int] = {}
        self._by_step: set[str] = set()
        self._said: set[bool] = set()
        self._began = 0.0
        self._monitor: Any = None
        self._sender = Sender(is_passing, self._failed, tick=self._sample)
        self._sender.put(self._start)
        self._sender.tried.wait(START_SECONDS)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        points = _points(values, step)
        self._by_step |= {point.key for point in points}
        with self._points_lock:
            if len(self._points) < WAITING_POINTS:
                self._points.extend(points)
            else:
                self._dropped += len(points)
            if self._sending_points:
                return
            self._sending_points = True
        self._sender.put(self._send_points)

    def results(self, values: Mapping[str, Any], first: Mapping[str, float | None] | None = None) -> None:
        found = flat(values)

        def call(client: "MlflowClient", run: str) -> None:
            once = {name: value for name, value in found.items() if name not in self._by_step}
            client.log_batch(run, metrics=_points(once, 0))
            if self._parent:
                named = {f"{self._stage}/{name}": value for name, value in found.items()}
                client.log_batch(self._parent, metrics=_points({**named, **(first or {})}, 0))

        self._put(call)

    def artifact(self, path: Path | str, folder: str | None = None) -> None:
        path = Path(path)
        if path.is_dir():
            self._put(lambda client, run: client.log_artifacts(run, str(path), folder))
        else:
            self._put(lambda client, run: client.log_artifact(run, str(path), folder))

    def dataset(self, name: str, digest: str, source: Path | str, context: str = "training") -> None:
        def call(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            data = Dataset(name, digest[:36], "local", json.dumps({"uri": str(source)}))
            client.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

        self._put(call)

    def tags(self, values: Mapping[str, str]) -> None:
        self._put(lambda client, run: _log_tags(client, run, values))

    def close(self, status: str) -> None:
        self._sender.put(self._sample)
        self._put(lambda client, run: client.set_terminated(run, status))
        self._put(lambda client, run: self._leave_status_on_parent(client, status))
        unsent = self._sender.close(FLUSH_SECONDS[status] if self.id or not self._said else UNREACHED_SECONDS)
        if status == "FINISHED" and (unsent or self._dropped):  # else the stage runs again anyhow
            points = f" and {self._dropped} values" if self._dropped else ""
            print(
                f"tracking: {public_uri()}: the record is not complete, {unsent} request(s){points} were not sent;"
                f" {again(self._stage)}",
                flush=True,
            )

    def _leave_status_on_parent(self, client: "MlflowClient", status: str) -> None:
        if self._own_parent and self._parent:
            client.set_terminated(self._parent, status)

    def _put(self, call: "Callable[[MlflowClient, str], None]") -> None:
        def with_client() -> None:
            if self._client and self.id:  # else the start was refused, and said so
                call(self._client, self.id)

        self._sender.put(with_client)

    def _start(self) -> None:
        client, experiment = connect(patient=bool(self._said))
        if self._parent is None:
            self._parent = dvc_parent(client, experiment)
            self._own_parent = self._parent is not None
        tags = {**origin_tags(), "mlflow.source.name": f"pipelines.{self._stage}", "kind": "stage"}
        if self._parent:
            tags[PARENT] = self._parent
        run = _reopen(client, self._resume_id) if self._resume_id else None
        if run:
            _log_tags(client, run, tags)  # the child belongs to the pipeline run that brings it to its end
            self._recorded = _last_steps(client, run)
        else:
            below = f" · {client.get_run(self._parent).info.run_name}" if self._parent else ""
            run = client.create_run(experiment, run_name=f"{self._stage}{below}", tags=tags).info.run_id
        self._client, self.id, self._resume_id = (client, run, run)  # a second attempt resumes the same run
        before = time.time() - client.get_run(run).info.start_time / 1000
        self._began = time.monotonic() - max(0.0, before)  # the clock may be set back meanwhile
        self._monitor = _system_monitor()
        _log_params(client, run, self._stage, self._params)
        if self._parent:
            _log_params(client, self._parent, self._stage, self._params)

    def _send_points(self) -> None:
        self._sender.pause(GATHER_SECONDS)
        while True:
            with self._points_lock:
                batch = self._points[:BATCH]
                if not batch:
                    self._sending_points = False
                    return
            if self._client and self.id:
                fresh = [point for point in batch if point.step > self._recorded.get(point.key, -1)]
                self._client.log_batch(self.id, metrics=fresh)
            with self._points_lock:
                del self._points[: len(batch)]

    def _sample(self) -> None:
        if self._monitor:
            self._monitor.collect_metrics()
            values = {f"system/{name}": value for name, value in self._monitor.aggregate_metrics().items()}
            for monitor in self._monitor.monitors:
                monitor.clear_metrics()
            # Seconds as steps: a resumed run continues where the other ended.
            self.metrics(values, step=int(time.monotonic() - self._began))

    def _failed(self, error: Exception, passing: bool) -> None:
        if passing not in self._said:
            self._said.add(passing)
            print(describe(error, passing), flush=True)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Merge nested mappings into one, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def dvc_digest(path: str, lock: Path | str = "dvc.lock") -> str | None:
    """Read DVC's hash of a stage's output from dvc.lock; None if it is not there."""
    try:
        stages = yaml.safe_load(Path(lock).read_text(encoding="utf-8"))["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    outputs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return next((out["md5"] for out in outputs if out["path"] == path and "md5" in out), None)


def _points(values: Mapping[str, Any], step: int) -> "list[Metric]":
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    return [Metric(name, float(value), now, step) for name, value in values.items() if isinstance(value, Real)]


def _log_tags(client: "MlflowClient", run: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run, tags=[RunTag(key, str(value)) for key, value in tags.items()])


def _log_params(client: "MlflowClient", run: str, stage: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)[:6000]) for key, value in flat(params, f"{stage}.").items()]
    for first in range(0, len(entries), 100):  # MLflow's limit
        client.log_batch(run, params=entries[first : first + 100])


def _reopen(client: "MlflowClient", run_id: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        if client.get_run(run_id).info.lifecycle_stage != "active":
            return None
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if is_passing(error):
            raise
        return None
    return run_id


def _last_steps(client: "MlflowClient", run: str) -> dict[str, int]:
    names = client.get_run(run).data.metrics
    return {name: max(point.step for point in client.get_metric_history(run, name)) for name in names}


def _system_monitor() -> Any:
    """Make MLflow's collectors of processor, memory, disk, network and GPU figures."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    try:
        monitor = SystemMetricsMonitor("")
        monitor.collect_metrics()  # the first reading of the processor is always 0
        for part in monitor.monitors:
            part.clear_metrics()
    except Exception:  # a container may hide a counter
        return None
    return monitor
