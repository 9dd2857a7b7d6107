"""How long a page of `moco explore` takes to draw, and how smoothly it moves, without a GPU.

`python -m benchmarks.explore PAGE.html` opens it in Debian's Chromium with software rendering.
"""

import argparse
import statistics
from itertools import pairwise
from pathlib import Path

FRAMES = 60
MOVE = """async (frames) => {
  const times = [];
  const step = () => new Promise((done) => requestAnimationFrame(done));
  for (let n = 0; n < frames; n++) {
    plot.zoomToLocation([0.2 * Math.sin(n / 9), 0.2 * Math.cos(n / 9)], 0.9 + 0.3 * Math.sin(n / 7));
    times.push(await step());
  }
  return times;
}"""


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explore", description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = started.chromium.launch(executable_path=options.chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(options.page.resolve().as_uri())
        page.wait_for_function("document.body.dataset.ready", timeout=120_000)
        ready = int(page.evaluate("document.body.dataset.ready"))
        times = page.evaluate(MOVE, FRAMES)
        frame = statistics.median(later - before for before, later in pairwise(times))
        browser.close()
    size = options.page.stat().st_size / 1e6
    print(f"{options.page}: {size:.1f} MB, drawn after {ready / 1000:.1f} s, {1000 / frame:.0f} frames a second")


if __name__ == "__main__":
    main()
