"""The page holds names as text, stays within its size, and has the same bytes each time."""

import base64
import io
import json
import re
import zlib

import numpy as np
import pytest
from drawn import CLASSES, ODD_NAMES, drawn
from hostile_names import HOSTILE, running
from PIL import Image

from moco.errors import MocoError
from moco.explore import page
from moco.explore.images import Explored, Group
from moco.explore.near import Near
from moco.explore.page import write_page
from moco.explore.plane import on_plane

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def test_names_of_any_kind_come_back_as_they_were_and_none_of_them_runs(tmp_path):
    images, points = drawn(60)
    images.names[10 : 10 + len(HOSTILE)] = HOSTILE
    write_page(tmp_path / "a.html", images, points=points)
    html = (tmp_path / "a.html").read_text()
    assert running(html) == ["script", "script", "script"]  # data, library and the page's own
    data = json.loads(DATA.search(html)[1])
    names = json.loads(unpacked(data["names"]))
    assert names[:4] == [*ODD_NAMES[:3], r"x/gr\xfcn.png"]
    assert names[10 : 10 + len(HOSTILE)] == list(HOSTILE)
    assert unpacked(data["files"])[:4] == b"\1\1\1\0"  # no list in UTF-8 names the last
    assert data["groups"]["class"]["values"] == CLASSES
    assert "&lt;b&gt;drawn" in html


def test_neighbors_and_likeness_are_in_the_page_as_they_were_found(tmp_path):
    images, points = drawn(60)
    write_page(tmp_path / "a.html", images, points=points)
    data = json.loads(DATA.search((tmp_path / "a.html").read_text())[1])
    unit = images.features / np.linalg.norm(images.features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    near = np.frombuffer(unpacked(data["near"]), "<u2").reshape(60, 8)
    assert np.array_equal(near, np.argsort(-cosines, axis=1)[:, :8])
    likeness = np.cumsum(np.frombuffer(unpacked(data["similarities"]), "<i2").reshape(60, 8), axis=1)
    assert np.allclose(likeness / 1000, -np.sort(-cosines, axis=1)[:, :8], atol=6e-4)
    placed = np.frombuffer(unpacked(data["points"]), "<u2").reshape(2, 60).T / 65535
    assert np.allclose(placed, points, atol=1e-5)


def test_a_thumbnail_is_the_image_that_the_page_says_it_is(tmp_path):
    images, points = drawn(60)
    made = write_page(tmp_path / "a.html", images, points=points)
    shown = [i for sheet in made.shown for i in sheet]
    assert sorted(shown) == list(range(60))
    sheet = np.array(Image.open(io.BytesIO(made.files[0])))
    for place, i in enumerate(shown):
        top, left = place // 32 * made.side, place % 32 * made.side
        middle = sheet[top + made.side // 2, left + made.side // 2]
        assert np.abs(middle.astype(int) - images.read(i)[0, 0]).max() < 30


def test_the_same_images_give_the_same_bytes(tmp_path):
    images, _ = drawn(60)
    for name in ("a.html", "b.html"):
        write_page(tmp_path / name, images)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_50_000_images_fit_into_5_megabytes_with_as_many_thumbnails_as_there_is_room_for(tmp_path, monkeypatch):
    count, rng = 50_000, np.random.default_rng(0)
    features = rng.normal(size=(count, 4)).astype(np.float32)
    near = Near(rng.integers(0, count, (count, 8)), -np.sort(-rng.uniform(0.5, 1, (count, 8)), axis=1))
    monkeypatch.setattr(page, "nearest_others", lambda *_: near)  # unordered: nothing packs it to less
    noise = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    labels = Group([f"class {n}" for n in range(1000)], rng.integers(0, 1000, count).astype(np.int32))
    names = [f"data/photos/class {n}/IMG_{i:06d}.jpg" for i, n in enumerate(labels.numbers)]
    keys = [f"{key:016x}" for key in rng.integers(0, 2**63, count)]
    images = Explored("x", features, lambda i: noise, names, np.ones(count, dtype=bool), keys, {"class": labels})
    made = write_page(tmp_path / "a.html", images, points=rng.uniform(size=(count, 2)).astype(np.float32))
    assert 4_500_000 < (tmp_path / "a.html").stat().st_size <= 5_000_000
    assert sum(map(len, made.shown)) > 500


def test_images_that_cannot_be_read_are_counted_and_the_others_shown(tmp_path):
    images, points = drawn(60)
    gone = Explored("x", images.features, lambda i: None if i % 2 else images.read(i), images.names, images.files)
    made = write_page(tmp_path / "a.html", gone, points=points)
    assert made.unread == 30 and sorted(i for sheet in made.shown for i in sheet) == list(range(0, 60, 2))


def test_too_few_images_are_one_line(tmp_path):
    with pytest.raises(MocoError, match="has 9 images to show; the page needs at least 16"):
        write_page(tmp_path / "a.html", drawn(9)[0])


def test_the_map_of_many_images_keeps_neighbors_together_and_is_the_same_each_time():
    import torch

    from moco.explore.near import nearest_others, unit_rows

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2100)
    features = (4 * np.eye(5, 16)[labels] + rng.normal(size=(2100, 16))).astype(np.float32)
    near = nearest_others(unit_rows(features, torch.device("cpu")), 8)
    points = on_plane(features, near, 0, torch.device("cpu"))
    assert points.min() >= 0 and points.max() <= 1
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(axis=1)] == labels).mean() > 0.9
    assert np.array_equal(points, on_plane(features, near, 0, torch.device("cpu")))
