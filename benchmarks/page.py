"""docs/benchmarks.md from benchmarks/results.json: `python -m benchmarks.page`."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
TOPICS = {
    "loader": (
        "Two views of an image",
        "An image is one decode and two random views of 224 x 224 of MoCo v2's distribution. Ours hands over uint8, which the"
        " step normalizes; the peers end as they are written, in normalized float32, unless the line says uint8. SPDL decodes,"
        " crops, resizes and flips with FFmpeg; its filters draw no jitter, grayscale or blur of MoCo, so it does without.",
    ),
    "reading": (
        "Reading without decoding",
        "Encoded bytes of whole samples, from the page cache, in one process. Ours reads in a global random order. litdata and"
        " mosaicml-streaming read their own copies of the samples, written in their formats without compression, by index in a"
        " random order; litdata also in the order that it shuffles.",
    ),
    "step": (
        "The training step",
        "Forward and backward of both encoders, loss, queue, momentum update and SGD, on images that are in memory already."
        " Ours begins at uint8 and normalizes them; the peers are given normalized float32.",
    ),
    "epoch": (
        "Loader and step at once",
        "One loader process and one thread of training, on one core each. The slower of the two alone is what the whole cannot pass.",
    ),
    "probe": (
        "Linear classification on frozen features",
        "Exact mode is the paper's protocol: random crops and flips, encoded again every epoch. Fast mode encodes one center view"
        " of each image once. They are different protocols; the difference in accuracy is stated.",
    ),
    "quality": (
        "Accuracy of whole runs",
        "The same images, encoder, first weights, first keys, epochs, batch, views, optimizer and evaluation; lightly's loop is made of its"
        " documented parts, in float32, with batch norm over the whole batch. Ours stands beside it twice: with its own settings, batch norm in"
        " shuffled groups and the precision of the machine, and with lightly's. Accuracies are means over the seeds, times medians.",
    ),
    "transfer_step": (
        "Fine-tuning a detector",
        "From image files to the optimizer's step, one loader worker on each side, random weights. torchvision's reference loop reads with"
        " Pillow, hands over float32 and resizes in the model; ours resizes in the worker and hands over uint8.",
    ),
    "transfer_evaluation": (
        "Evaluating detections",
        "All figures of one evaluation, on made-up objects and detections of COCO's number and sizes. Ours goes from arrays to"
        " figures; pycocotools begins at the dictionaries that it has read from its JSON files.",
    ),
    "sharding": (
        "Writing shards",
        "From a folder of image files to tars with an index, files in the page cache. Ours also hashes every file twice and decodes it"
        " once; the line of the writer alone leaves that out.",
    ),
}


INTRODUCTION = """\
`make bench` measures all of this and writes this page. `.venv-bench/bin/python -m benchmarks.loader --quick` and its like
measure one topic in about two minutes, once `make .venv-bench/.ready` has installed the peers. They write this page
too; `git checkout docs/benchmarks.md benchmarks/results.json` brings these figures back.

