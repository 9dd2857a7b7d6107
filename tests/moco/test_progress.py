"""Progress lines on streams of any encoding."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moco import progress
from moco.progress import Progress, print_any_text
from moco.text import printable


def test_what_an_encoding_lacks_is_written_as_its_escape(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(progress.sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_any_text()
    Progress("fetch", 2).update(2, "fj\udce9 Größe")
    sys.stdout.flush()
    assert raw.getvalue() == rb"fetch  100% \xb7 fj\xe9 Gr\xf6\xdfe" + b"\n"


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def monotonic(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_time_that_is_left_follows_from_what_this_start_did(monkeypatch):
    stream, clock = io.StringIO(), Clock()
    monkeypatch.setattr(progress, "time", clock)
    shown = Progress("pretrain", 1000, stream=stream)
    shown.update(500, "resumed")
    clock.now += 10
    shown.update(600, "loss 3")
    clock.now += 40
    shown.update(1000, "done")
    assert stream.getvalue().splitlines() == [
        "pretrain  50% · resumed",
        "pretrain  60% · loss 3 · 40 s left",
        "pretrain  100% · done",
    ]


def test_on_a_terminal_a_line_fits_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    Progress("pretrain", 10, stream=stream).update(1, "x" * 100)
    assert stream.getvalue() == "\r\x1b[K" + ("pretrain  10% · " + "x" * 100)[:29]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (89, "89 s"), (95, "2 min"), (5400, "1.5 h"), (172_800, "2.0 days")]
)
def test_a_duration_is_said_in_the_unit_that_suits_it(seconds, said):
    assert progress.duration(seconds) == said


NAME = os.fsdecode(b"fj\xe9\xc3\xb6\n")


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "pipelines.fetch", "--params", f"{NAME}.yaml"],
        ["-c", "import pipelines.cli; pipelines.cli.main()", "fetch", "--params", f"{NAME}.yaml"],
        ["-m", "moco.worker", NAME],
    ],
)
def test_every_command_speaks_ascii_where_told_to(command, tmp_path):
    (tmp_path / NAME).mkdir()
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path.cwd()), "MOCO_TRACKING": "off"}
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(rb"error: fj\xe9\xf6\n") and done.stderr.count(b"\n") == 1


def test_a_text_in_one_line_has_the_escapes_of_what_cannot_be_printed():
    assert printable("a\nb\rc\td é \U0001f600 \u202e\udce9 -%") == r"a\nb\rc\td é " + "\U0001f600" + r" \u202e\xe9 -%"
