"""Stage transfer: one task from one initialization, in several trials."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

from moco import tracking
from moco.cluster.launcher import Work
from moco.cluster.machine import Machine, load_machine
from moco.devices import compute_devices
from moco.errors import MocoError
from moco.features.extract import Labelled
from moco.features.intervals import commonest, wilson
from moco.files import whole_folder, write_json, write_table
from moco.processes import join
from moco.runs.curves import read_rows
from moco.runs.folder import FINISHED, only_writer, prepare
from moco.transfer.config import PARAMS, Comparison, Init, TransferParams, load_transfer_params
from moco.transfer.sets import Sets
from moco.transfer.trial import PICTURES, QUARANTINE, RESULT, RESULTS, Trial, name_of, run_trial, write_job
from pipelines import stage

BESIDE = ("_std", "_low", "_high")
"""Ends of the names of figures that belong to another one."""


def transfer(params: TransferParams, task: str, init: str) -> None:
    """Run the stage: metrics.json, CSV files and predictions in outputs/transfer/results/TASK-INIT.

    Args:
        params: all of transfer/params.yaml.
        task: what is trained.
        init: what it starts from: an initialization of stage weights, an encoder's folder, or a
            file. `moco.stem` and `random` say the stem and the network that it does not tell.
    """
    comparison = params.of(task)
    if comparison is None:
        raise MocoError(f"{PARAMS}: has no section {task}; add it, or name another task")
    ready = init in get_args(Init)
    weights = f"outputs/transfer/weights/{init}" if ready else init
    stem, otherwise = (None, None) if ready else (params.moco.stem, params.random)
    name = f"{task}-{Path(init).stem}"
    outputs = stage.outputs("transfer") / "results" / name
    with stage.alone("transfer", outputs, f"python -m pipelines.transfer {task} {init}"):
        _trials(Trial(comparison, weights, comparison.training.seed, stem, otherwise), name, outputs)


def _trials(first: Trial, name: str, outputs: Path) -> None:
    """Run the trials that are not done, and write the outputs of all."""
    comparison, machine = first.comparison, load_machine()
    quarantine = stage.runs_folder() / f"transfer-{name}.{QUARANTINE}"
    sets = Sets.of(comparison, quarantine)
    left_out = [] if isinstance(sets.test, Labelled) else [bad for bad in sets.test.problems if not bad.stays]
    if left_out:
        print(f"transfer: {name}: no figure counts {len(left_out)} bad images or objects of the test set", flush=True)
    with tracking.stage_run(f"transfer-{name}", comparison.model_dump()) as tracked:
        folders = []
        for number in range(comparison.training.trials):
            trial = replace(first, seed=first.seed + number)
            print(f"transfer: {name}: trial {number + 1} of {comparison.training.trials}", flush=True)
            folders.append(_finished(trial, sets, machine))
            _follow(folders[-1], number, tracked)
        results = [json.loads((folder / RESULT).read_text()) for folder in folders]
        metrics = summary(results)
        if isinstance(sets.test, Labelled) and isinstance(sets.train, Labelled):
            metrics["label"] |= beside(metrics["label"], sets.train, sets.test)
        _write_outputs(outputs, folders, results, metrics)
        tracked.results(metrics)
        for path in sorted(outputs.iterdir()):
            tracked.artifact(path)
    means = {name: value for name, value in tracking.flat(metrics).items() if not name.endswith(BESIDE)}
    figures = ", ".join(f"{name} {value:.1%}" for name, value in means.items() if value is not None)
    print(f"transfer: {name}: {figures}", flush=True)


def _finished(trial: Trial, sets: Sets, machine: Machine) -> Path:
    """Run a trial unless it is finished, and give its folder."""
    start = trial.start()
    if start.about:
        print(f"transfer: {trial.weights}: {start.about}", flush=True)
    folder = stage.runs_folder() / f"transfer-{name_of(trial, sets, start)}"
    with only_writer(folder):
        prepare(folder, restart=False)
        if (folder / FINISHED).exists():
            print(f"transfer: done before, in {folder.name}", flush=True)
            return folder
        write_job(folder, trial)
        work = Work(
            folder,
            _processes(trial.comparison, machine),
            lambda: run_trial(trial, sets, start, folder, machine, join(machine.training_device)),
            lambda: (folder / FINISHED).exists(),
        )
        machine.launcher.run(work, None)
    return folder


def _processes(comparison: Comparison, machine: Machine) -> int:
    """Count training processes here: as machine.yaml says, else one a GPU as the batch divides."""
    if machine.launcher.kind == "slurm":
        raise MocoError(
            "machine.yaml: launcher.kind = slurm submits pretraining only; run this command within a job (sbatch, srun), with"
            " launcher: {kind: local}"
        )
    if machine.processes is not None:
        return machine.processes
    most = len(compute_devices(machine.training_device))
    return max(count for count in range(1, most + 1) if comparison.training.batch_size % count == 0)


def _follow(folder: Path, number: int, tracked: tracking.TrackedRun) -> None:
    for row in read_rows(folder / "training/curves.csv"):
        values = {f"trial{number}/{name}": float(value) for name, value in row.items() if name != "step" and value}
        tracked.metrics(values, int(row["step"]))


def beside(figures: dict[str, float], train: Labelled, test: Labelled) -> dict[str, float]:
    """Give the ends of each accuracy's 95 % interval, and what the commonest class alone gives."""
    found = {"majority": commonest(train.labels, test.labels)}
    for name in ("top1", "top5"):
        found[f"{name}_low"], found[f"{name}_high"] = wilson(figures[name], len(test.labels))
    return found


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Average each figure over the trials; NAME_std is its standard deviation.

    Figures of single classes are only in `trials.csv`.
    """
    found: dict[str, Any] = {}
    for kind in results[0]:
        found[kind] = {}
        for name, first in results[0][kind].items():
            values = [result[kind][name] for result in results]
            if isinstance(first, dict):
                continue
            if any(value is None for value in values):  # for example, no object is of that size
                found[kind][name] = None
                continue
            found[kind][name] = mean(values)
            if len(values) > 1:
                found[kind][f"{name}_std"] = stdev(values)
    return found


def _write_outputs(outputs: Path, folders: list[Path], results: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
    outputs.mkdir(parents=True, exist_ok=True)
    write_json(outputs / "metrics.json", metrics)
    write_table(
        outputs / "trials.csv",
        ["trial", "metric", "value"],
        [
            [number, name, value]
            for number, result in enumerate(results)
            for name, value in tracking.flat(result).items()
            if value is not None
        ],
    )
    curves = [read_rows(folder / "training/curves.csv") for folder in folders]
    write_table(
        outputs / "curves.csv",
        ["trial", "step", "loss"],
        [[number, row["step"], row["loss"]] for number, rows in enumerate(curves) for row in rows],
    )
    with whole_folder(outputs / "predictions") as pictures:
        for path in sorted([*folders[0].glob(PICTURES), *folders[0].glob(RESULTS)]):  # of the first trial
            shutil.copyfile(path, pictures / path.name)


if __name__ == "__main__":
    stage.main(
        transfer,
        __doc__,
        load_transfer_params,
        PARAMS,
        task={"help": "a section of the parameter file: detection, instances, …"},
        init={"help": "random, supervised or moco, as stage weights left them; or a file or folder of weights"},
    )
