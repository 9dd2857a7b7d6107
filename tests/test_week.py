"""The judge of a week's record finds each kind of contradiction, and none where all is in order."""

from copy import deepcopy
from dataclasses import replace

import pytest

from benchmarks.week_record import Night, Record, Tracked, faults, table
from pipelines.versions import Version


def version(name: str, number: int, start: str | None) -> Version:
    return Version(
        name,
        f"2026-11-0{number}T02:00:00+00:00",
        data=f"data{number}",
        images={"train": 10 * number},
        encoder=f"encoder{number}",
        training=f"training{number}",
        start=start and {"uri": "models:/moco-encoder@champion", "version": start},
        figures={"linear.moco.linear_top1": 0.5 + number / 10},
        flow_run=f"owl-{number}",
        mlflow_run=f"run{number}",
    )


def lock(number: int) -> dict:
    outs = [
        {"outs": [{"path": "data/shards", "md5": f"data{number}"}]},
        {
            "deps": [{"path": "data/shards", "md5": f"data{number}"}],
            "outs": [{"path": "outputs/pretrain/encoder", "md5": f"encoder{number}"}],
        },
    ]
    return {"stages": dict(zip(("shard", "pretrain"), outs, strict=True))}


@pytest.fixture
def week() -> tuple[Record, list[Night], dict]:
    """Two nights with a version, and a bad one between them."""
    names = ["version-1", "version-2"]
    moved = "champion: is now version"
    nights = [
        Night("Monday", "10 images", (("COMPLETED",), True, True), [("a", "owl-1", "COMPLETED", 9.0)], names[0], "1"),
        Night("Tuesday", "bad ones", (("FAILED",), False, False), [("b", "owl-9", "FAILED", 2.0)], None, "1"),
        Night("Sunday", "10 more", (("COMPLETED",), True, None), [("c", "owl-2", "COMPLETED", 9.0)], names[1], "2"),
    ]
    nights[0].promotion, nights[2].promotion = f"{moved} 1, there was none before", f"{moved} 2, better"
    tracked = {}
    for number, name in enumerate(names, 1):
        tags = {"kind": "pipeline", "version": name}
        tracked[f"run{number}"] = Tracked(f"{name} owl-{number}", "FINISHED", tags, None, [])
        stage = {"kind": "stage", "version": name}
        tracked[f"stage{number}"] = Tracked("pretrain", "FINISHED", stage, f"run{number}", [0, 20, 40])
    tracked["bad"] = Tracked("owl-9", "FAILED", {"kind": "pipeline"}, None, [])
    registered = {
        "1": ([names[0]], {"version": names[0], "training_hash": "training1"}),
        "2": ([names[1], "champion"], {"version": names[1], "training_hash": "training2"}),
    }
    flow_runs = [
        {"id": "a", "name": "owl-1", "state_type": "COMPLETED", "tags": [names[0]]},
        {"id": "b", "name": "owl-9", "state_type": "FAILED", "tags": []},
        {"id": "c", "name": "owl-2", "state_type": "COMPLETED", "tags": [names[1]]},
    ]
    versions = [version(names[0], 1, None), version(names[1], 2, "1")]
    return Record(versions, tracked, registered, flow_runs, []), nights, {names[0]: lock(1), names[1]: lock(2)}


def test_a_week_in_order_has_no_fault_and_a_row_a_night(week):
    record, nights, _ = week
    assert list(faults(*week)) == []
    assert table(record, nights)[3:] == [
        "| Tuesday | bad ones | Failed in 2 s | – | – | – | – | model 1 |",
        "| Sunday | 10 more | Completed in 9 s | 2 | 20 | model 1 | 0.700 | model 2 |",
    ]


def fault_of(record: Record, nights: list[Night], locks: dict, what: str) -> None:
    """Make one thing wrong."""
    runs = record.tracked
    if what == "a run that failed":
        nights[0].runs = [("a", "owl-1", "CRASHED", 9.0)]
    elif what == "a missing version":
        nights[2].version = None
        record.versions.pop()
        record.flow_runs[2]["tags"] = []
        record.registered.pop("2")
        record.registered["1"][0].append("champion")
        nights[2].champion, nights[2].promotion = "1", ""
    elif what == "a worse champion":
        nights[1].champion = nights[2].champion = "2"
    elif what == "other data in a lock":
        locks["version-1"]["stages"]["shard"]["outs"][0]["md5"] = "other"
    elif what == "trained on other data":
        locks["version-1"]["stages"]["pretrain"]["deps"][0]["md5"] = "other"
    elif what == "began with another":
        record.versions[1].start["version"] = "7"
    elif what == "a run that never ended":
        runs["bad"] = replace(runs["bad"], status="RUNNING")
    elif what == "a step twice":
        runs["stage1"] = replace(runs["stage1"], steps=[0, 20, 0])
    elif what == "an orphan":
        runs["stage1"] = replace(runs["stage1"], parent="gone")
    elif what == "a name twice":
        runs["bad"] = replace(runs["bad"], name="version-1 owl-1")
    elif what == "a model of another training":
        record.registered["1"][1]["training_hash"] = "training9"
    elif what == "a model too many":
        record.registered["3"] = ([], {})
    elif what == "a run nobody asked for":
        record.flow_runs.append({"id": "d", "name": "owl-3", "state_type": "COMPLETED", "tags": []})
    elif what == "a tag on another run":
        record.flow_runs[1]["tags"] = ["version-1"]
    elif what == "an edit that is left":
        record.dirty.append(" M .gitignore")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a run that failed", "Monday: runs ended ('CRASHED',)"),
        ("a missing version", "Sunday: version None, though one was to come"),
        ("a worse champion", "Tuesday: champion 1 -> 2"),
        ("other data in a lock", "version-1: its text names another data"),
        ("trained on other data", "version-1: its encoder was trained on other shards"),
        ("began with another", "version-2: began with version 7"),
        ("a run that never ended", "MLflow: owl-9 (bad) is RUNNING"),
        ("a step twice", "MLflow: the loss of pretrain (stage1) has steps twice"),
        ("an orphan", "MLflow: pretrain (stage1) hangs under a run that is not there"),
        ("a name twice", "MLflow: several pipeline runs have the name ['version-1 owl-1']"),
        ("a model of another training", "MLflow: the model of version-1 is of another training"),
        ("a model too many", "MLflow: 3 registered encoders, 2 in the versions"),
        ("a run nobody asked for", "Prefect: nobody asked for the run owl-3"),
        ("a tag on another run", "Prefect: owl-9 has the tags ['version-1'], and made []"),
        ("an edit that is left", "git lists [' M .gitignore']"),
    ],
)
def test_each_contradiction_is_named(week, what, said):
    record, nights, locks = deepcopy(week)
    fault_of(record, nights, locks, what)
    found = list(faults(record, nights, locks))
    assert any(line.startswith(said) for line in found), found
