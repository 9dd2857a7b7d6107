"""The benchmarks' own bookkeeping: medians, ratios, and the page that the results render."""

import json
import os

import pytest

from benchmarks import measure, page
from benchmarks.measure import Row, apart, interleaved, timed


def results_of(*rows: Row) -> dict:
    block = {"date": "2026-01-01", "mode": "quick", "proofs": ["they agree"], "machine": measure.machine()}
    return {"loader": {**block, "rows": [{**measure.asdict(row), "ratio": row.ratio} for row in rows]}}


def test_a_ratio_above_one_means_better_for_times_and_for_rates():
    assert Row("t", "n", "ms", 2.0, "peer", 8.0).ratio == 4
    assert Row("t", "n", "samples/s", 100.0, "peer", 25.0).ratio == 4
    assert Row("t", "n", "MB", 8.0, "peer", 2.0).ratio == 0.25
    assert Row("t", "n", "s", 2.0).ratio is None


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
                "One core", "ours", "ms", 2.0, "official", 9.0, at_least=4.0, limit=1.0, limit_name="decoding"
            ),
            Row("One core", "ours", "ms", 2.0, "DALI", 6.0, at_least=3.5),
            Row("One core", "resume", "s", 0.4, at_most=1.0),
            Row("One core", "views", "ms", peer_name="FFCV", not_run="it does not compile here"),
        )
    )
    assert "| ours | official | ms | 2.00 | 9.00 | 4.50 | ≥ 4 | 1.00, decoding |" in text
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


@pytest.mark.skipif(not measure.RESULTS.exists(), reason="nothing was measured yet")
def test_the_page_in_the_documentation_is_what_the_results_render():
    assert page.PAGE.read_text() == page.render(json.loads(measure.RESULTS.read_text()))
