"""Stage pretrain: the unlabelled training images become an encoder (outputs/pretrain)."""

import json
import shutil
from pathlib import Path

import yaml

from moco import tracking
from moco.cluster.launch import launched, run_on_this_machine
from moco.cluster.machine import Machine, load_machine
from moco.cluster.process_group import join, leave
from moco.config import Params
from moco.encoders import EncoderSpec, ResNet, save_encoder
from moco.images.index import open_split
from moco.images.loader import read_image
from moco.training.curves import read_rows
from moco.training.loop import Run, check, pretrain
from moco.training.monitor import KnnMonitor
from moco.training.run_folder import FINISHED, only_writer, prepare, training_hash
from pipelines import stage


def run(params: Params, restart: bool = False) -> None:
    """Run the stage: outputs/pretrain/{encoder/, metrics.json, curves.csv, knn.csv}.

    Args:
        params: all of params.yaml.
        restart: set checkpoints of the same settings and data aside and begin anew.
    """
    machine = load_machine()
    images = open_split(stage.SHARDS, "train")
    folder = stage.runs_folder() / f"pretrain-{training_hash(params.pretrain, images.data_hash)}"
    if launched():
        _train(params, machine, folder)
        return
    processes = machine.training_processes(params.pretrain.global_batch // params.pretrain.bn_group_size)
    check(params.pretrain, len(images), processes)
    with only_writer(folder):
        prepare(folder, restart)
        if processes == 1:
            _train(params, machine, folder)
        else:
            resolved = folder / "params.yaml"
            resolved.write_text(yaml.safe_dump(params.model_dump(mode="json")), encoding="utf-8")
            run_on_this_machine("pipelines.pretrain", ["--params", str(resolved)], processes)


def _train(params: Params, machine: Machine, folder: Path) -> None:
    """Train in this process, which may be one of several; the first one writes and records."""
    images, val = open_split(stage.SHARDS, "train"), open_split(stage.SHARDS, "val")
    name = training_hash(params.pretrain, images.data_hash)
    notes = folder / "mlflow.json"
    resume_id = json.loads(notes.read_text())["run"] if notes.exists() else None
    processes = join(machine.device)
    try:
        with tracking.stage_run("pretrain", params.pretrain.model_dump(), resume_id=resume_id) as tracked:
            if tracked.id:
                stage.write_json(notes, {"run": tracked.id})
            tracked.tags({"training_hash": name})
            digest = tracking.dvc_digest(str(stage.SHARDS)) or images.data_hash
            tracked.dataset("shards", digest, stage.SHARDS)

            def report(step: int, values: dict[str, float]) -> None:
                tracked.metrics(values, step)

            monitor = KnnMonitor(images, val, params.pretrain.seed)
            backbone, spec = pretrain(
                Run(params.pretrain, images, monitor, folder, name, machine, processes, report)
            )
            if processes.first:
                _write_outputs(folder, backbone, spec, tracked)
                model = tracking.log_encoder(tracked, stage.ENCODER, [read_image(images, 0)])
                stage.write_json(notes, {"run": tracked.id, "model": model})
                (folder / FINISHED).touch()
        processes.barrier()
    finally:
        leave()


def _write_outputs(folder: Path, backbone: ResNet, spec: EncoderSpec, tracked: tracking.Run) -> None:
    outputs = stage.outputs("pretrain")
    save_encoder(stage.ENCODER, backbone, spec)
    for name in ("curves.csv", "knn.csv"):
        shutil.copyfile(folder / name, outputs / name)
        tracked.artifact(outputs / name)
    last = read_rows(outputs / "curves.csv")[-1]
    readings = read_rows(outputs / "knn.csv")
    metrics = {
        "loss": float(last["loss"]),
        "chance": float(last["chance"]),
        "pretext_top1": float(last["top1"]),
        "pretext_top5": float(last["top5"]),
        "feature_std": float(last["feature_std"]),
        "knn_top1": float(readings[-1]["knn_top1"]) if readings else None,
        "steps": int(last["step"]),
    }
    stage.write_json(outputs / "metrics.json", metrics)
    tracked.results(metrics)


if __name__ == "__main__":
    stage.main(run, __doc__)
