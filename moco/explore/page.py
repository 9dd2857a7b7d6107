"""The page: one HTML file with its data, its thumbnails and what draws them; opens from file://."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from moco.drawing import class_colors
from moco.errors import MocoError
from moco.explore.images import Explored, Group
from moco.explore.near import clusters, most_useful, nearest_others, unit_rows
from moco.explore.plane import on_plane
from moco.explore.thumbnails import COLUMNS, Sheets, sheets
from moco.features.placing import ON_CPU
from moco.files import write_text
from moco.permutation import key_of, permute
from moco.report.feature_map import FEWEST
from moco.text import utf8

NEIGHBORS, CLUSTERS, RANKED = 8, 12, 300
LIKE = 0.99
"""Cosine from which on the page calls two images near-duplicates; a field of it changes that."""
MEGABYTES = 5
"""Of the page, unless somebody says otherwise."""
LARGE_TILES, LARGE, SMALL = 2500, 64, 32
"""Up to this number of images tiles have the larger side, in pixels."""
FIRST = 100
"""Images of each filter that get a thumbnail before a seeded sample of all does."""
_PURPOSE = 0xE8  # keeps this order apart from other draws
_FOLDER = Path(__file__).parent


def write_page(
    path: Path,
    images: Explored,
    *,
    points: NDArray[np.float32] | None = None,
    megabytes: float = MEGABYTES,
    device: torch.device = ON_CPU[0],
) -> Sheets:
    """Write the page of some images; the same bytes for the same arguments.

    Compares all pairs on the device: 2 N^2 D operations; in memory are N x D numbers of 4 bytes
    four times at most, and of 8 bytes once where there is no map yet.

    Args:
        path: of the HTML.
        images: `FEWEST` to 65,535, not all with the same features.
        points: their map, float32 N x 2 in [0, 1]; None: it is made.
        megabytes: that the page may have; thumbnails get what data leaves.
        device: that computes.

    Returns:
        The thumbnails that there was room for.

    Raises:
        MocoError: there are fewer images.
    """
    if len(images) < FEWEST:
        raise MocoError(f"{images.what}: has {len(images)} images to show; the page needs at least {FEWEST}")
    unit = unit_rows(images.features, device)
    near = nearest_others(unit, min(NEIGHBORS, len(images) - 1))
    ranked, reached = most_useful(unit, images.labelled, min(RANKED, len(images)))
    parts = clusters(unit, min(CLUSTERS, len(images) // 4), seed=0)
    del unit
    if points is None:
        points = on_plane(images.features, near, 0, device)
    thousandths = np.rint(1000 * near.similarities).astype(np.int16)
    groups = images.groups | {"cluster": Group([str(number + 1) for number in range(parts.max() + 1)], parts)}
    names = [utf8(name) for name in images.names]
    data: dict[str, Any] = {
        "count": len(images),
        "neighbors": near.rows.shape[1],
        "like": LIKE,
        "side": LARGE if len(images) <= LARGE_TILES else SMALL,
        "columns": COLUMNS,
        "points": _packed(np.rint(points.T * 65535).astype("<u2")),
        "near": _packed(near.rows.astype("<u2")),
        # Each as its difference from the one before, which packs to less.
        "similarities": _packed(np.diff(thousandths, axis=1, prepend=0).astype("<i2")),
        "ranked": _packed(ranked.astype("<u2")),
        "covered": [round(float(value), 3) for value in reached],
        "files": _packed((images.files & (np.array(names) == np.array(images.names))).astype("u1")),
        "names": _packed(json.dumps(names, separators=(",", ":")).encode()),
        "keys": _packed("\n".join(images.keys).encode()),
        "groups": {
            name: {
                "values": [utf8(value) for value in group.values],
                "colors": class_colors(max(1, len(group.values))),
                "numbers": _packed(group.numbers.astype("<i4")),
            }
            for name, group in groups.items()
            if group.tells
        },
    }
    frame = _html(images, data)
    room = int(megabytes * 1e6) - len(frame.encode()) - 5000
    order = _those_first(images, thousandths, ranked)
    made = sheets(images.read, order, data["side"], max(0, room * 3 // 4))
    data["sheets"] = [base64.b64encode(file).decode() for file in made.files]
    data["shown"] = made.shown
    write_text(path, _html(images, data, sum(map(len, made.shown))))
    return made


def _packed(values: NDArray[Any] | bytes) -> str:
    """Compress bytes, and write them as base64."""
    return base64.b64encode(zlib.compress(values if isinstance(values, bytes) else values.tobytes(), 9)).decode()


def _those_first(images: Explored, thousandths: NDArray[np.int16], ranked: NDArray[np.int64]) -> list[int]:
    """Order images by their need of a thumbnail: what filters show first, then a sample."""
    odd = np.argsort(thousandths[:, -1], kind="stable")[:FIRST]
    alike = np.argsort(-thousandths[:, 0], kind="stable")[:FIRST]
    rest = permute(np.arange(len(images)), len(images), key_of(0, _PURPOSE))
    return list(dict.fromkeys(np.concatenate([odd, alike, ranked[:FIRST], rest]).tolist()))


def _html(images: Explored, data: dict[str, Any], thumbnails: int = 0) -> str:
    """Put data and scripts into the page. No name in it is HTML: JSON in which no tag can end."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    parts = {
        name: (_FOLDER / name).read_text(encoding="utf-8") for name in ("scatterplot.min.js", "page.js", "page.css")
    }
    return environment.get_template("page.html.jinja").render(
        what=utf8(images.what),
        count=len(images),
        all=max(images.all, len(images)),
        thumbnails=thumbnails,
        ranked=RANKED,
        labelled=len(images.labelled),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        library=parts["scatterplot.min.js"],
        script=parts["page.js"],
        style=parts["page.css"],
    )
