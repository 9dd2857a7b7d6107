"""Stage pretrain: the unlabelled training images become an encoder (outputs/pretrain).

This process drives: it decides who trains (itself, processes of this host, several hosts, a Slurm job),
follows the run's files for MLflow, and makes the stage's outputs of the last checkpoint.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np

from moco import tracking
from moco.cluster import slurm
from moco.cluster.launch import run_here
from moco.cluster.machine import Machine, load_machine
from moco.config import Params, Pretrain
from moco.encoders.frozen import save_encoder
from moco.errors import MocoError
from moco.images.decode import Pixels
from moco.images.index import ShardSet, open_split
from moco.images.loader import read_image
from moco.images.plan import EpochPlan
from moco.images.subset import subset
from moco.runs import checkpoints
from moco.runs.curves import read_rows
from moco.runs.folder import FINISHED, held, only_writer, prepare, training_hash
from moco.runs.job import Job, error_left, write_job
from moco.tracking.follow import followed
from moco.training.monitor import Monitor
from moco.training.setup import at_once, build, check, specification
from moco.verdicts import Validation
from moco.worker import train
from pipelines import stage


def run(params: Params, restart: bool = False) -> None:
    """Run the stage: outputs/pretrain/{encoder/, metrics.json, curves.csv, readings.csv}.

    Args:
        params: all of params.yaml.
        restart: set checkpoints of the same settings and data aside and begin anew.
    """
    machine, images = load_machine(), training_images(params.pretrain)
    name, folder = _place(params.pretrain, images)
    _check(params.pretrain, images, machine)
    if machine.launcher == "torchrun" and held(folder):
        _help(params.pretrain, machine, folder)
        return
    with only_writer(folder):
        job = slurm.find_job(folder)
        if job and (restart or machine.launcher != "slurm"):
            raise MocoError(
                f"Slurm job {job.id} ({job.state}) trains this very run; end it with `scancel {job.id}`, or follow it: launcher:"
                " slurm in machine.yaml, without --restart"
            )
        if job is None:
            prepare(folder, restart)
            write_job(folder, Job(params.pretrain, str(stage.SHARDS)))
        notes = folder / "mlflow.json"
        resume_id = json.loads(notes.read_text())["run"] if notes.exists() else None
        with tracking.stage_run("pretrain", params.pretrain.model_dump(), resume_id=resume_id) as tracked:
            if tracked.id:
                stage.write_json(notes, {"run": tracked.id})
            tracked.tags({"training_hash": name})
            digest = tracking.dvc_digest(str(stage.SHARDS)) or images.data_hash
            tracked.dataset("shards", digest, stage.SHARDS)
            steps_per_epoch = _plan(params.pretrain, images).steps_per_epoch
            with followed(folder, tracked, steps_per_epoch, params.pretrain, _validation(params.pretrain)):
                _train(params.pretrain, images, machine, folder, job)
            _write_outputs(params.pretrain, name, folder, images, tracked)
            model = tracking.log_encoder(tracked, stage.ENCODER, [_example(params.pretrain, images)])
            stage.write_json(notes, {"run": tracked.id, "model": model})
        (folder / FINISHED).touch()


def order(params: Params) -> tuple[Path, Machine]:
    """The run's folder with its job in it, and the machine, for someone else to start the processes."""
    machine, images = load_machine(), training_images(params.pretrain)
    folder = _place(params.pretrain, images)[1]
    _check(params.pretrain, images, machine)
    write_job(folder, Job(params.pretrain, str(stage.SHARDS)))
    return folder, machine


def training_images(settings: Pretrain) -> ShardSet:
    """The images to learn from.

    Raises:
        MocoError: there are no shards, or none of the kind that `settings.images` names.
    """
    images = subset(open_split(stage.SHARDS, "train"), settings.images, settings.images_fraction, settings.seed)
    if not len(images):
        raise MocoError(
            f"pretrain.images = {settings.images}: {stage.SHARDS} holds no such training image; set it to all"
        )
    return images


def _validation(settings: Pretrain) -> Validation:
    train, val = (open_split(stage.SHARDS, split) for split in ("train", "val"))
    return Monitor(train, val, seed=0).validation(settings.bn_group_size)


