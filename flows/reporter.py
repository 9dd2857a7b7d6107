"""What a child process prints, in the logs of its run, and its progress as a bar."""

import re
import time
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows import children
from moco.report.page import escape
from pipelines.fetch import NOTHING_NEW

SECONDS_BETWEEN_PROGRESS = 2.0
SECONDS_WITHOUT_BAR = 300.0
"""After one that failed: Prefect tries for a minute, and the stage's lines wait meanwhile."""
DVC_HINTS = re.compile(
    r"To track the changes with git, run:|\s+git add |To enable auto staging, run:"
    r"|\s+dvc config core\.autostage|Use `dvc push`"
)
"""DVC's advice after each stage to someone at a terminal; in a log of stages it hides what they
say."""


class Reporter:
    """Turn a child's lines into log lines, and its progress lines into a bar in the UI."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.log = get_run_logger()
        self.artifact: UUID | None = None
        self.last = self.no_bar_before = float("-inf")
        self.ran = False

    def line(self, text: str) -> None:
        """Take one line."""
        self.ran |= text.startswith("Running stage ")
        if text == NOTHING_NEW:  # of stage fetch, which looks each time
            self.ran = False
        if DVC_HINTS.match(text):
            return
        progress = children.PROGRESS.match(text)
        if progress is None:
            self.log.info(text)
            return
        percent, now = min(int(progress["percent"]), 100), time.monotonic()
        if now - self.last < SECONDS_BETWEEN_PROGRESS and percent < 100:
            return
        self.last = now
        self.log.info(text)
        if now < self.no_bar_before:
            return
        try:
            self._show(float(percent), progress["note"])
        except Exception as error:  # a bar is not worth a stage that has run for hours
            self.log.warning("no progress bar: %s", error)
            self.no_bar_before = time.monotonic() + SECONDS_WITHOUT_BAR

    def _show(self, percent: float, note: str) -> None:
        text = f"`{self.stage}` · {escape(note)}"
        if self.artifact is None:
            key = re.sub(r"[^a-z0-9]+", "-", f"progress-{self.stage}".lower()).strip("-")
            made = create_progress_artifact(progress=percent, key=key, description=text)
            self.artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self.artifact, progress=percent, description=text)
