"""Compare pretraining with lightly's on the same images: `python -m benchmarks.quality`."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Row, found, machine, parser_of, save
from benchmarks.photographs import KEPT
from benchmarks.quality_proof import same_images, same_start, same_work
from benchmarks.quality_runs import (
    ALIKE,
    METRICS,
    OURS,
    PEER,
    Case,
    Run,
    best_workers,
    cifar10,
    fashion_mnist,
    scored,
    trained_once,
)
from benchmarks.quality_sides import training_images
from moco.cores import cores
from moco.errors import MocoError
from moco.evaluation.linear import Evaluation
from moco.training.setup import build


def rows(case: Case, runs: dict[str, list[Run]], untrained: Evaluation, workers: int) -> list[Row]:
    """Accuracies and times of both of our settings beside lightly's."""
    settings, seeds = case.settings, len(runs[PEER])
    table = (
        f"{case.name}, {len(training_images(settings, case.shards)):,} images, {settings.epochs} epochs, {settings.encoder.label} at"
        f" {settings.image_size} px, batch {settings.global_batch}, K {settings.negatives}; {seeds} {'seed' if seeds == 1 else 'seeds'}"
    )
    theirs = runs[PEER]
    found = []
    for side in (OURS, ALIKE):
        mine = runs[side]
        for metric, name in METRICS.items():
            a, b = ([100 * getattr(run, metric) for run in some] for some in (mine, theirs))
            found.append(
                Row(
                    table, f"{side}: {name}", "% top-1", statistics.mean(a), PEER, statistics.mean(b), note=spread(a, b)
                )
            )
        found.append(
            Row(
                table,
                f"{side}: training",
                "images/s",
                statistics.median(run.speed for run in mine),
                PEER,
                statistics.median(run.speed for run in theirs),
                at_least=1.0,
            )
        )
        wall, peer_wall, cpu, peer_cpu = (
            statistics.median(getattr(run, field) for run in some)
            for field in ("wall", "cpu")
            for some in (mine, theirs)
        )
        found.append(
            Row(
                table,
                f"{side}: from the command to the weights",
                "s",
                wall,
                PEER,
                peer_wall,
                cpu,
                peer_cpu,
                at_least=1.0,
                note=f"start-up and checkpoint included; lightly's with {workers} loader {'process' if workers == 1 else 'processes'}",
            )
        )
    loss = {side: statistics.mean(run.loss for run in some) for side, some in runs.items()}
    found[-1].note += "; loss at the end: " + ", ".join(f"{side} {value:.3f}" for side, value in loss.items())
    for name, value in (("linear classification", untrained.linear_top1), ("kNN", untrained.knn_top1)):
        found.append(Row(table, f"the first weights, untrained: {name}", "% top-1", 100 * value))
    return found + each_run(f"{case.name}, each run", runs)


def each_run(table: str, runs: dict[str, list[Run]]) -> list[Row]:
    """Give the accuracies that the means are of."""
    return [
        Row(
            table,
            f"seed {seed}, {side}: {name}",
            "% top-1",
            100 * getattr(mine, metric),
            PEER,
            100 * getattr(theirs, metric),
        )
        for side in (OURS, ALIKE)
        for metric, name in METRICS.items()
        for seed, (mine, theirs) in enumerate(zip(runs[side], runs[PEER], strict=True))
    ]


def spread(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """Say how runs of equal seeds differ: deviations, and the mean difference with its error."""
    apart = [a - b for a, b in zip(mine, theirs, strict=True)]
    if len(apart) == 1:
        return f"ours less lightly's {apart[0]:+.2f} points; one seed"
    error = statistics.stdev(apart) / len(apart) ** 0.5
    return (
        f"± {statistics.stdev(mine):.2f} and ± {statistics.stdev(theirs):.2f} from seed to seed; ours less lightly's"
        f" {statistics.mean(apart):+.2f} ± {error:.2f} points (standard error)"
    )


def measure(case: Case, seeds: int, workers: int) -> tuple[list[Row], list[str]]:
    """Every side once a seed, in an order that turns round.

    Args:
        case: what is learned from.
        seeds: how many.
        workers: loader processes of lightly's side; 0: as many as are best for it.
    """
    proofs = [same_images(case), same_start(case)]
    workers = workers or best_workers(case)
    runs: dict[str, list[Run]] = {side: [] for side in (OURS, ALIKE, PEER)}
    for seed in range(seeds):
        for side in list(runs)[:: -1 if seed % 2 else 1]:
            run = trained_once(case, side, seed, workers)
            runs[side].append(run)
            print(
                f"seed {seed}, {side}: linear {run.linear:.2%}, kNN {run.knn:.2%}, {run.speed:,.0f} images/s, {run.wall:.1f} s, loss {run.loss:.3f}",
                flush=True,
            )
    proofs.append(same_work(case, runs))
    settings = case.of(ALIKE, 0)
    first = build(settings, 0).encoder_q.backbone.state_dict()
    return rows(case, runs, scored(case, first, settings), workers), proofs


def main() -> None:
    """Fashion-MNIST, and CIFAR-10 where a copy exists or can be downloaded."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, help="runs of each side (default: 3; 1 if quick)")
    parser.add_argument(
        "--cifar10",
        type=Path,
        default=KEPT / "cifar10",
        help="folder of cifar-10-batches-py or its archive, which is downloaded there unless it has one (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="loader processes of lightly's side (default: as many as are best for it; if quick, one less than cores)",
    )
    arguments = parser.parse_args()
    quick, begun = arguments.quick, machine()
    seeds, size = arguments.seeds or (1 if quick else 3), (0.1, 2, 5_000) if quick else (0.25, 5, 100_000)
    workers = arguments.workers or (max(1, cores() - 1) if quick else 0)
    table: list[Row] = []
    proofs: list[str] = []
    cases = []
    if not found("lightly"):
        table.append(
            Row("Fashion-MNIST", "accuracy and time", "", peer_name=PEER, not_run="not installed; `make bench` does")
        )
    else:
        cases.append(fashion_mnist(*size))
        try:
            cases.append(cifar10(arguments.cifar10, *size))
        except MocoError as error:
            print(error, flush=True)
            table.append(
                Row(
                    "CIFAR-10",
                    "CIFAR-10, accuracy and time",
                    "",
                    peer_name=PEER,
                    not_run="no copy of it was named and none can be downloaded; `python -m benchmarks.quality --cifar10 FOLDER` takes a copy",
                )
            )
    for case in cases:
        more, said = measure(case, seeds, workers)
        table, proofs = table + more, proofs + said
    save("quality", table, proofs, begun, quick)


if __name__ == "__main__":
    main()