def _place(settings: Pretrain, images: ShardSet) -> tuple[str, Path]:
    name = training_hash(settings, images.data_hash)
    return name, stage.runs_folder() / f"pretrain-{name}"


def processes_per_host(settings: Pretrain, machine: Machine) -> int:
    """Training processes on each host."""
    return machine.training_processes(settings.global_batch // settings.bn_group_size)


def _check(settings: Pretrain, images: ShardSet, machine: Machine) -> None:
    each = processes_per_host(settings, machine)
    for hosts in range(machine.hosts()[0], machine.hosts()[1] + 1):
        check(settings, len(images), hosts * each)
        at_once(settings, hosts * each, machine.max_batch_per_process)


def _help(settings: Pretrain, machine: Machine, folder: Path) -> None:
    """Train for the stage that another host runs on the same disk; that one writes the outputs."""
    print(f"pretrain: another host drives this run on the same disk; helping it at {machine.rendezvous}", flush=True)
    run_here(folder, machine, processes_per_host(settings, machine))
    while held(folder):
        time.sleep(0.5)
    print("pretrain: done; the other host has written the outputs", flush=True)


def _train(settings: Pretrain, images: ShardSet, machine: Machine, folder: Path, job: slurm.Job | None) -> None:
    processes = processes_per_host(settings, machine)
    if machine.launcher == "slurm":
        assert machine.slurm is not None
        if job:
            print(f"pretrain: following job {job.id}, which trains this run already", flush=True)
        elif _trained(settings, images, folder):
            return
        number = job.id if job else slurm.submit(folder, machine.slurm, processes)
        slurm.follow(folder, number)
        if not _trained(settings, images, folder):
            raise MocoError(
                error_left(folder)
                or f"Slurm job {number} ended ({slurm.ending(number)}) before the run did; its last lines are above, and"
                " the same command goes on from the last checkpoint"
            )
    elif machine.launcher == "local" and processes == 1:
        train(folder)
    else:
        run_here(folder, machine, processes)


def _example(settings: Pretrain, images: ShardSet) -> Pixels:
    """An image for the model's signature: the first one, or a gray where the tars are elsewhere."""
    if (images.folder / images.shards[0]).exists():
        return read_image(images, 0)
    return np.full((settings.image_size, settings.image_size, 3), 128, dtype=np.uint8)


def _plan(settings: Pretrain, images: ShardSet) -> EpochPlan:
    """Gives the number of steps, which is that of a plan of streams too."""
    return EpochPlan(len(images), settings.global_batch, settings.seed)


def _trained(settings: Pretrain, images: ShardSet, folder: Path) -> bool:
    return checkpoints.newest_step(folder) == _plan(settings, images).steps_per_epoch * settings.epochs


def _write_outputs(settings: Pretrain, name: str, folder: Path, images: ShardSet, tracked: tracking.TrackedRun) -> None:
    state = checkpoints.load_newest(folder)
    if state is None or not _trained(settings, images, folder):
        raise MocoError(f"{folder}: holds no checkpoint of the run's end; run the same command again")
    model = build(settings, len(images))
    model.load_state_dict(state["model"])
    outputs = stage.outputs("pretrain")
    save_encoder(stage.ENCODER, model.encoder_q.backbone, specification(settings, model, name))
    for file in ("curves.csv", "readings.csv"):
        shutil.copyfile(folder / file, outputs / file)
        tracked.artifact(outputs / file)
    last = read_rows(outputs / "curves.csv")[-1]
    newest = (read_rows(outputs / "readings.csv") or [{}])[-1]
    metrics = {
        "loss": float(last["loss"]),
        "chance": float(last["chance"]),
        "pretext_top1": float(last["top1"]),
        "pretext_top5": float(last["top5"]),
        "feature_std": float(last["feature_std"]),
        **{
            name: float(newest[name]) if newest.get(name) else None
            for name in ("knn_top1", "spread", "effective_rank", "leak")
        },
        "steps": int(last["step"]),
        "precision": state.get("precision"),  # missing in a checkpoint of an earlier version
    }
    stage.write_json(outputs / "metrics.json", metrics)
    tracked.results(metrics)


if __name__ == "__main__":
    stage.main(run, __doc__)
