"""Records as a study's runs would leave them, with figures that are given."""

from collections.abc import Callable
from pathlib import Path

from moco.study.definition import Scale, Variant, load_study, place, variants
from moco.study.record import Record

ROOT = Path(__file__).parents[1]


def records_of(name: str, scale: Scale, accuracy: Callable[[Variant], float | None]) -> list[Record]:
    """One record for every run of a study of the project."""
    study = load_study(name, ROOT / "studies")
    found = []
    for run in variants(name, study, scale):
        settings = run.params(ROOT / "params.yaml").pretrain
        found.append(
            Record(
                name=run.name,
                series=run.series,
                x=run.x,
                seed=run.seed,
                place=place(study.axis.kind, run.x, settings.encoder),
                fingerprint="f",
                commit="c" * 40,
                edited=False,
                data_hash="d.dir",
                seconds={"pretrain": 40.0, "linear": 20.0},
                restored=[],
                metrics={"pretrain": {}, "linear": {"moco": {study.metric: accuracy(run)}}},
                epochs=[
                    {"epoch": float(e), "pretext_top1": 1 - 0.5**e, "knn_top1": 0.6 + 0.02 * e} for e in range(1, 9)
                ],
                machine="2 cores of a processor",
                tracked=None,
            )
        )
    return found
