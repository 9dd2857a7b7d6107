import argparse
import signal

import pytest

from moco.errors import MocoError
from pipelines.stage import errors_in_one_line, whole


def test_an_error_is_one_line_and_its_exit_code_and_sigterm_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        assert signal.getsignal(signal.SIGTERM) != before
        raise MocoError("params.yaml: no such file")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: params.yaml: no such file\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("text", "least", "most"), [("0", 0, None), ("3", 1, 3), ("12", 1, None)])
def test_whole_numbers_in_range_are_read(text: str, least: int, most: int | None) -> None:
    assert whole(least, most)(text) == int(text)


@pytest.mark.parametrize("text", ["-1", "0", "4", "1.5", "x", ""])
def test_others_are_refused_with_the_range(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no whole number from 1 to 3"):
        whole(1, 3)(text)
