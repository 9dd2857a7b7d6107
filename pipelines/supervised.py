"""Stage weights-supervised: weights that were trained with labels, here or elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

from moco import tracking
from moco.cluster.machine import load_machine
from moco.encoders.frozen import save_encoder
from moco.encoders.kinds import Network
from moco.encoders.start import RANDOM, start_from
from moco.features.extract import Labelled
from moco.files import whole_folder, write_json
from moco.images.index import open_split
from moco.processes import join
from moco.runs.folder import FINISHED, only_writer, prepare
from moco.transfer.config import PARAMS, Trained, TransferParams, load_transfer_params
from moco.transfer.finetune import FineTune, finetune
from moco.transfer.networks.classification import Classifier, accuracies
from moco.transfer.schedules import LabelSizes, sizes_of
from pipelines import stage
from pipelines.weights import keep, place, specification


def supervised(params: TransferParams) -> None:
    """Run the stage: outputs/transfer/{weights/supervised, supervised.json}."""
    with stage.alone("weights", place("supervised"), "python -m pipelines.supervised"):
        if isinstance(params.supervised, Trained):
            _train(params.supervised, params.random)
        else:
            keep(params.supervised.source, "supervised", params.random, params.supervised.stem)


def _train(settings: Trained, network: Network) -> None:
    """Train with the labels of a shard set, and measure accuracy on its validation split."""
    machine, training = load_machine(), settings.training
    start = start_from(RANDOM, network, training.seed)
    train, val = (Labelled.of(open_split(settings.source, split)) for split in ("train", "val"))
    processes = join(machine.device)
    run = FineTune(training, start, train, training.seed, Path(), machine, processes)
    folder = stage.runs_folder() / f"supervised-{run.name()}"
    with tracking.stage_run("supervised", settings.model_dump()) as tracked, only_writer(folder):
        prepare(folder, restart=False)
        model = finetune(replace(run, folder=folder / "training"))
        assert isinstance(model, Classifier)
        sizes = sizes_of(training, LabelSizes)
        metrics = accuracies(model, val, sizes, processes, machine.workers()) if len(val.labels) else {}
        made = specification(start, run.name(), sizes.crop_size, sizes.test_short_side)
        with whole_folder(place("supervised")) as part:
            save_encoder(part, model.network, made)
        tracked.results(metrics)
        (folder / FINISHED).touch()
    write_json(stage.outputs("transfer") / "supervised.json", metrics)
    print(f"supervised: {json.dumps(metrics)} on validation", flush=True)


if __name__ == "__main__":
    stage.main(supervised, __doc__, load_transfer_params, PARAMS)