Sides take turns in every round, in alternating order; medians are shown. A ratio says how many times better ours is than
the peer: above 1 is faster. "To reach" is the goal set before measuring. "Limit" is what no program could pass on the same
machine, apart from scatter. "CPU" is what the process and its children computed; where it is far from the wall time, the
machine was busy or a side waits. The figures in machine-readable form are in `benchmarks/results.json`.
"""


def render(results: dict[str, Any]) -> str:
    """Render the whole page; topics that were never run are named as such."""
    parts = ["# Benchmarks beside peers", *map(filled, INTRODUCTION.split("\n\n"))]
    versions = {name: it for block in results.values() for name, it in block["machine"]["versions"].items()}
    for topic in TOPICS:
        parts.append(
            topic_section(topic, results[topic], versions)
            if topic in results
            else f"## {TOPICS[topic][0]}\n\nNot run yet: `python -m benchmarks.{topic}`."
        )
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n\n".join([*parts, "## Versions", filled(f"Where a topic names no other: {words}.")]) + "\n"


def topic_section(topic: str, block: dict[str, Any], versions: dict[str, str]) -> str:
    """Render one topic: explanation, tables, what was not run, proofs, machine."""
    title, explanation = TOPICS[topic]
    parts = [f"## {title}", filled(explanation)]
    measured = [row for row in block["rows"] if not row["not_run"]]
    for table in dict.fromkeys(row["table"] for row in measured):
        parts.append(_table(table, [row for row in measured if row["table"] == table]))
    missing = [row for row in block["rows"] if row["not_run"]]
    if missing:
        names = (", ".join(filter(None, (row["name"], row["peer_name"]))) for row in missing)
        lines = (f"- Not run: {name} – {row['not_run']}." for name, row in zip(names, missing, strict=True))
        parts.append("\n".join(filled(line) for line in lines))
    if block["proofs"]:
        parts.append(filled("Both sides compute the same: " + "; ".join(block["proofs"]) + "."))
    parts.append(filled(_machine(block, versions)))
    return "\n\n".join(parts)


def filled(text: str) -> str:
    """Break a paragraph into lines of at most 100 columns."""
    return textwrap.fill(" ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False)


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "beside": lambda row: row["peer_name"] or "–",
    "unit": lambda row: row["unit"],
    "ours": lambda row: number(row["ours"]),
    "peer": lambda row: number(row["peer"]),
    "ratio": lambda row: number(row["ratio"]),
    "to reach": lambda row: _goal(row),
    "limit": lambda row: f"{number(row['limit'])}, {row['limit_name']}" if row["limit"] is not None else "–",
    "CPU: ours": lambda row: number(row["ours_cpu"]),
    "CPU: peer": lambda row: number(row["peer_cpu"]),
}


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    """Render a table without empty columns, its shared unit and limit above it, its notes below."""
    columns = {name: [cell(row) for row in rows] for name, cell in COLUMNS.items()}
    shown = {name: cells for name, cells in columns.items() if set(cells) != {"–"}}
    shared = {name: shown.pop(name)[0] for name in ("unit", "limit") if len(set(shown.get(name, ()))) == 1 < len(rows)}
    above = [f"{name.capitalize()}: {value}" for name, value in shared.items()]
    lines = [f"### {title}", "", *([". ".join(above) + ".", ""] if above else [])]
    lines += [f"| | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for row, *cells in zip(rows, *shown.values(), strict=True):
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join([*lines, *_notes(rows)])


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """List each note once, with the peer that it is of, or the row where a peer has several."""
    of_peer: dict[str, set[str]] = {}
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        of_peer.setdefault(row["peer_name"], set()).add(row["note"])
    for row in rows:
        if row["note"]:
            name = row["peer_name"] if len(of_peer[row["peer_name"]]) == 1 else row["name"]
            found.setdefault(row["note"], {})[name or row["name"]] = None
    return [""] * bool(found) + [filled(f"- {', '.join(names)}: {note}.") for note, names in found.items()]


def _goal(row: dict[str, Any]) -> str:
    """Say what was to be reached, and whether it was."""
    for name, sign, value in (("at_least", "≥", row["ratio"]), ("at_most", "≤", row["ours"])):
        wanted = row[name]
        if wanted is not None and value is not None:
            reached = value >= wanted if name == "at_least" else value <= wanted
            return f"{sign} {wanted:g}{'' if reached else ', missed'}"
    return "–"


def number(value: float | None) -> str:
    """Three significant digits, thousands apart; a dash for nothing."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.{1 if abs(value) >= 10 else 2}f}"


def _machine(block: dict[str, Any], versions: dict[str, str]) -> str:
    """Say when a topic ran, on what machine, and which versions differ from the page's end."""
    it = block["machine"]
    others = [f"{name} {version}" for name, version in it["versions"].items() if versions[name] != version]
    return (
        f"*{block['mode'].capitalize()} run of {block['date']}: {it['processor']}, {it['cores']} cores, {it['threads']} torch"
        f" threads, {'with' if it['bf16'] else 'without'} bf16 in hardware, {it['gpu'] or 'no GPU'}; load {it['load']}"
        f" before{''.join(f'; {other}' for other in others)}.*"
    )


if __name__ == "__main__":
    PAGE.write_text(render(json.loads((Path(__file__).parent / "results.json").read_text())))
