"""A person in a browser: the form, a run's page, a run that is cancelled, one that is retried."""

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_pipeline import Pipeline, processes_with, wait_until
from test_deployment import deployed, start, state  # noqa: F401 - a fixture

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
PICTURES = os.environ.get("MOCO_PICTURES")
"""A folder: the pages are kept there as pictures."""
DEPLOYMENT = "pretrain-and-evaluate"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened.set_default_timeout(90_000)
        yield opened
        browser.close()


@pytest.fixture
def ui(deployed: Pipeline) -> str:  # noqa: F811
    return deployed.env["PREFECT_API_URL"].removesuffix("/api")


def asked(ui: str, path: str, **body: object) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{ui}/api{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    found: list[dict[str, Any]] = json.loads(urllib.request.urlopen(request, timeout=30).read())
    return found


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.wait_for_timeout(1500)  # until charts are drawn
        page.screenshot(path=f"{PICTURES}/{name}.png")


def test_a_value_in_the_form_becomes_a_run_whose_page_shows_progress_and_result(
    ui: str,
    deployed: Pipeline,  # noqa: F811
    page: Any,
) -> None:
    (made,) = asked(ui, "/deployments/filter", deployments={"name": {"any_": [DEPLOYMENT]}})
    page.goto(f"{ui}/deployments/deployment/{made['id']}/run")
    page.locator("label:has-text('Epochs (Optional)')").last.locator("xpath=following::input[1]").fill("3")
    picture(page, "prefect-form")
    page.get_by_role("button", name="Submit").click(no_wait_after=True)
    mine = {"deployment_id": {"any_": [made["id"]]}}
    wait_until(lambda: asked(ui, "/flow_runs/filter", flow_runs=mine), 60, "the run")
    (run,) = asked(ui, "/flow_runs/filter", flow_runs=mine)
    given = run["parameters"]
    assert given["basics"] == {"epochs": 3}  # and nothing that nobody filled in
    assert not any(given[section] for section in ("fetch", "shard", "pretrain", "linear", "report", "others"))
    page.goto(f"{ui}/runs/flow-run/{run['id']}")
    page.get_by_text("changed: pretrain.epochs=3").wait_for()
    page.get_by_text("Completed", exact=True).first.wait_for()
    page.get_by_text("Artifacts", exact=True).last.click()
    for name in ("result", "progress-pretrain"):
        page.get_by_text(name, exact=True).first.wait_for()
    picture(page, "prefect-run")
    page.get_by_text("result", exact=True).first.click()
    page.get_by_text("linear_top1").first.wait_for()
    assert run["name"] in deployed.dvc("exp", "show", "--csv")


def test_a_run_that_is_cancelled_there_leaves_no_process(ui: str, deployed: Pipeline, page: Any) -> None:  # noqa: F811
    mark = "time.sleep(118)"
    deployed.change("pretrain", cmd=f"""python -c "import time; print('on', flush=True); {mark}" """)
    run = start(deployed)
    wait_until(lambda: processes_with(mark), 90, "the stage")
    page.goto(f"{ui}/runs/flow-run/{run}")
    page.get_by_role("button", name="Cancel").first.click()
    page.locator(".p-modal").get_by_role("button", name="Confirm").click()
    wait_until(lambda: not processes_with(mark), 20, "the stage's end")
    wait_until(lambda: state(deployed, run) == "CANCELLED", 30, "cancelled")


def test_a_run_that_failed_is_retried_there_and_finishes(ui: str, deployed: Pipeline, page: Any) -> None:  # noqa: F811
    deployed.change("pretrain", cmd="test -e runs/repaired && echo weights > encoder")
    run = start(deployed, "-p", "retries=0")
    wait_until(lambda: state(deployed, run) == "FAILED", 90, "failed")
    (deployed.folder / "runs/repaired").touch()
    page.goto(f"{ui}/runs/flow-run/{run}")
    page.get_by_role("button", name="Retry").first.click()
    page.locator(".p-modal").get_by_role("button", name="Retry").last.click()
    wait_until(lambda: state(deployed, run) == "COMPLETED", 120, "completed")
