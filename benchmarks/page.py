"""docs/benchmarks.md from benchmarks/results.json: `python -m benchmarks.page`."""

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
TOPICS = {
    "loader": (
        "Two views of an image",
        "An image is one decode and two random views of 224 x 224 of MoCo v2's distribution. Ours hands over uint8, which the"
        " step normalizes; the peers end as they are written, in normalized float32, unless the line says uint8.",
    ),
    "reading": (
        "Reading without decoding",
        "Encoded bytes of whole samples, from the page cache, in one process. Ours reads in a global random order.",
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
        "Exact mode is the paper's protocol: random crops and flips, encoded anew every epoch. Fast mode encodes one center view"
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


def render(results: dict[str, Any]) -> str:
    """The whole page; topics that were never run are named as such."""
    parts = [
        "# Benchmarks beside peers",
        "`make bench` measures all of this and writes this page. `.venv-bench/bin/python -m benchmarks.loader --quick` and its like measure"
        " one topic in less than two minutes, once `make .venv-bench/.ready` has installed the peers; they write this page too, with the"
        " quick figures (`git checkout docs/benchmarks.md benchmarks/results.json` brings these back). Sides take turns in every round, in an order that turns round; medians are shown. A ratio says how many"
        " times better ours is than the peer: above 1 is faster. CPU is what the process and its children computed; where it is far from"
        " the wall time, the machine was busy or a side waits. To reach is the goal that we had set ourselves. The limit is what no program could pass on the same machine, but for the scatter of both. The figures"
        " in machine-readable form are in `benchmarks/results.json`.",
    ]
    for topic in TOPICS:
        parts.append(
            topic_section(topic, results[topic])
            if topic in results
            else f"## {TOPICS[topic][0]}\n\nNot run yet: `python -m benchmarks.{topic}`."
        )
    return "\n\n".join(parts) + "\n"


def topic_section(topic: str, block: dict[str, Any]) -> str:
    """One topic: what it is, its tables, what was not run, how both sides were compared, and on what machine."""
    title, explanation = TOPICS[topic]
    parts = [f"## {title}", explanation]
    measured = [row for row in block["rows"] if not row["not_run"]]
    for table in dict.fromkeys(row["table"] for row in measured):
        parts.append(_table(table, [row for row in measured if row["table"] == table]))
    missing = [row for row in block["rows"] if row["not_run"]]
    if missing:
        parts.append(
            "\n".join(
                f"- Not run: {', '.join(filter(None, (row['name'], row['peer_name'])))} – {row['not_run']}."
                for row in missing
            )
        )
    if block["proofs"]:
        parts.append("Both sides compute the same: " + "; ".join(block["proofs"]) + ".")
    parts.append(_machine(block))
    return "\n\n".join(parts)


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"### {title}",
        "",
        "| | beside | unit | ours | peer | ratio | to reach | limit | CPU: ours | peer | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = f"{number(row['limit'])}, {row['limit_name']}" if row["limit"] is not None else "–"
        cells = [
            row["name"],
            row["peer_name"] or "–",
            row["unit"],
            number(row["ours"]),
            number(row["peer"]),
            number(row["ratio"]),
            _goal(row),
            limit,
            number(row["ours_cpu"]),
            number(row["peer_cpu"]),
            row["note"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _goal(row: dict[str, Any]) -> str:
    """What was to be reached, and whether it was."""
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


def _machine(block: dict[str, Any]) -> str:
    it = block["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in it["versions"].items())
    return (
        f"*{block['mode'].capitalize()} run of {block['date']}: {it['processor']}, {it['cores']} cores, {it['threads']} torch threads,"
        f" {'with' if it['bf16'] else 'without'} bf16 in hardware, {it['gpu'] or 'no GPU'}; load {it['load']} before. {versions}.*"
    )


if __name__ == "__main__":
    PAGE.write_text(render(json.loads((Path(__file__).parent / "results.json").read_text())))
