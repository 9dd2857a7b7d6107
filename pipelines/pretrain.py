"""Stage pretrain: the unlabelled training images become an encoder (outputs/pretrain).

This process drives: a launcher trains (here, in processes of this host, on several hosts, in a
Slurm job), while this process follows the run's files for MLflow; then it makes the stage's outputs
of the last checkpoint.
"""

from contextlib import nullcontext

import numpy as np

from moco import notices, tracking
from moco.cluster.launcher import Work
from moco.cluster.machine import find, load_machine
from moco.config import Params
from moco.encoders.frozen import save_encoder
from moco.errors import MocoError
from moco.features.intervals import wilson
from moco.files import copy_file, read_note, whole_folder, write_json
from moco.images.batches import read_image
from moco.images.decode import Pixels
from moco.runs import checkpoints
from moco.runs.curves import read_rows
from moco.runs.folder import FINISHED, held, only_writer, prepare
from moco.runs.job import Job, write_job
from moco.tracking.follow import followed
from moco.training.run import Run
from moco.training.setup import ADDRESSES, DVC, specification
from moco.worker import train
from pipelines import stage
from pipelines.driver import work_elsewhere
from pipelines.remote_tars import write_tars


def pretrain(params: Params, restart: bool = False) -> None:
    """Run the stage: outputs/pretrain/{encoder/, metrics.json, curves.csv, readings.csv}.

    Args:
        params: all of params.yaml.
        restart: set checkpoints of the same settings and data aside and train from the start.
    """
    stage.check_pretraining(params.pretrain)
    run = run_of(params)
    own = [line for line in notices.of_params(params) if line.startswith("pretrain.")]
    stage.note("pretrain", own + notices.of_data(params.pretrain, len(run.images), len(run.monitor.val)))
    launcher, folder = run.machine.launcher, run.folder
    work = Work(folder, run.processes_per_host, lambda: train(folder), run.done)
    if held(folder) and launcher.help(work, lambda: held(folder)):
        return
    with only_writer(folder):
        kind, found = find(folder) or (type(launcher), None)
        if found and (restart or not isinstance(launcher, kind)):
            raise MocoError(
                f"{found.what} trains this very run; end it with `{found.end}`, or follow it: launcher.kind:"
                f" {kind.__name__.lower()} in machine.yaml, without --restart"
            )
        if found is None:
            prepare(folder, restart)
            leave_job(run)
        notes = folder / "mlflow.json"
        resume_id = read_note(notes).get("run")
        with tracking.stage_run("pretrain", run.settings.model_dump(), resume_id=resume_id) as tracked:
            if tracked.id:
                write_json(notes, {"run": tracked.id})
            tracked.tags({"training_hash": run.name})
            tracked.dataset("shards", tracking.dvc_digest(str(stage.SHARDS)) or run.images.data_hash, stage.SHARDS)
            validation = run.monitor.validation(run.settings.bn_group_size)
            elsewhere = work_elsewhere() if launcher.outlives_driver else nullcontext()
            with followed(folder, tracked, run.steps_per_epoch, run.settings, validation), elsewhere:
                launcher.run(work, found)
            with stage.alone("pretrain"):
                write_outputs(run, tracked)
            model = tracking.log_encoder(tracked, stage.ENCODER, [_example(run)])
            write_json(notes, {"run": tracked.id, "model": model})
        (folder / FINISHED).touch()


def run_of(params: Params) -> Run:
    """Make the run that a parameter file describes, checked against this machine."""
    run = Run.of(params.pretrain, stage.SHARDS, stage.runs_folder(), load_machine())
    run.check()
    return run


def leave_job(run: Run) -> None:
    """Write what the processes that train need to know into the run's folder."""
    write_job(run.folder, Job(run.settings, str(stage.SHARDS)))
    if run.machine.shards_from == DVC:
        write_tars(run.folder / ADDRESSES)


def write_outputs(run: Run, tracked: tracking.TrackedRun) -> None:
    """Make the encoder, the metrics and the curves of the last checkpoint.

    Raises:
        MocoError: the run has not reached its end.
    """
    state = checkpoints.load_newest(run.folder)
    if state is None or state["step"] != run.total:
        raise MocoError(f"{run.folder}: holds no checkpoint of the run's end; run the same command again")
    model = run.model()
    model.load_state_dict(state["model"])
    outputs = stage.outputs("pretrain")
    with whole_folder(stage.ENCODER) as part:
        save_encoder(part, model.encoder_q.backbone, specification(run.settings, model, run.name))
    for file in ("curves.csv", "readings.csv"):
        copy_file(run.folder / file, outputs / file)
        tracked.artifact(outputs / file)
    last = read_rows(outputs / "curves.csv")[-1]
    newest = (read_rows(outputs / "readings.csv") or [{}])[-1]
    readings = ("knn_top1", "spread", "effective_rank", "leak")
    metrics = {
        **{name: float(last[name]) for name in ("loss", "chance")},
        **{f"pretext_{name}": float(last[name]) for name in ("top1", "top5")},
        "feature_std": float(last["feature_std"]),
        **{name: float(newest[name]) if newest.get(name) else None for name in readings},
        "steps": int(last["step"]),
        "precision": state.get("precision"),  # missing in a checkpoint of an earlier version
    }
    if metrics["knn_top1"] is not None:
        classified = run.monitor.validation(run.settings.bn_group_size).classified
        metrics["knn_top1_low"], metrics["knn_top1_high"] = wilson(metrics["knn_top1"], classified)
    write_json(outputs / "metrics.json", metrics)
    tracked.results(metrics, {"loss": metrics["loss"]})


def _example(run: Run) -> Pixels:
    """Give an image for the model's signature: the first, or a gray one for a stream."""
    if (run.images.folder / run.images.shards[0]).exists():
        return read_image(run.images, 0)
    return np.full((run.settings.image_size, run.settings.image_size, 3), 128, dtype=np.uint8)


if __name__ == "__main__":
    stage.main(pretrain, __doc__)
