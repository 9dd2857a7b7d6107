"""Stage linear: what frozen features are worth, beside baselines (outputs/linear)."""

import csv
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from moco import tracking
from moco.cluster.machine import load_machine
from moco.config import Linear, Params, settings_hash
from moco.devices import compute_devices, describe
from moco.encoders.frozen import EncoderSpec, FrozenEncoder, load_encoder, random_encoder
from moco.errors import MocoError
from moco.evaluation.linear import Evaluation, evaluate, train_probes, validation_accuracies
from moco.features.extract import Extractor, Featurizer, Labelled, pixels
from moco.files import write_json
from moco.images.batches import read_image
from moco.images.index import open_split
from pipelines import baselines, stage

METRIC = "val_linear_top1"  # what the champion is chosen by
METRICS = ("linear_top1", "linear_top5", "knn_top1")


def linear(params: Params) -> None:
    """Run the stage: outputs/linear/{metrics.json, confusion.csv, sweep.csv}, and the model."""
    encoder = load_encoder(stage.ENCODER, compute_devices(load_machine().device))
    train, val, test = (Labelled.of(open_split(stage.SHARDS, split)) for split in ("train", "val", "test"))
    in_use = baselines.features_in_use(stage.runs_folder() / "features")
    with in_use, tracking.stage_run("linear", params.linear.model_dump()) as tracked:
        digest = tracking.dvc_digest(str(stage.SHARDS)) or test.images.data_hash
        tracked.dataset("shards", digest, stage.SHARDS, "testing")
        reason = _no_labels(train, val, test)
        if reason:
            print(f"linear: skipped, {reason}; kNN and linear accuracies need labels", flush=True)
            results: dict[str, Evaluation] = {}
        else:
            print(f"linear: on {', '.join(map(describe, encoder.devices))}", flush=True)
            results = _evaluate_all(encoder, train, val, test, params.linear)
        _write_outputs(results, test, params.linear, tracked)
        value = max(results["moco"].val_top1) if results else None
        _register(encoder, value, train, val, params.linear, tracked)


def _no_labels(train: Labelled, val: Labelled, test: Labelled) -> str | None:
    for name, split in (("training", train), ("validation", val), ("test", test)):
        if not len(split.indices):
            return f"no labelled image in the {name} split"
    return None


def _evaluate_all(
    encoder: FrozenEncoder, train: Labelled, val: Labelled, test: Labelled, settings: Linear
) -> dict[str, Evaluation]:
    spec = encoder.spec
    before = _weights_hash(encoder)

    def untrained() -> Extractor:
        network = random_encoder(spec, settings.seed, encoder.devices)
        return _extractor("random", network.launch, _weights_hash(network), spec)

    def run(extractor: Extractor) -> Evaluation:
        return evaluate(extractor, train, val, test, settings, encoder.devices)

    keep = partial(baselines.kept, settings=settings, data_hash=test.images.data_hash)
    seen = (spec.image_size, spec.eval_crop_ratio)
    network = {name: value for name, value in spec.values().items() if name != "training_hash"}
    kinds: dict[str, Callable[[], Evaluation]] = {
        "moco": lambda: run(_extractor("moco", encoder.launch, before, spec)),
        "random": lambda: keep(("random", network), evaluate=lambda: run(untrained())),
        "pixels": lambda: keep(("pixels", seen), evaluate=lambda: run(_extractor("pixels", pixels, "pixels", spec))),
    }
    results = {}
    for name, make in kinds.items():
        result = results[name] = make()
        print(
            f"linear: {name}: top-1 {result.linear_top1:.1%}, top-5 {result.linear_top5:.1%}, kNN {result.knn_top1:.1%}"
            f" on test (learning rate {result.learning_rate:g}, chosen on validation)",
            flush=True,
        )
    if _weights_hash(encoder) != before:
        raise MocoError(
            "linear: the frozen backbone's weights moved while the classifier trained; this is a defect, report it"
        )
    return results


def _write_outputs(
    results: dict[str, Evaluation], test: Labelled, settings: Linear, tracked: tracking.TrackedRun
) -> None:
    outputs = stage.outputs("linear")
    metrics = {
        name: {metric: getattr(results[name], metric) if name in results else None for metric in METRICS}
        for name in ("moco", "random", "pixels")
    }
    with (outputs / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["features", "learning_rate", "val_top1"])
        for name, result in results.items():
            rates = zip(settings.learning_rates, result.val_top1, strict=True)
            writer.writerows([name, rate, top1] for rate, top1 in rates)
    with (outputs / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", "predicted"])
        if "moco" in results:
            names = test.images.classes
            pairs = zip(test.labels, results["moco"].predicted, strict=True)
            writer.writerows([names[int(actual)], names[int(predicted)]] for actual, predicted in pairs)
    write_json(outputs / "metrics.json", metrics)
    tracked.results(metrics)
    for name in ("sweep.csv", "confusion.csv", "metrics.json"):
        tracked.artifact(outputs / name)


def _register(
    encoder: FrozenEncoder,
    value: float | None,
    train: Labelled,
    val: Labelled,
    settings: Linear,
    tracked: tracking.TrackedRun,
) -> None:
    """Register the encoder; it becomes champion if validation says that it is strictly better."""
    # The figure depends on the images and on how the classifier is trained: both name what is
    # compared.
    measured_on = settings_hash(settings, val.images.data_hash)
    notes = stage.runs_folder() / f"pretrain-{encoder.spec.training_hash}" / "mlflow.json"
    model = json.loads(notes.read_text()).get("model") if notes.exists() else None
    figures = {METRIC: value}
    version = tracking.register_encoder(model, encoder.spec.training_hash, figures, measured_on)
    if version is None:  # trained elsewhere or without tracking, or the record of its training is gone
        model = tracking.log_encoder(tracked, stage.ENCODER, [read_image(train.images, 0)])
        version = tracking.register_encoder(model, encoder.spec.training_hash, figures, measured_on)

    def reevaluate(folder: Path) -> float:
        champion = load_encoder(folder, encoder.devices)
        return max(_validation_top1(champion, train, val, settings))

    print(tracking.promote(version, METRIC, value, measured_on, reevaluate), flush=True)


def _validation_top1(encoder: FrozenEncoder, train: Labelled, val: Labelled, settings: Linear) -> list[float]:
    extractor = _extractor("champion", encoder.launch, _weights_hash(encoder), encoder.spec)
    probes, _ = train_probes(extractor, train, settings, encoder.devices)
    return validation_accuracies(extractor, probes, val)


def _extractor(name: str, featurizer: Featurizer, fingerprint: str, spec: EncoderSpec) -> Extractor:
    workers, cache = load_machine().workers(), stage.runs_folder() / "features"
    return Extractor(name, featurizer, fingerprint, spec.image_size, spec.eval_crop_ratio, workers, cache)


def _weights_hash(encoder: FrozenEncoder) -> str:
    digest = hashlib.sha256()
    for tensor in encoder.backbone.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    stage.main(linear, __doc__)
