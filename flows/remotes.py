"""The default DVC remote: where it is, whether it answers, and what of a run did not reach it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dvc.repo import Repo

from moco.text import without_password

LOOK_SECONDS = 45.0
"""Longest wait for an answer; S3's client tries an address that does not answer for 10 s."""
LATER = "dvc push --run-cache"


class Remote:
    """The default remote of a project, while a flow runs.

    Args:
        name: as `dvc remote list` has it.
        url: where it is; user and password in it are left out of what is said.
        reason: why it cannot be used; None: it can.
    """

    def __init__(self, name: str, url: str, reason: str | None = None) -> None:
        self.name, self.url, self.reason = name, without_password(url), reason and without_password(reason)
        self.changed = False
        """Whether a stage ran that left something to push."""
        self._unpushed: dict[str, None] = {}

    @property
    def usable(self) -> bool:
        """Whether it answered so far."""
        return self.reason is None

    def lose(self, reason: str) -> None:
        """Use it no more in this run."""
        self.reason = self.reason or without_password(reason)

    def missed(self, stage: str) -> None:
        """Remember a stage whose outputs were not pushed."""
        self._unpushed[stage] = None

    def asked_in_vain(self) -> str:
        """Say besides an error about missing data that the remote did not answer; empty: it did."""
        return f" (DVC remote {self.name}, {self.url}, could not be asked for it: {self.reason})" if self.reason else ""

    def outcome(self) -> str | None:
        """One line on what did not reach the remote, and how to do it later; or None."""
        if not self._unpushed:
            return None
        stages = ", ".join(self._unpushed)
        return (
            f"DVC remote {self.name} ({self.url}): {self.reason}. Nothing was pulled since, and outputs of {stages} were not"
            f" pushed; later: `{LATER}`"
        )


def look(folder: Path, env: Mapping[str, str]) -> Remote | None:
    """Find the default remote and ask whether it answers; None where none is configured."""
    with Repo(str(folder)) as repo:
        name = repo.config["core"].get("remote")
        if not name:
            return None
        url = str(repo.config["remote"].get(name, {}).get("url", "no such remote"))
    command = [sys.executable, "-m", "flows.remotes"]
    try:  # in a process of its own: a client may wait for minutes
        done = subprocess.run(
            command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False, timeout=LOOK_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Remote(name, url, f"no answer within {LOOK_SECONDS:.0f} s")
    return Remote(name, url, done.stdout.strip().rstrip(".") or None)


def problem() -> str:
    """Say why the default remote of the project here cannot be used; empty: it can."""
    try:
        with Repo(".") as repo:
            remote = repo.cloud.get_remote()
            remote.fs.exists(remote.path)  # an error unless it answers
    except Exception as error:  # of DVC, or of whichever library speaks to the remote
        return " ".join(str(error).split()) or type(error).__name__
    return ""


if __name__ == "__main__":
    print(problem())
