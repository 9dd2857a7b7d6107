"""A stage ends, in its own way, soon after what drove it was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAGE = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
from pipelines.driver import ends_with_driver, work_elsewhere
from pipelines.stage import errors_in_one_line
from moco.errors import Interrupted

elsewhere = work_elsewhere() if Path("elsewhere").exists() else nullcontext()
with errors_in_one_line(), ends_with_driver(), elsewhere:
    try:
        Path("began").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        Path("saved").touch()
        raise Interrupted("saved") from None
"""
DRIVER = "import subprocess, sys; subprocess.run([sys.executable, 'stage.py'])"


def wait_for(path: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return path.exists()


@pytest.mark.parametrize("how", ["dvc", "flow", "nobody"])
def test_a_stage_saves_and_ends_when_its_driver_is_killed(tmp_path, monkeypatch, how):
    (tmp_path / "stage.py").write_text(STAGE)
    driver = tmp_path / ("dvc" if how == "dvc" else "driver.py")
    driver.write_text("import os\nos.environ['MOCO_DRIVER'] = str(os.getpid())\n" * (how == "flow") + DRIVER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, driver.name], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert wait_for(tmp_path / "began", 60)
        time.sleep(1)  # it has looked who drives it
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wait_for(tmp_path / "saved", 2 if how == "nobody" else 30) is (how != "nobody")
    finally:
        os.killpg(process.pid, signal.SIGKILL) if how == "nobody" else None


def test_a_flow_whose_dvc_was_killed_has_the_stage_s_last_lines(tmp_path):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc").write_text(f"print(__import__('os').getpid(), flush=True)\n{DRIVER}")
    flow = "import os, subprocess, sys, time\nos.environ['MOCO_DRIVER'] = str(os.getpid())\n"
    (tmp_path / "flow.py").write_text(f"{flow}subprocess.run([sys.executable, 'dvc'])\ntime.sleep(60)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "flow.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        dvc = int(process.stdout.readline())
        assert wait_for(tmp_path / "began", 60)
        time.sleep(1)
        os.kill(dvc, signal.SIGKILL)
        assert "dvc (process" in process.stdout.readline()
        assert process.stdout.readline() == "error: saved\n"
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_stage_whose_work_is_elsewhere_ends_and_leaves_it_alone(tmp_path):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "elsewhere").touch()
    (tmp_path / "dvc").write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, "dvc"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    assert wait_for(tmp_path / "began", 60)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    assert process.communicate(timeout=30)  # the pipe is closed when the stage has ended
    assert not (tmp_path / "saved").exists()
