import concurrent.futures
import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from flows import children
from moco.errors import Interrupted

PR_SET_CHILD_SUBREAPER = 36
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)"


@pytest.fixture(autouse=True)
def _allowed() -> None:
    children.reset()


def run(code: str, folder: Path, lines: list[str] | None = None) -> children.Result:
    on_line = lines.append if lines is not None else lambda line: None
    return children.run([sys.executable, "-u", "-c", code], folder, os.environ, on_line)


def test_lines_arrive_while_the_child_still_runs(tmp_path: Path) -> None:
    seen: list[float] = []
    code = "import time; print('first'); time.sleep(1); print('second')"
    children.run([sys.executable, "-u", "-c", code], tmp_path, os.environ, lambda line: seen.append(time.monotonic()))
    assert seen[1] - seen[0] > 0.8


def test_carriage_returns_and_terminal_codes_end_up_as_plain_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    run(r"print('a  1% · x\r\x1b[Ka  2% · y\r\n\n', end='')", tmp_path, lines)
    assert lines == ["a  1% · x", "a  2% · y"]


def test_the_error_line_of_a_stage_is_kept_apart_from_the_rest(tmp_path: Path) -> None:
    result = run("import sys; print('busy'); sys.exit('error: params.yaml: correct this')", tmp_path)
    assert (result.code, result.error) == (1, "params.yaml: correct this")
    assert "busy" in result.tail


def test_a_killed_child_has_a_negative_code_and_no_error(tmp_path: Path) -> None:
    result = run(f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})", tmp_path)
    assert (result.code, result.error) == (-signal.SIGKILL, None)


def test_what_a_child_leaves_running_goes_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); print(p.pid)"
    )
    lines: list[str] = []
    run(code, tmp_path, lines)
    time.sleep(0.3)
    assert not Path(f"/proc/{lines[0]}").exists() or "Z" in Path(f"/proc/{lines[0]}/stat").read_text().split()[2]


def test_stopping_ends_a_child_that_ignores_sigterm_and_refuses_the_next(tmp_path: Path) -> None:
    raised: list[BaseException] = []
    started = threading.Event()

    def work() -> None:
        try:
            children.run([sys.executable, "-u", "-c", STUBBORN], tmp_path, os.environ, lambda line: started.set())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(20)
    begin = time.monotonic()
    children.stop_all(grace=0.5)
    thread.join(5)
    assert not thread.is_alive()
    assert 0.4 < time.monotonic() - begin < 3
    assert isinstance(raised[0], Interrupted)
    with pytest.raises(Interrupted, match="not started"):
        run("print('too late')", tmp_path)


def test_a_child_that_obeys_sigterm_is_not_waited_for_until_the_end_of_the_grace(tmp_path: Path) -> None:
    started = threading.Event()
    command = [sys.executable, "-u", "-c", "import time; print('on'); time.sleep(60)"]

    def work() -> None:
        with pytest.raises(Interrupted):
            children.run(command, tmp_path, os.environ, lambda line: started.set())

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(20)
    begin = time.monotonic()
    children.stop_all(grace=30)
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - begin < 5


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_grandchild_that_nothing_reaps_is_not_waited_for(tmp_path: Path) -> None:
    """As in a container whose first process reaps nobody: here this process adopts and does not."""
    adopt = ctypes.CDLL(None).prctl
    adopt(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = threading.Event()
    command = ["sh", "-c", "sleep 60 & echo on; wait"]
    try:
        with concurrent.futures.ThreadPoolExecutor() as thread:
            future = thread.submit(children.run, command, tmp_path, os.environ, lambda line: started.set())
            assert started.wait(20)
            begin = time.monotonic()
            children.stop_all(grace=30)
            assert time.monotonic() - begin < 5
            with pytest.raises(Interrupted):
                future.result(5)
    finally:
        adopt(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def test_a_child_has_time_to_save_a_large_checkpoint(tmp_path: Path) -> None:
    """A stage that takes 7 s after SIGTERM, as 400 MB on a slow disk do, ends by itself."""
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(7)\n"
        f"    open({str(tmp_path / 'saved')!r}, 'w').close()\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    ready = threading.Event()
    run = functools.partial(children.run, [sys.executable, "-c", code], tmp_path, os.environ, lambda _: ready.set())
    with concurrent.futures.ThreadPoolExecutor() as thread:
        future = thread.submit(run)
        assert ready.wait(20)
        children.stop_all()
        with contextlib.suppress(Interrupted):
            future.result()
    assert (tmp_path / "saved").exists()


def test_children_are_allowed_again_after_a_reset(tmp_path: Path) -> None:
    children.stop_all()
    children.reset()
    assert run("pass", tmp_path).code == 0


@pytest.mark.parametrize("line", ["pretrain  7% · epoch 1/8", "detect@voc  100% · done"])
def test_progress_lines_are_recognized(line: str) -> None:
    match = children.PROGRESS.match(line)
    assert match is not None
    assert match["percent"] in ("7", "100")


@pytest.mark.parametrize("line", ["pretrain 7% · one space", "loss  7%", "> python -c 'x  7% · y'"])
def test_other_lines_are_no_progress(line: str) -> None:
    assert children.PROGRESS.match(line) is None
