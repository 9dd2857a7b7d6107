"""A run's folder: what names it, what resumes from it, and who may write it."""

import pytest

from moco.errors import MocoError
from moco.runs import folder as run_folder
from moco.runs.folder import FINISHED, decides_nothing, held, only_writer, prepare


def test_the_hash_of_the_sources_takes_in_the_compiled_part_and_leaves_out_what_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "moco/runs/folder.py"))
    for name in ("a.py", "images/b.cpp", "images/c.h", "images/built.so", "report/d.py"):
        (tmp_path / "moco" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "moco" / name).write_text("1")
    seen = [run_folder.code_hash()]
    for name in ("a.py", "images/b.cpp", "images/c.h"):
        (tmp_path / "moco" / name).write_text("2")
        seen.append(run_folder.code_hash())
    assert len(set(seen)) == 4
    for name in ("images/built.so", "report/d.py"):
        (tmp_path / "moco" / name).write_text("2")
    assert run_folder.code_hash() == seen[-1]


def test_rooms_and_single_modules_may_decide_nothing():
    assert decides_nothing("report.page")
    assert decides_nothing("transfer.config")
    assert decides_nothing("encoders.export.official")
    assert not decides_nothing("encoders.exported")
    assert not decides_nothing("transfer.tasks")
    assert not decides_nothing("images.report")


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_run_resumes_unless_it_restarts_or_other_code_has_finished_it(
    tmp_path, monkeypatch, capsys, finished, changed, restart
):
    folder = tmp_path / "pretrain-1"
    monkeypatch.setattr(run_folder, "code_hash", lambda: "old")
    prepare(folder, restart)
    assert capsys.readouterr().out == ""
    (folder / "step-000000005.pt").touch()
    if finished:
        (folder / FINISHED).touch()
    monkeypatch.setattr(run_folder, "code_hash", lambda: "new" if changed else "old")
    prepare(folder, restart)
    said = capsys.readouterr().out
    if restart or (finished and changed):
        assert [path.name for path in folder.iterdir()] == ["code"]
        assert (tmp_path / "pretrain-1.old1/step-000000005.pt").exists()
        assert said == "pretrain-1: starts from step 0; the checkpoints from before are in pretrain-1.old1\n"
    else:
        assert (folder / "step-000000005.pt").exists()
        assert ("the code has changed since these checkpoints" in said) == (changed and not finished)
    assert (folder / "code").read_text() == ("new" if changed else "old")
    prepare(folder, restart=True)
    asides = sorted(path.name for path in tmp_path.iterdir())
    assert asides == [f"pretrain-1{end}" for end in ("", ".old1", ".old2")[: len(asides)]]
    assert len(asides) == 2 + (restart or (finished and changed))


def test_one_process_at_a_time_drives_a_run(tmp_path):
    folder = tmp_path / "runs/pretrain-1"
    assert not held(folder)
    with only_writer(folder):
        assert held(folder)
        with pytest.raises(MocoError, match="another process is training this very run"), only_writer(folder):
            pass
    assert not held(folder)
