"""Results and samples become a folder with the page and its pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.config import Params, Pretrain
from moco.drawing import NAMES
from moco.features.intervals import wilson
from moco.report import charts, pictures
from moco.report.feature_map import FEWEST
from moco.report.page import escape, render_html, render_markdown
from moco.report.reading import filling, judged, validation
from moco.report.results import Results
from moco.report.samples import Samples
from moco.verdicts import FEWEST_IMAGES, leak_limit, mechanism_of

READING_CHARTS = {"knn_top1": "knn.png", "effective_rank": "rank.png", "leak": "leak.png"}
"""By column of the readings."""
CAPTIONS = {
    "knn.png": "kNN accuracy on validation images over the epochs",
    "spread.png": "Spread of the queries and of validation features over the epochs",
    "rank.png": "Effective rank of validation features over the epochs",
    "leak.png": "Batch-norm leak over the epochs",
}


def write_report(folder: Path, results: Results, samples: Samples, params: Params) -> None:
    """Write report.md, report.html and their PNGs; the same bytes for the same arguments.

    Args:
        folder: an empty folder.
        results: of the stages before.
        samples: from `moco.report.samples.gather`.
        params: whose pretrain section is shown.
    """
    matrix = confusion_matrix(results.confusion, samples.classes)
    _draw(folder, results, samples, params.pretrain, matrix)
    text = render_markdown(_context(results, samples, params, matrix))
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(render_html(text, folder), encoding="utf-8")


def confusion_matrix(pairs: list[tuple[str, str]], classes: list[str]) -> NDArray[np.float64]:
    """Compute shares of each actual class (row) by given name (column): C x C, rows sum to 1."""
    number = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    for actual, predicted in pairs:
        counts[number[actual], number[predicted]] += 1
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _draw(folder: Path, results: Results, samples: Samples, pretrain: Pretrain, matrix: NDArray[np.float64]) -> None:
    pictures.views(folder / "views.png", samples.triples)
    pictures.neighbors(folder / "neighbors.png", samples.rows, "query", "nearest training images")
    if samples.map:
        pictures.map_dots(folder / "map.png", samples.map.points, samples.map.labels, samples.classes)
        pictures.map_images(folder / "map-images.png", samples.map.points, samples.map.images, samples.map.chosen)
    charts.loss(folder / "loss.png", results.curves)
    charts.pretext(folder / "pretext.png", results.curves)
    charts.spread(folder / "spread.png", results.curves, results.readings)
    taken = _taken(results)
    if "knn.png" in taken:
        charts.knn(folder / "knn.png", results.readings)
    if "rank.png" in taken:
        charts.rank(folder / "rank.png", results.readings)
    if "leak.png" in taken:
        charts.leak(folder / "leak.png", results.readings, leak_limit(validation(results, pretrain).probed))
    if results.scores:
        charts.baselines(folder / "baselines.png", results.scores, len(results.confusion))
        charts.sweep(folder / "sweep.png", results.sweep)
        charts.confusion(folder / "confusion.png", matrix, samples.classes)


def _taken(results: Results) -> set[str]:
    """List the charts of readings that were taken at least once."""
    return {chart for name, chart in READING_CHARTS.items() if not np.isnan(results.readings[name]).all()}


def _context(results: Results, samples: Samples, params: Params, matrix: NDArray[np.float64]) -> dict[str, Any]:
    """Gather what the template needs, as it will be printed."""
    curves, pretrain = results.curves, params.pretrain
    taken = _taken(results)
    drawn = [name for name in CAPTIONS if name == "spread.png" or name in taken]
    last_loss = float(curves["loss"][-1])
    checks, warned = judged(results, pretrain)
    return {
        "params": params,
        "mechanism": mechanism_of(pretrain),
        "kind": pretrain.dictionary.kind,
        "momentum": f"{getattr(pretrain.dictionary, 'momentum', '')}",
        "rises": getattr(pretrain.dictionary, "momentum_schedule", "constant") == "cosine",
        "K": f"{pretrain.negatives:,}",
        "keys_a_step": f"{pretrain.global_batch * (1 + pretrain.symmetric):,}",
        "learning_rate": f"{pretrain.lr_per_256 * pretrain.global_batch / 256:g}",
        "chance": f"{np.log1p(pretrain.negatives):.2f}",
        "last_loss": f"{last_loss:.2f}",
        "candidates": round(float(np.exp(last_loss))),
        "last_top1": float(curves["top1"][-1]),
        "filling": filling(curves),
        "leak_limit": round(100 * leak_limit(validation(results, pretrain).probed)),
        "warned": warned,
        "charts": [(CAPTIONS[name], name) for name in drawn],
        "drawn": drawn,
        "fetch": results.fetch,
        "shard": results.shard,
        "splits": [results.fetch[split] for split in ("train", "val", "test")],
        "reason": _why_no_scores(results),
        "checks": checks,
        "scores": results.scores,
        "tested": len(results.confusion),
        "interval": lambda share: _interval(share, len(results.confusion)),
        "majority": results.linear.get("majority"),
        "too_few": samples.mapped < FEWEST_IMAGES,
        "confused": _confused(matrix, samples.classes),
        "names": NAMES,
        "samples": samples,
        "images": "validation images" if samples.held_out else "training images",
        "fewest": FEWEST,
    }


def _interval(share: float, images: int) -> str:
    low, high = wilson(share, images)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _why_no_scores(results: Results) -> str:
    for split, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        if not results.fetch[split]["labelled"]:
            lacks = (
                f"the {name} images have no labels" if results.fetch[split]["images"] else f"there is no {name} image"
            )
            return f"{lacks}, and accuracies need them."
    return "the linear stage found nothing to measure."


def _confused(matrix: NDArray[np.float64], classes: list[str], most: int = 4) -> str:
    """Name the commonest mistakes."""
    wrong = matrix * (1 - np.eye(len(matrix)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(wrong.flat[i], *divmod(int(i), len(matrix))) for i in order]
    return ", ".join(
        f"{escape(classes[a])} as {escape(classes[b])} ({100 * share:.0f} %)" for share, a, b in pairs if share > 0
    )
