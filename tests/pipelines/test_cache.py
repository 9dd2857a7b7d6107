"""Folders that dvc.lock names come back from the cache as DVC itself would bring them."""

import shutil
from pathlib import Path

import pytest
from test_versions import ENV, commit, dvc, make, project  # noqa: F401 - a fixture

from moco.errors import MocoError
from pipelines.cache import Cache, restore
from pipelines.versions import git, lock_of, output_hash

SHARDS = Path("data/shards")
TAR = SHARDS / "train-000000.tar"


@pytest.fixture
def made(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.chdir(project)
    make(project, ["a", "b"], 0.5, rate=1)
    shutil.rmtree(SHARDS)
    return project


@pytest.mark.parametrize("link", ["hardlink", "symlink", "copy"])
def test_a_missing_folder_is_linked_as_dvc_is_told_to(made: Path, link: str) -> None:
    dvc(made, "config", "cache.type", link)
    restore(SHARDS)
    assert TAR.read_text() == "a b"
    cached = next(path for path in (made / ".dvc/cache").rglob("*") if path.is_file() and path.read_text() == "a b")
    assert TAR.is_symlink() == (link == "symlink")
    assert TAR.samefile(cached) == (link != "copy")
    assert "data/shards" not in dvc(made, "status")


def test_a_folder_that_the_cache_holds_in_part_stays_away(made: Path) -> None:
    commit(made, "dvc.lock")
    digest = output_hash(lock_of(made, "HEAD"), str(SHARDS))
    assert Cache().holds(digest)
    cached = next(path for path in (made / ".dvc/cache").rglob("*") if path.is_file() and path.read_text() == "a b")
    cached.unlink()
    assert not Cache().holds(digest)
    restore(SHARDS)
    assert not SHARDS.exists()
    dvc(made, "remote", "add", "--default", "store", str(made.parent / "store"))
    with pytest.raises(MocoError, match="`dvc pull data/raw data/shards` gets it"):
        restore(SHARDS)


def test_without_a_repository_there_is_nothing_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "--quiet", env=ENV)
    monkeypatch.chdir(tmp_path)
    assert Cache().find("0" * 32) is None
    assert not Cache().holds("0" * 32 + ".dir")
    restore(SHARDS)
