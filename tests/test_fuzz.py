"""A few hundred damaged files for each reader; `python tests/fuzz.py` gives more."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import READERS


@pytest.mark.parametrize("reader", READERS)
def test_damaged_input_is_a_result_or_one_line_in_bounded_time(tmp_path: Path, reader: str) -> None:
    script = Path(__file__).with_name("fuzz.py")
    done = subprocess.run(
        [sys.executable, str(script), reader, "--inputs", "200"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
