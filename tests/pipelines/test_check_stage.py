"""The stage check in a project's folder: what it writes, what it stops, what it compares with."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from small_material import ROOT

from moco.checks.reference import from_bytes, to_bytes
from moco.config import load_params
from moco.errors import MocoError
from pipelines import cli, stage
from pipelines.check import _source as source_of
from pipelines.check import check
from pipelines.last_version import REFERENCE, last_version

WRITTEN = {"card", "pairs.csv", "groups.csv", "reference.npz", "passed.json", "metrics.json"}


def card() -> str:
    return Path("outputs/check/card/card.md").read_text()


def test_sound_data_passes_and_the_card_says_what_it_is(project, capsys):
    check(load_params())
    assert {path.name for path in Path("outputs/check").iterdir()} == WRITTEN
    assert json.loads(stage.PASSED.read_text()).keys() == {"data_hash"}
    text = card()
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("|")}
    labelled = sum(int(cell) for name in ("class0", "class1", "class2") for cell in rows[name])
    assert labelled == 360
    assert "360 images from folder" in text and "3 classes" in text
    assert "Every check that could be made passed" in text
    html = Path("outputs/check/card/card.html").read_text()
    assert html.count("data:image/png;base64,") >= 1
    assert capsys.readouterr().out.count("✓ ") >= 10


def test_the_same_data_gives_the_same_bytes(project):
    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in Path("outputs/check").rglob("*") if path.is_file()}

    check(load_params())
    first = everything()
    check(load_params())
    assert everything() == first


def test_a_failed_check_leaves_the_card_and_no_leave_to_train(project, capsys):
    check(load_params())
    with pytest.raises(MocoError, match=r"^1 of \d+ checks failed \(images\)"):
        check(load_params(overrides=["check.min_images=100000"]))
    assert not stage.PASSED.exists()
    assert "fewer than check.min_images = 100000" in capsys.readouterr().out.splitlines()[-3]
    assert "1 of" in card() and "nothing trains on this version" in card()
    assert json.loads(Path("outputs/check/metrics.json").read_text())["failed"] == 1


def test_another_threshold_that_passes_gives_the_same_leave(project):
    check(load_params())
    before = stage.PASSED.read_bytes()
    check(load_params(overrides=["check.max_empty=0.3"]))
    assert stage.PASSED.read_bytes() == before


def test_an_encoder_that_is_not_there_is_one_line_before_anything_is_measured(project):
    with pytest.raises(MocoError, match=r"nothing\.pt"):
        check(load_params(overrides=["check.encoder=nothing.pt"]))
    assert not Path("runs/survey").exists()


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def commit_version(reference: bytes, number: int, **fetch: str) -> None:
    """Put a reference into DVC's cache, and a dvc.lock that names it into history.

    Args:
        fetch: what differs from the source of now.
    """
    digest = f"{number:032x}"
    cached = Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(reference)
    settings = load_params().fetch.model_dump() | fetch
    params = {"params.yaml": {f"fetch.{name}": settings[name] for name in ("source", "path")}}
    stage = {"cmd": "x", "params": params, "outs": [{"path": REFERENCE, "md5": digest}]}
    lock = {"schema": "2.0", "stages": {"check": stage}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    git("add", "dvc.lock")
    git("commit", "-qm", f"version {number}")


def test_it_compares_with_the_newest_committed_version_of_other_data(project):
    git("init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    source = load_params().fetch.source, load_params().fetch.path
    assert last_version("0", *source) is None
    check(load_params())
    now = Path(REFERENCE).read_bytes()
    data_hash = from_bytes(now).data_hash
    fewer = replace(from_bytes(now), data_hash="1" * 64, splits={"train": 900, "val": 0, "test": 0})
    commit_version(to_bytes(replace(fewer, data_hash="2" * 64)), 1)
    commit_version(to_bytes(fewer), 2)
    commit_version(now, 3)  # the data of now: nothing to compare with
    commit_version(to_bytes(replace(fewer, data_hash="3" * 64)), 4, path="elsewhere")  # no version of this set
    commit_version(to_bytes(replace(fewer, data_hash="4" * 64)), 5, source="list")
    found, where = last_version(data_hash, *source)
    assert found.data_hash == "1" * 64
    assert re.fullmatch(r"commit [0-9a-f]{7} of \d{4}-\d\d-\d\d", where)
    with pytest.raises(MocoError, match=r"\(fewer\)"):
        check(load_params())
    assert where in card()


def test_the_command_lists_pairs_and_groups_and_draws_them(project):
    cli.main(["duplicates", "--threshold", "0.5", "--distance", "7", "--mirrored", "--groups", "groups.csv"])
    with Path("duplicates.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    with Path("groups.csv").open(newline="") as file:
        groups = {row["key"]: row["group"] for row in csv.DictReader(file)}
    assert {key for pair in pairs for key in (pair["key"], pair["twin"])} == groups.keys()
    assert Path("duplicates.png").exists() == bool(pairs)


def test_without_pairs_no_picture_of_others_is_left(project, capsys):
    Path("duplicates.png").write_bytes(b"of other pairs")
    cli.main(["duplicates", "--threshold", "1", "--distance", "0"])
    assert "0 pairs" in capsys.readouterr().out
    assert not Path("duplicates.png").exists()


@pytest.mark.parametrize("option", ["--output", "--groups"])
def test_a_list_that_cannot_be_written_is_one_line(project, option, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["duplicates", option, "nowhere/pairs.csv"])
    assert ended.value.code == 1
    assert "nowhere/pairs.csv: cannot be written; name a .csv in an existing folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("about", "source"),
    [
        ({}, "fashion-mnist"),  # of an earlier version of this program
        ({"followed": 1, "taken_in": 0}, "fashion-mnist"),
        ({"followed": 0, "taken_in": 1}, "moco ingest (once)"),
        ({"followed": 2, "taken_in": 7}, "fashion-mnist and moco ingest (7 times)"),
    ],
)
def test_the_card_says_how_the_images_came(about, source):
    assert source_of(load_params(ROOT / "params.yaml"), about) == source
