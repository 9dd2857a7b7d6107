"""Stage linear: what frozen features are worth, beside baselines (outputs/linear)."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from moco import tracking
from moco.cluster.machine import load_machine
from moco.config import Linear, Params, settings_hash
from moco.devices import compute_devices, describe
from moco.encoders.frozen import EncoderSpec, FrozenEncoder, load_encoder, random_encoder
from moco.errors import MocoError
from moco.evaluation.linear import Evaluation, best_of, evaluate, train_probes, validation_accuracies
from moco.features.collapse import effective_rank
from moco.features.extract import Extractor, Featurizer, Labelled, pixels, sample_indices
from moco.features.intervals import commonest, percent, wilson
from moco.files import read_note, write_json, write_table
from moco.images.batches import read_image
from moco.images.index import open_split
from moco.verdicts import COLLAPSED_RANK, FEWEST_IMAGES
from pipelines import baselines, stage

METRIC = "val_linear_top1"  # what the champion is chosen by
MEASURED = 2048
"""Images, at most, whose features are looked at for collapse."""
METRICS = ("linear_top1", "linear_top5", "knn_top1")


def linear(params: Params) -> None:
    """Run the stage: outputs/linear/{metrics.json, confusion.csv, sweep.csv}, and the model."""
    encoder = load_encoder(stage.ENCODER, compute_devices(load_machine().device))
    train, val, test = (Labelled.of(open_split(stage.SHARDS, split)) for split in ("train", "val", "test"))
    in_use = baselines.features_in_use(stage.runs_folder() / "features")
    with stage.alone("linear"), in_use, tracking.stage_run("linear", params.linear.model_dump()) as tracked:
        digest = tracking.dvc_digest(str(stage.SHARDS)) or test.images.data_hash
        tracked.dataset("shards", digest, stage.SHARDS, "testing")
        reason = _no_labels(train, val, test)
        if reason:
            print(f"linear: skipped, {reason}; kNN and linear accuracies need labels", flush=True)
            results: dict[str, Evaluation] = {}
        else:
            print(f"linear: on {', '.join(map(describe, encoder.devices))}", flush=True)
            results = _evaluate_all(encoder, train, val, test, params.linear)
        _write_outputs(results, train, test, params.linear, tracked)
        value = float(np.nanmax(results["moco"].val_top1)) if results else None
        _register(encoder, value, train, val, params.linear, tracked)


def _no_labels(train: Labelled, val: Labelled, test: Labelled) -> str | None:
    for name, split in (("training", train), ("validation", val), ("test", test)):
        if not len(split.images):
            return f"there is no {name} image"
        if not len(split.indices):
            return f"the {name} images have no labels"
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
    results, count = {}, len(test.labels)
    for name, make in kinds.items():
        result = results[name] = make()
        print(
            f"linear: {name}: top-1 {percent(result.linear_top1, count)}, top-5 {percent(result.linear_top5, count)}, kNN"
            f" {percent(result.knn_top1, count)} on test (learning rate {result.learning_rate:g}, chosen on validation)",
            flush=True,
        )
        diverged = [rate for rate, top1 in zip(settings.learning_rates, result.val_top1, strict=True) if np.isnan(top1)]
        if diverged:
            print(f"linear: {name}: the classifiers of the rates {diverged} diverged and are left out", flush=True)
    alone = majority(train, test)["linear_top1"]
    print(
        f"linear: {alone:.1%} is what naming the commonest class alone gives on these {count} test images; in"
        " brackets are 95 % intervals",
        flush=True,
    )
    if _weights_hash(encoder) != before:
        raise MocoError(
            "linear: the frozen backbone's weights moved while the classifier trained; this is a defect, report it"
        )
    return results


def majority(train: Labelled, test: Labelled) -> dict[str, float]:
    """Compute what naming the commonest classes of the training images gives on the test images."""
    top1, top5 = (commonest(train.labels, test.labels, most) for most in (1, 5))
    return {"linear_top1": top1, "linear_top5": top5, "knn_top1": top1}


def metrics_of(results: dict[str, Evaluation], train: Labelled, test: Labelled) -> dict[str, dict[str, float | None]]:
    """Give the tracked figures, each with the ends of its 95 % interval; None without labels."""
    figures: dict[str, dict[str, float]] = {
        name: {metric: getattr(result, metric) for metric in METRICS} for name, result in results.items()
    }
    if results:
        figures["majority"] = majority(train, test)
    metrics: dict[str, dict[str, float | None]] = {}
    for name in ("moco", "random", "pixels", "majority"):
        found: dict[str, float | None] = dict.fromkeys(METRICS)
        for metric, value in figures.get(name, {}).items():
            found[metric] = value
            found[f"{metric}_low"], found[f"{metric}_high"] = wilson(value, len(test.labels))
        metrics[name] = found
    return metrics


def _write_outputs(
    results: dict[str, Evaluation], train: Labelled, test: Labelled, settings: Linear, tracked: tracking.TrackedRun
) -> None:
    outputs = stage.outputs("linear")
    metrics = metrics_of(results, train, test)
    rates = [
        [name, rate, "" if np.isnan(top1) else top1]
        for name, result in results.items()
        for rate, top1 in zip(settings.learning_rates, result.val_top1, strict=True)
    ]
    write_table(outputs / "sweep.csv", ["features", "learning_rate", "val_top1"], rates)
    names = test.images.classes
    pairs = zip(test.labels, results["moco"].predicted, strict=True) if "moco" in results else ()
    named = ([names[int(actual)], names[int(predicted)]] for actual, predicted in pairs)
    write_table(outputs / "confusion.csv", ["actual", "predicted"], named)
    write_json(outputs / "metrics.json", metrics)
    tracked.results(metrics, {name: metrics["moco"][name] for name in METRICS})
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
    """Register the encoder; it becomes champion if it is better on validation beyond chance."""
    if tracking.enabled() and tracked.id is None:
        return  # out of reach, and said so; each further question would wait for an answer
    # The figure depends on the images and on how the classifier is trained: both name what is
    # compared.
    measured_on = settings_hash(settings, val.images.data_hash)
    notes = stage.runs_folder() / f"pretrain-{encoder.spec.training_hash}" / "mlflow.json"
    model = read_note(notes).get("model")
    figures = {METRIC: value}
    version = tracking.register_encoder(model, encoder.spec.training_hash, figures, measured_on)
    if version is None:  # trained elsewhere or without tracking, or the record of its training is gone
        model = tracking.log_encoder(tracked, stage.ENCODER, [read_image(train.images, 0)])
        version = tracking.register_encoder(model, encoder.spec.training_hash, figures, measured_on)
    tracking.describe_version(version, _card)

    def reevaluate(folder: Path) -> float:
        champion = load_encoder(folder, encoder.devices)
        return _validation_top1(champion, train, val, settings)

    flaw = _collapsed(encoder, val if len(val.images) else train)
    print(tracking.promote(version, METRIC, value, len(val.labels), measured_on, reevaluate, flaw), flush=True)


def _card(uri: str) -> str:
    from moco.encoders.export.card import registered
    from moco.encoders.export.evidence import evidence
    from moco.encoders.export.source import read_source

    source = read_source(stage.ENCODER)
    return registered(source.spec, uri, evidence(source, Path()))


def _collapsed(encoder: FrozenEncoder, split: Labelled) -> str | None:
    """Say so if features are almost one direction, which labels of a few classes may not show."""
    chosen = sample_indices(len(split.images), MEASURED, 0)
    if len(chosen) < FEWEST_IMAGES:
        return None
    extractor = _extractor("moco", encoder.launch, _weights_hash(encoder), encoder.spec)
    rank = effective_rank(extractor.center(split.images, chosen), encoder.devices[0])
    return None if rank >= COLLAPSED_RANK else f"its features have collapsed (effective rank {rank:.1f})"


def _validation_top1(encoder: FrozenEncoder, train: Labelled, val: Labelled, settings: Linear) -> float:
    extractor = _extractor("champion", encoder.launch, _weights_hash(encoder), encoder.spec)
    probes, _ = train_probes(extractor, train, settings, encoder.devices)
    accuracies = validation_accuracies(extractor, probes, val)
    return accuracies[best_of(accuracies, extractor, settings)]


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
