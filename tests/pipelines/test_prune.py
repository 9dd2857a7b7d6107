"""What takes room, what may go, and that nothing goes that is needed or in use."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_versions import ENV, dvc, make, project  # noqa: F401 - a fixture

from moco.cluster.keep import Keep
from pipelines import cli
from pipelines.prune import Piece, alone, pieces, summary
from pipelines.versions import git, name_version, versions

MONTH = 30 * 86_400


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def training(runs: Path, name: str, age_seconds: float) -> Path:
    folder = runs / name
    folder.mkdir()
    for file, content in (("step-000000001.pt", "x" * 1000), ("curves.csv", "step\n")):
        (folder / file).write_text(content)
        os.utime(folder / file, (time.time() - age_seconds,) * 2)
    os.utime(folder, (time.time() - age_seconds,) * 2)
    return folder


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_what_else_stages_leave_goes_when_it_is_old_and_nobody_works_there(runs: Path, tmp_path: Path) -> None:
    old = ("shards-1", "shards-2", "fetch-1.hashed", "embed.pieces", "kept/files.pieces", "slurm", "survey")
    for name in (*old, "shards-3"):
        (runs / name).mkdir(parents=True)
        (runs / name / "a").write_text("x" * 10)
        if name != "shards-3":
            for path in (runs / name / "a", runs / name):
                os.utime(path, (time.time() - 2 * MONTH,) * 2)
    with held(runs / "shards-2.lock"):
        found = {piece.what.partition(":")[0]: piece for piece in pieces(tmp_path, runs, Keep())}
    assert {name for name, piece in found.items() if piece.goes} == {*old} - {"shards-2"}
    assert found["shards-2"].why == "a stage works there now"
    assert found["shards-3"].why.startswith("used 0.0 days ago")


def test_checkpoints_go_when_they_are_old_and_nobody_trains(runs: Path, tmp_path: Path) -> None:
    young, old = training(runs, "pretrain-1", 0), training(runs, "pretrain-2", 2 * MONTH)
    aside, busy = training(runs, "pretrain-2.old1", 2 * MONTH), training(runs, "pretrain-3", 2 * MONTH)
    with held(runs / "pretrain-3.lock"):
        found = {piece.what.partition(":")[0]: piece for piece in pieces(tmp_path, runs, Keep())}
    assert found[young.name].why.startswith("used 0.0 days ago, less than 30")
    assert found[busy.name] == Piece("pretrain-3: 1 checkpoints", 1000, "trains now")
    assert found[old.name].paths == (old / "step-000000001.pt",)  # its records stay
    assert found[aside.name].paths == (aside,)
    assert not found[young.name].goes
    assert (
        summary(list(found.values()))
        == "disk: 4.0 kB of checkpoints, features, cache and records; `moco prune` would free 2.0 kB"
    )


def test_features_that_a_stage_reads_stay(runs: Path, tmp_path: Path) -> None:
    folder = training(runs, "features", 2 * MONTH)
    (folder / "step-000000001.pt").rename(folder / "a.npy")
    with held(folder / "host.1.user"):
        assert [piece.why for piece in pieces(tmp_path, runs, Keep())] == ["a stage reads them now"]
    (piece,) = pieces(tmp_path, runs, Keep())
    assert folder / "a.npy" in piece.paths


def test_tars_that_training_reads_stay(runs: Path, tmp_path: Path) -> None:
    (runs / "tars").mkdir()
    folder = training(runs, "tars/0123", 2 * MONTH)
    with held(folder / "lock"):
        os.utime(folder / "lock", (0, 0))
        os.utime(folder, (0, 0))
        assert [piece.why for piece in pieces(tmp_path, runs, Keep())] == ["training reads them now"]
    (piece,) = pieces(tmp_path, runs, Keep())
    assert piece.paths == (folder,)


@pytest.fixture
def two_versions(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.chdir(project)
    for digests in (["a"], ["b"]):
        make(project, digests, 0.5, rate=1)
        git(project, "checkout", "--", "params.yaml")
        name_version(project, ENV, ())
    return project


def cached(project: Path) -> int:  # noqa: F811
    return sum(path.is_file() for path in (project / ".dvc/cache/files").rglob("*"))


def test_every_version_stays_unless_the_policy_keeps_fewer(
    two_versions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(two_versions, ["never named"], 0.7, rate=1)
    make(two_versions, ["b"], 0.5, rate=1)  # as in the newest version
    git(two_versions, "checkout", "--", ".")
    before = cached(two_versions)
    cli.main(["prune"])
    said = capsys.readouterr().out
    assert "no kept version, branch, tag or experiment names them" in said
    assert "would be freed: `moco prune --yes`" in said
    assert cached(two_versions) == before
    cli.main(["prune", "--yes"])
    assert "freed" in capsys.readouterr().out
    assert cached(two_versions) < before
    new, old = versions(two_versions)
    for version, content in ((old, "a"), (new, "b")):
        git(two_versions, "checkout", "--quiet", version.name)
        dvc(two_versions, "checkout")
        assert (two_versions / "data/shards/train-000000.tar").read_text() == content
    cli.main(["prune"])
    assert "nothing may go" in capsys.readouterr().out
    (two_versions / "machine.yaml").write_text("keep: {versions: 1}\n")
    cli.main(["prune", "--yes"])
    assert "1 older versions are not kept" in capsys.readouterr().out
    dvc(two_versions, "checkout", "--relink")
    assert (two_versions / "data/shards/train-000000.tar").read_text() == "b"
    assert len(versions(two_versions)) == 2  # what they were is still known
    git(two_versions, "checkout", "--quiet", old.name)
    with pytest.raises(AssertionError, match="Checkout failed"):
        dvc(two_versions, "checkout")


def test_a_clone_that_never_had_a_versions_data_is_pruned_all_the_same(
    two_versions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = list((two_versions / ".dvc/cache/files").rglob("*.dir"))
    assert lists
    for path in lists:
        path.unlink()
    cli.main(["prune"])
    assert "DVC's cache" in capsys.readouterr().out


def test_the_cache_stays_while_a_stage_runs_or_where_it_is_shared(
    two_versions: Path, tmp_path: Path, runs: Path
) -> None:
    make(two_versions, ["never named"], 0.7, rate=1)
    make(two_versions, ["b"], 0.5, rate=1)
    lock = two_versions / ".dvc/tmp/rwlock"
    before = lock.read_text()
    lock.write_text(json.dumps({"write": {"data/raw": {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}))
    assert [piece.why for piece in pieces(two_versions, runs, Keep())] == ["a stage runs now"]
    lock.write_text(before)
    assert any(piece.goes for piece in pieces(two_versions, runs, Keep()))
    dvc(two_versions, "cache", "dir", "--local", str(tmp_path / "shared"))
    (tmp_path / "shared/files/md5").mkdir(parents=True)
    (tmp_path / "shared/files/md5/object").write_text("somebody's")
    (piece,) = pieces(two_versions, runs, Keep())
    assert not piece.goes and "other projects may use it" in piece.why


def test_pruning_waits_for_a_command_of_dvc(two_versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(two_versions), pytest.raises(SystemExit):
        cli.main(["prune", "--yes"])
    assert "a command of DVC's works now" in capsys.readouterr().err
