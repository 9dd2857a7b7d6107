"""The page in a browser: hover, click, lasso, filters, keys and the lists that it saves.

With `MOCO_EXPLORE_PAGE=FILE.html` the last test takes docs/explore.png of that page.
"""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn import CLASSES, drawn
from PIL import Image
from small_material import ROOT

from moco.explore.page import write_page
from moco.text import utf8

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if not CHROMIUM.exists():
    pytest.skip(f"no {CHROMIUM}: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield opened
        opened.close()


def opened(browser, file: Path, **options):
    """Open a page from a file, without a network; what it asks for or throws is an error."""
    page = browser.new_context(offline=True, accept_downloads=True, **options).new_page()
    page.set_default_timeout(60_000)
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("dialog", lambda dialog: page.trouble.append(dialog.message))
    page.on("console", lambda said: page.trouble.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: page.trouble.append(asked.url) if asked.url.startswith("http") else None)
    page.goto(file.as_uri())
    page.wait_for_function("document.body.dataset.ready")
    return page


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explore")
    images, points = drawn(120)
    write_page(folder / "page.html", images, points=points)
    for name, mine in zip(images.names, images.files, strict=True):
        if mine and utf8(name) == name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    return folder


@pytest.fixture
def page(browser, material):
    page = opened(browser, material / "page.html")
    yield page
    assert page.trouble == []
    page.context.close()


def place(page, i: int) -> tuple[float, float]:
    """Where image i is on the screen, in pixels."""
    x, y = page.evaluate("i => plot.getScreenPosition(i)", int(i))
    box = page.locator("#map").bounding_box()
    return box["x"] + x, box["y"] + y


def saved(page, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes().decode()


def test_hover_shows_thumbnail_and_caption_and_a_click_the_nearest_neighbors(page, material):
    page.mouse.move(*place(page, 33))
    tip = page.locator("#tip")
    tip.wait_for(state="visible")
    shown = page.evaluate("parseInt(document.querySelector('#tip .caption div').textContent.slice(4), 16)")
    picture = tip.locator("[role=img]")
    assert f"x/{shown:04d}.png" in tip.inner_text() and f"x/{shown:04d}.png" in picture.get_attribute("aria-label")
    assert "blob:" in picture.evaluate("box => getComputedStyle(box).backgroundImage")
    page.mouse.down()
    page.mouse.up()
    page.locator("#details").wait_for(state="visible")
    images, _ = drawn(120)
    unit = images.features / np.linalg.norm(images.features, axis=1, keepdims=True)
    cosines = unit @ unit[shown]
    cosines[shown] = -1
    titles = page.eval_on_selector_all("#details .tiles button", "all => all.map(b => b.title)")
    names = [utf8(images.names[i]) for i in np.argsort(-cosines)[:8]]
    assert len(titles) == 8
    assert all(name in title for name, title in zip(names, titles, strict=True) if name.isprintable())


def test_a_lasso_chooses_and_the_list_is_one_that_fetch_takes(page, material):
    from moco.config import Fetch
    from moco.sources.list import find

    page.click("#lasso")
    images, _ = drawn(120)
    blue = [place(page, i) for i in np.flatnonzero(images.groups["class"].numbers == 0)]
    (left, top), (right, low) = np.min(blue, axis=0) - 12, np.max(blue, axis=0) + 12
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, low), (left, low), (left, top)):
        page.mouse.move(x, y, steps=12)
    page.mouse.up()
    page.wait_for_function("document.getElementById('count').textContent === '40 chosen'")
    (material / "chosen.csv").write_text(saved(page, "#save-list"), newline="")
    fetch = Fetch(
        source="list",
        path=str(material / "chosen.csv"),
        labels="folders",
        val_fraction=0.1,
        test_fraction=0,
        split_seed=0,
    )
    files = list(find(fetch).walk())
    wanted = {utf8(images.names[i]) for i in range(0, 120, 3) if utf8(images.names[i]) == images.names[i]}
    assert {file.path for file in files} == wanted
    assert {file.label for file in files} == {"blue"}
    assert sorted(saved(page, "#save-keys").split()) == [images.keys[i] for i in range(0, 120, 3)]


def test_filters_search_colors_and_keys_of_the_keyboard(page):
    count = page.locator("#first")
    page.fill("#search", "x/004")
    assert count.inner_text() == "10 images"
    page.fill("#search", CLASSES[1][:8])
    assert count.inner_text() == "40 images"
    page.fill("#search", "")
    page.select_option("#filter", "odd")
    assert count.inner_text() == "10 images"
    page.select_option("#filter", "alike")
    page.fill("#like", "0.5")
    assert count.inner_text() == "120 images, the first 60"
    page.select_option("#filter", "useful")
    assert "least like all that have a label" in page.locator("#about").inner_text()
    page.select_option("#filter", "all")
    page.select_option("#color", "cluster")
    page.wait_for_function("document.querySelectorAll('#legend button').length > 3")
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    first = page.locator("#said").inner_text()
    page.keyboard.press("ArrowUp")
    assert first and page.locator("#said").inner_text() != first
    page.keyboard.press("Enter")
    page.locator("#details").wait_for(state="visible")


def test_it_is_dark_where_the_reader_wants_that(browser, material):
    page = opened(browser, material / "page.html", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 24, 31)"
    page.context.close()


@pytest.mark.skipif("MOCO_EXPLORE_PAGE" not in os.environ, reason="MOCO_EXPLORE_PAGE names no page to take")
def test_the_picture_of_the_docs(browser):
    page = opened(browser, Path(os.environ["MOCO_EXPLORE_PAGE"]).resolve(), viewport={"width": 1100, "height": 700})
    shown = json.loads(page.locator("#data").text_content())["shown"][0]
    page.evaluate("i => plot.select([i])", shown[-1])
    page.locator("#details").wait_for(state="visible")
    page.locator("#details").scroll_into_view_if_needed()
    page.mouse.move(*place(page, shown[-1]))
    page.locator("#tip").wait_for(state="visible")
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(200, dither=Image.Dither.NONE).save(ROOT / "docs/explore.png", optimize=True)
    assert (ROOT / "docs/explore.png").stat().st_size < 200_000
