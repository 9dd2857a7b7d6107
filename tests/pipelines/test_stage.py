import argparse
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moco.errors import MocoError
from moco.ranks import RANKS
from pipelines import STOPPED
from pipelines.stage import alone, drop_ranks_of_others, errors_in_one_line, whole


def test_an_error_is_one_line_and_its_exit_code_and_sigterm_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        assert signal.getsignal(signal.SIGTERM) != before
        raise MocoError("params.yaml: no such file")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: params.yaml: no such file\n"
    assert signal.getsignal(signal.SIGTERM) == before


REMOVED = """
import signal, time
from pipelines.stage import errors_in_one_line
class Slow:
    def __del__(self):
        print("removed", flush=True)
        time.sleep(30)
with errors_in_one_line():
    Slow()
    time.sleep(30)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_an_object_is_removed_is_not_lost(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", REMOVED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None and process.stdout.readline() == "removed\n"
    process.send_signal(number)
    assert process.communicate(timeout=20)[1] == f"{STOPPED}\n"
    assert process.returncode == 130


def test_ctrl_c_during_imports_is_one_line() -> None:
    code = "import pipelines, signal; signal.raise_signal(signal.SIGINT)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, f"{STOPPED}\n")


def test_a_home_that_cannot_be_written_is_no_noise_of_matplotlib(tmp_path: Path) -> None:
    (tmp_path / ".config").touch()  # no folder can be made there, by root neither
    (tmp_path / ".cache").touch()
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    code = "import pipelines, matplotlib; matplotlib.get_configdir()"
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("text", "least", "most"), [("0", 0, None), ("3", 1, 3), ("12", 1, None)])
def test_whole_numbers_in_range_are_read(text: str, least: int, most: int | None) -> None:
    assert whole(least, most)(text) == int(text)


@pytest.mark.parametrize("text", ["-1", "0", "4", "1.5", "x", ""])
def test_others_are_refused_with_the_range(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no whole number from 1 to 3"):
        whole(1, 3)(text)


@pytest.mark.parametrize(
    "number",
    [
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOTDIR, errno.EFBIG),
        *(errno.ENAMETOOLONG, errno.ENOENT, errno.EAGAIN),
    ],
)
def test_what_the_system_refuses_is_one_line_with_the_file_and_a_remedy(
    capsys: pytest.CaptureFixture[str], number: int
) -> None:
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        raise OSError(number, os.strerror(number), "outputs/a\nb.csv")
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith(f"error: outputs/a\\nb.csv: {os.strerror(number)}; ")
    assert said.count("\n") == 1


def test_an_error_of_the_code_keeps_its_traceback() -> None:
    with pytest.raises(OSError, match="nobody"), errors_in_one_line():
        raise OSError("nobody knows this one")


@pytest.mark.parametrize(("torchrun", "left"), [(False, []), (True, ["RANK", "WORLD_SIZE"])])
def test_ranks_of_another_program_are_dropped_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], torchrun: bool, left: list[str]
) -> None:
    for name in (*RANKS, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "moco")
    drop_ranks_of_others()
    assert [name for name in RANKS if name in os.environ] == left
    assert ("RANK, WORLD_SIZE" in capsys.readouterr().err) is not torchrun


def test_a_stage_is_run_by_one_process_at_a_time_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with alone("report"):
        shutil.rmtree("outputs/report")  # as DVC does before it runs the stage
        with (
            pytest.raises(MocoError, match=r"outputs/report: another process runs `moco report` here"),
            alone("report"),
        ):
            pass
        with alone("linear"):
            pass
        monkeypatch.chdir(tmp_path / "other")  # a worktree, of the same state
        with alone("report"):
            pass
