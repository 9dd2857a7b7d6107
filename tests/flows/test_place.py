"""A worker has the project in a folder of its own, or in the one that was deployed."""

from pathlib import Path

import pytest

from flows import place


@pytest.mark.parametrize(("own", "used"), [("", "deployed"), ("own", "own")])
def test_runs_work_in_the_workers_own_folder_or_in_the_one_that_was_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, used: str
) -> None:
    monkeypatch.chdir(tmp_path)  # and back at the end
    for name in ("deployed", "own"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv(place.PROJECT, str(tmp_path / own) if own else "")
    assert place.project_folder(str(tmp_path / "deployed")) == {"directory": str(tmp_path / used)}
    assert Path.cwd() == tmp_path / used
