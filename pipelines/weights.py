"""Stage weights: what fine-tuning starts from, each as an encoder's folder (outputs/transfer/weights/INIT).

random: the architecture alone, for its weights are drawn anew in every trial. supervised: trained here with the labels
of a shard set, or somebody's file. moco: an encoder of stage pretrain, or somebody's file.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from moco import tracking
from moco.cluster.machine import load_machine
from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.errors import MocoError
from moco.features.extract import Labelled
from moco.images.index import open_split
from moco.processes import join
from moco.runs.folder import FINISHED, only_writer, prepare
from moco.transfer.finetune import FineTune, finetune
from moco.transfer.networks.classification import Classifier, accuracies
from moco.transfer.networks.initialization import RANDOM, Backbone, backbone
from moco.transfer.params import PARAMS, Init, Supervised, TransferParams, load_transfer_params
from moco.transfer.schedules import LabelSizes
from moco.transfer.settings import sizes_of
from pipelines import stage

INDEX = "index.json"
IMAGENET = LabelSizes(224, 256)
"""What somebody else's weights are taken to have been trained at."""


def weights(params: TransferParams, init: Init) -> None:
    """Run the stage for one initialization: outputs/transfer/weights/INIT."""
    folder = stage.outputs("transfer") / "weights" / init
    shutil.rmtree(folder, ignore_errors=True)
    if init == "supervised" and (Path(params.supervised.source) / INDEX).exists():
        _train(params, folder)
        return
    source = RANDOM if init == "random" else getattr(params, init).source
    found = backbone(source, params.random.architecture, params.random.stem, 0)
    if init == "random":
        folder.mkdir(parents=True)
        stage.write_json(folder / "encoder.json", asdict(_specification(params, found, RANDOM, IMAGENET)))
    elif Path(source).is_dir():
        shutil.copytree(source, folder)
    else:
        save_encoder(folder, found.network, _specification(params, found, found.fingerprint, IMAGENET))
    print(f"weights: {init}: {source} in {folder}", flush=True)


def _specification(params: TransferParams, found: Backbone, name: str, sizes: LabelSizes) -> EncoderSpec:
    return EncoderSpec(
        architecture=params.random.architecture,
        stem=params.random.stem,
        image_size=sizes.crop_size,
        eval_crop_ratio=sizes.crop_size / sizes.test_short_side,
        mean=found.mean,
        std=found.std,
        feature_dim=found.network.feature_dim,
        training_hash=name,
    )


def _train(params: TransferParams, folder: Path) -> None:
    """Train with the labels of a shard set, and say how well that went on its validation split."""
    settings: Supervised = params.supervised
    if settings.training is None:
        raise MocoError(
            f"{PARAMS}: supervised.training = null, but {settings.source} is a shard set to be trained on; say how, or name"
            " weights in supervised.source"
        )
    machine, training = load_machine(), settings.training
    start = backbone(RANDOM, params.random.architecture, params.random.stem, training.seed)
    train, val = (Labelled.of(open_split(settings.source, split)) for split in ("train", "val"))
    processes = join(machine.device)
    run = FineTune(training, start, train, training.seed, Path(), machine, processes)
    runs = stage.runs_folder() / f"supervised-{run.name()}"
    with tracking.stage_run("supervised", settings.model_dump()) as tracked, only_writer(runs):
        prepare(runs, restart=False)
        run = FineTune(training, start, train, training.seed, runs / "training", machine, processes)
        model = finetune(run)
        assert isinstance(model, Classifier)
        sizes = sizes_of(training, LabelSizes)
        metrics = accuracies(model, val, sizes, processes, machine.workers()) if len(val.labels) else {}
        save_encoder(folder, model.network, _specification(params, start, run.name(), sizes))
        tracked.results(metrics)
        (runs / FINISHED).touch()
    stage.write_json(stage.outputs("transfer") / "supervised.json", metrics)
    print(f"supervised: {json.dumps(metrics)} on validation", flush=True)


def main() -> None:
    """Entry point of `python -m pipelines.weights INIT`."""
    parser = stage.with_parameters(argparse.ArgumentParser(description=__doc__), str(PARAMS))
    parser.add_argument("init", choices=("random", "supervised", "moco"), help="the initialization")
    arguments = parser.parse_args()
    with stage.errors_in_one_line():
        weights(load_transfer_params(arguments.params, arguments.set), arguments.init)


if __name__ == "__main__":
    main()
