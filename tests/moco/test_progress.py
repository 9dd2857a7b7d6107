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
