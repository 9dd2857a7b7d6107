"""The data card: what a version of the data holds and what its checks say, as a page."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moco.checks.images import odd_ones
from moco.checks.result import Result
from moco.config import SPLITS, Check
from moco.duplicates.find import Duplicates, Pair, crossings
from moco.duplicates.likeness import reduced
from moco.files import write_json
from moco.images.batches import read_image
from moco.images.decode import Pixels
from moco.report import mosaic
from moco.report.page import render_html, render_markdown
from moco.survey.measure import FORMATS
from moco.survey.run import Survey

MARKS = {"ok": "✓", "failed": "⚠", "note": "⚠", "skipped": "–"}
NAMED_CLASSES = 30
SAMPLE, ODD_SHOWN, PAIRS_SHOWN = 48, 12, 10
REASONS, LONGEST = 8, 120


@dataclass(frozen=True)
class Card:
    """What a card is made of.

    Attributes:
        found: the images.
        duplicates: among them.
        results: of the checks.
        settings: of the checks.
        source: what the images came from, in words.
        fetch: metrics of the stage fetch; empty where there are none.
        quarantine: files that were left out, with their reasons.
        others: of those, how many claim no image by their names.
        last: version that this one was compared with; None: there is none.
    """

    found: Survey
    duplicates: Duplicates
    results: list[Result]
    settings: Check
    source: str
    fetch: dict[str, Any]
    quarantine: list[str]
    others: int
    last: str | None


def write_card(folder: Path, card: Card) -> None:
    """Write card.md, card.html, checks.json and the pictures; the same bytes for the same data.

    Args:
        folder: an empty folder.
        card: what to write.
    """
    text = render_markdown(_context(card) | _draw(folder, card), "card.md.jinja")
    (folder / "card.md").write_text(text, encoding="utf-8")
    (folder / "card.html").write_text(render_html(text, folder), encoding="utf-8")
    write_json(folder / "checks.json", [asdict(result) for result in card.results])


def draw_pairs(path: Path, found: Survey, duplicates: Duplicates) -> bool:
    """Draw pairs on both sides of the threshold; without any, no picture is left. Tells which."""
    near = sorted((pair for pair in duplicates.pairs if pair.kind != "exact"), key=lambda pair: -pair.likeness)
    limit = duplicates.least
    blocks = [
        ("most alike", near[: PAIRS_SHOWN * (len(near) > PAIRS_SHOWN)]),
        (f"just above the threshold of {limit}: near-duplicates", near[-PAIRS_SHOWN:]),
        (f"just below {limit}: not counted", duplicates.refused[:PAIRS_SHOWN]),
    ]
    if not any(shown for _, shown in blocks):
        path.unlink(missing_ok=True)  # one of other pairs
        return False
    mosaic.pairs(path, [(title, [_shown(found, pair) for pair in pairs]) for title, pairs in blocks])
    return True


def _shown(found: Survey, pair: Pair) -> mosaic.ShownPair:
    splits = "–".join(dict.fromkeys(found.place(number)[0] for number in (pair.first, pair.second)))
    note = f"{pair.likeness:.3f}\n{splits}{', mirrored' * (pair.kind == 'mirrored')}"
    return mosaic.ShownPair(_image(found, pair.first), _image(found, pair.second), note)


def _image(found: Survey, number: int) -> Pixels:
    split, i = found.place(int(number))
    return reduced(read_image(found.splits[split], i), mosaic.SIDE)


def _draw(folder: Path, card: Card) -> dict[str, Any]:
    """Draw the pictures; tells whether there is one of pairs, and one of odd images."""
    found = card.found
    order = np.argsort(found.records["content"], kind="stable")[:SAMPLE]  # as good as drawn by lot
    mosaic.tiles(folder / "images.png", [("a sample, all splits", [_image(found, number) for number in order])])
    twins = draw_pairs(folder / "duplicates.png", found, card.duplicates)
    odd = {name: numbers[:ODD_SHOWN] for name, numbers in odd_ones(found, card.settings).items() if len(numbers)}
    if odd:
        rows = [(name, [_image(found, number) for number in numbers]) for name, numbers in odd.items()]
        mosaic.tiles(folder / "odd.png", rows)
    return {"twins": twins, "odd": bool(odd)}


def _context(card: Card) -> dict[str, Any]:
    """Gather what the template needs, as it will be printed."""
    found, first = card.found, card.found.splits[SPLITS[0]]
    counts = [np.bincount(images.labels[images.labels >= 0], minlength=len(first.classes)) for images in found.splits.values()]  # fmt: skip
    by_class = [(name, [int(count[label]) for count in counts]) for label, name in enumerate(first.classes)]
    names = len(first.classes)
    return {
        "version": first.data_hash[:12],
        "images": len(found),
        "source": card.source,
        "classes": f"{names} classes" if names > 1 else ("1 class" if names else "no classes"),
        "splits": {split: len(images) for split, images in found.splits.items()},
        "quarantined": len(card.quarantine) - card.others,
        "others": card.others,
        "checks": card.results,
        "failed": sum(result.status == "failed" for result in card.results),
        "marks": MARKS,
        "last": card.last,
        "quantiles": _quantiles(found),
        "formats": _formats(found),
        "by_class": by_class[:NAMED_CLASSES],
        "more_classes": max(names - NAMED_CLASSES, 0),
        "rest": [int(count[NAMED_CLASSES:].sum()) for count in counts],
        "unlabelled": [int((images.labels < 0).sum()) for images in found.splits.values()],
        "fetch": {"images": len(found), **card.fetch},
        "reasons": _commonest(card.quarantine),
        "duplicates": card.duplicates,
        "crossings": sorted(crossings(found, card.duplicates).items()),
        "mirrored": card.settings.mirrored,
        "distance": card.settings.hash_distance,
    }


def _quantiles(found: Survey) -> list[tuple[str, list[str]]]:
    records = found.records
    short = np.minimum(records["height"], records["width"])
    rows = [
        ("shorter side, pixels", short, "{:.0f}"),
        ("longer side, pixels", np.maximum(records["height"], records["width"]), "{:.0f}"),
        ("size of the file, kB", records["bytes"] / 1000, "{:.1f}"),
        ("mean luma", records["mean"], "{:.2f}"),
        ("contrast", records["contrast"], "{:.2f}"),
        ("sharpness", records["sharpness"], "{:.2f}"),
    ]
    at = (0, 0.05, 0.5, 0.95, 1)
    return [(name, [form.format(value) for value in np.quantile(values, at)]) for name, values, form in rows]


def _formats(found: Survey) -> list[tuple[str, int]]:
    counts = np.bincount(found.records["format"], minlength=len(FORMATS)).tolist()
    return [(name, count) for name, count in zip(FORMATS, counts, strict=True) if count]


def _commonest(quarantine: Sequence[str]) -> list[tuple[str, int]]:
    """Count reasons without the figures of each file."""
    return Counter(re.sub(r"\d+", "…", reason)[:LONGEST] for reason in quarantine).most_common(REASONS)
