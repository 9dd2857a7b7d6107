"""The benchmarks' own bookkeeping: medians, ratios, and the page that the results render."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mechanisms import dictionary
from PIL import Image
from small_material import ROOT

from benchmarks import measure, page
from benchmarks.gpu import __main__ as proof
from benchmarks.gpu.chip import Chip
from benchmarks.gpu.record import Record
from benchmarks.gpu.speed import WAYS
from benchmarks.measure import Row, apart, interleaved, timed
from benchmarks.photographs import sharded
from benchmarks.quality import spread
from benchmarks.quality_proof import same_images, same_start, same_work
from benchmarks.quality_runs import ALIKE, OURS, PEER, Case, Run, steady_speed, trained_once
from benchmarks.quality_sides import training_images
from benchmarks.scaling_model import preset
from moco.config import Fetch, load_params


def results_of(*rows: Row) -> dict:
    block = {"date": "2026-01-01", "mode": "quick", "proofs": ["they agree"], "machine": measure.machine()}
    return {"loader": {**block, "rows": [{**measure.asdict(row), "ratio": row.ratio} for row in rows]}}


def test_a_ratio_above_one_means_better_for_times_rates_and_accuracies():
    assert Row("t", "n", "ms", 2.0, "peer", 8.0).ratio == 4
    assert Row("t", "n", "samples/s", 100.0, "peer", 25.0).ratio == 4
    assert Row("t", "n", "MB", 8.0, "peer", 2.0).ratio == 0.25
    assert Row("t", "n", "s", 2.0).ratio is None
    assert Row("t", "n", "% top-1", 80.0, "peer", 40.0).ratio == 2


def test_medians_are_of_the_counted_rounds_and_for_one_unit():
    seconds = iter([100.0, 1.0, 9.0, 2.0])
    cost = interleaved({"side": lambda: (2, next(seconds), 4.0)}, rounds=3, warm_up=1)["side"]
    assert (cost.wall, cost.cpu, cost.least) == (1.0, 2.0, 0.5)


def test_sides_take_turns_in_an_order_that_turns_round():
    calls: list[str] = []
    interleaved({name: lambda name=name: calls.append(name) or 1 for name in "ab"}, rounds=3, warm_up=0)
    assert calls == list("abbaab")


def where_it_runs() -> dict[str, measure.Side]:
    return {"process": lambda: (os.getpid(), 0.0, 0.0)}


def test_sides_apart_run_in_a_process_of_their_own():
    with apart(where_it_runs) as sides:
        assert timed(sides["process"])[0] != os.getpid()


def test_the_page_shows_measured_rows_goals_limits_and_why_others_were_not_run():
    text = page.render(
        results_of(
            Row(
                "One core", "ours", "ms", 2.0, "official", 9.0, at_least=4, limit=1.0, limit_name="decoding", note="old"
            ),
            Row("One core", "ours", "ms", 2.0, "DALI", 6.0, at_least=3.5),
            Row("One core", "resume", "s", 0.4, at_most=1.0),
            Row("One core", "views", "ms", peer_name="FFCV", not_run="it does not compile here"),
        )
    )
    assert "| ours | official | ms | 2.00 | 9.00 | 4.50 | ≥ 4 | 1.00, decoding |" in text
    assert "\n- official: old.\n" in text
    assert "≥ 3.5, missed" in text and "≤ 1 |" in text
    assert "- Not run: views, FFCV – it does not compile here." in text
    assert "they agree" in text
    assert "Not run yet: `python -m benchmarks.step`" in text


def test_a_topic_replaces_its_own_results_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    for topic, ours in (("loader", 1.0), ("step", 2.0), ("loader", 3.0)):
        measure.save(topic, [Row("t", "n", "ms", ours, "peer", 6.0)], [], measure.machine(), True)
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [kept[topic]["rows"][0]["ratio"] for topic in ("loader", "step")] == [2.0, 3.0]
    assert (tmp_path / "page.md").read_text() == page.render(kept)


def test_a_speed_leaves_the_interval_in_which_processes_start_out():
    assert steady_speed([(20, 1.0), (40, 100.0), (45, 50.0)]) == pytest.approx(25 / (20 / 100 + 5 / 50))


def test_the_difference_of_two_sides_is_that_of_equal_seeds():
    words = spread([81.0, 83.0, 85.0], [80.0, 82.0, 84.6])
    assert "± 2.00 and ± 2.31" in words and "+0.80 ± 0.20 points" in words
    assert "one seed" in spread([81.0], [80.0])


def a_run(**changes) -> Run:
    run = Run(9.0, 9.0, 900.0, 40, 1000, {20: 0.02, 40: 0.001}, 5.0, 0.8, 0.8)
    return replace(run, **changes)


@pytest.mark.parametrize("other", [{"steps": 41}, {"trained": 1001}, {"rates": {20: 0.02, 40: 0.00101}}])
def test_runs_that_did_other_work_are_not_compared(other):
    case = Case("images", Path(), preset("small"), None, 0)
    assert "40 steps" in same_work(case, {OURS: [a_run(), a_run()], PEER: [a_run(), a_run()]})
    with pytest.raises(AssertionError, match="ours"):
        same_work(case, {OURS: [a_run(), a_run(**other)], PEER: [a_run(), a_run()]})


@pytest.fixture(scope="module")
def stripes(tmp_path_factory) -> Case:
    """Two classes of pictures that a tiny run tells apart, and the settings of one."""
    folder, random = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for label in range(2):
        (folder / f"images/{label}").mkdir(parents=True)
        for number in range(150):
            wave = np.sin(np.arange(20) * random.uniform(0.8, 1.2) + random.uniform(0, 6))
            stripe = np.tile(120 + 60 * wave, (20, 1)) + random.normal(0, 20, (20, 20))
            gray = np.clip(stripe.T if label else stripe, 0, 255).astype(np.uint8)
            Image.fromarray(gray).convert("RGB").save(folder / f"images/{label}/{number}.png")
    fetch = Fetch(
        source="folder",
        path=str(folder / "images"),
        labels="folders",
        val_fraction=0.15,
        test_fraction=0.15,
        split_seed=0,
    )
    shards = sharded(fetch, folder / "shards")
    settings = preset("small").model_copy(
        update={
            "image_size": 16,
            "dictionary": dictionary("momentum-queue", num_keys=96),
            "global_batch": 24,
            "bn_group_size": 12,
            "epochs": 3,
            "log_every_steps": 5,
            "knn_every_epochs": 0,
        }
    )
    linear = load_params(ROOT / "params.yaml").linear
    return Case("stripes", shards, settings, linear.model_copy(update={"epochs": 5}), 1000)


@pytest.mark.slow
@pytest.mark.parametrize("side", [OURS, ALIKE])
def test_a_run_of_the_quality_benchmark_trains_and_is_scored(stripes, side):
    run = trained_once(stripes, side, seed=1, workers=1)
    assert run.steps == list(run.rates)[-1] == 3 * (len(training_images(stripes.settings, stripes.shards)) // 24)
    assert run.speed > 0 and run.wall > 0 and run.cpu > 0 and np.isfinite(run.loss)
    assert run.knn > 0.7 and run.linear > 0.7


@pytest.mark.slow
@pytest.mark.skipif(not measure.found("lightly"), reason="lightly is in the environment of `make bench` alone")
def test_lightly_side_does_the_same_steps_at_the_same_rates_on_the_same_images(stripes):
    assert "pixel by pixel" in same_images(stripes) and "same views" in same_start(stripes)
    runs = {side: [trained_once(stripes, side, seed=1, workers=1)] for side in (OURS, PEER)}
    assert f"{runs[OURS][0].steps} steps of 24 images" in same_work(stripes, runs)
    assert runs[PEER][0].linear > 0.7


HIDE = """
import sys
absent = "prefect dvc mlflow webdataset matplotlib sklearn jinja2 ruamel pyarrow psutil fastapi submitit lightly"
sys.modules |= dict.fromkeys(absent.split())
"""
"""Leaves what a GPU machine has."""


@pytest.mark.slow
def test_the_proof_for_gpus_runs_dry_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--cpu", "--out", str(tmp_path)]
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    hidden = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {}
    for name in proof.PARTS:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert (found["ok"], found["failed"], found["notes"]) == (True, [], [])
        assert f"| {name} | ok |" in done.stdout
        figures[name] = found["figures"]
    assert figures["versions"]["tests marked gpu"].endswith("s")
    assert len(figures["sides"]) == 3 * 7  # three precisions; four mechanisms, three of them in parts too
    assert len(figures["waiting"]) == 2 * 7
    assert figures["ring"]["page-locked: batches that arrived changed"] == 0
    assert figures["nccl"]["wishes are followed one step later"]
    assert 0 < figures["learning"]["stopped at step"] < figures["learning"]["steps"]
    assert figures["speed"].keys() >= WAYS.keys()
    assert figures["speed"]["kernels a step, 32 images a group"] > figures["speed"]["kernels a step, one group"]
    assert figures["feeding"]["both, images/s"] > 0


def proves(record: Record, chip: Chip, scratch: Path) -> None:
    record.add("figure", 1.0)
    record.check("distance", float("nan"), 1e-9)


def hangs(record: Record, chip: Chip, scratch: Path) -> None:
    record.add("figure", 1.0)
    time.sleep(600)


def fails(record: Record, chip: Chip, scratch: Path) -> None:
    raise RuntimeError("CUDA error\nand more")


def dies(record: Record, chip: Chip, scratch: Path) -> None:
    os._exit(3)


@pytest.mark.parametrize(
    ("part", "figures", "reason"),
    [
        (proves, 2, "distance: nan, at most 1e-09"),
        (hangs, 1, "took more than its 1 s"),
        (fails, 0, "RuntimeError: CUDA error"),
        (dies, 0, "its process ended with 3"),
    ],
)
def test_a_part_of_the_proof_that_fails_leaves_its_figures_and_one_reason(monkeypatch, tmp_path, part, figures, reason):
    monkeypatch.setattr(proof, "PATIENCE", 1)
    monkeypatch.setitem(proof.PARTS, "ring", (part, 1.0))
    found = proof.run("ring", "cpu", tmp_path)
    assert (found["ok"], found["failed"], len(found["figures"])) == (False, [reason], figures)
    assert found == json.loads((tmp_path / "ring.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["ring.json"]
    assert f"| ring | {reason} |" in proof.summary({"ring": found})


def test_the_proof_needs_none_of_what_drives_the_pipeline():
    script = HIDE + "from benchmarks.gpu import __main__, operations\nimport moco.worker, moco.training.work\n"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.skipif(not measure.RESULTS.exists(), reason="nothing was measured yet")
def test_the_page_in_the_documentation_is_what_the_results_render():
    assert page.PAGE.read_text() == page.render(json.loads(measure.RESULTS.read_text()))
