"""A stage's lines while the Prefect server is away."""

import logging
from types import SimpleNamespace

import pytest

from flows import reporter


def test_a_server_that_is_away_holds_up_one_line_in_minutes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(now=0.0)
    tries: list[float] = []

    def away(**_: object) -> None:
        tries.append(clock.now)
        clock.now += 70  # seconds that Prefect tries
        raise ConnectionError("refused")

    monkeypatch.setattr(reporter, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr(reporter, "create_progress_artifact", away)
    monkeypatch.setattr(reporter, "time", SimpleNamespace(monotonic=lambda: clock.now))
    lines = reporter.Reporter("pretrain")
    with caplog.at_level(logging.INFO):
        for percent in range(1, 81):
            clock.now += 10
            lines.line(f"pretrain  {percent}% · loss 2.1")
    assert tries == [10.0, 380.0, 750.0]
    assert sum("loss 2.1" in line for line in caplog.messages) == 80  # none is lost
    assert sum("no progress bar: refused" in line for line in caplog.messages) == 3
