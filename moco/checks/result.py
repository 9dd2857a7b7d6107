"""What a check says."""

from dataclasses import dataclass
from typing import Literal

from moco.features.intervals import wilson


@dataclass(frozen=True)
class Result:
    """One check.

    Attributes:
        name: of the check, as metrics name it.
        status: ok; failed: training must not begin; note: a person should know; skipped: there was
            nothing to measure.
        value: what was measured.
        limit: the value of the setting that it was compared with.
        text: one line: what was found, and where it fails the setting and the remedy.
    """

    name: str
    status: Literal["ok", "failed", "note", "skipped"]
    value: float | None
    limit: float | None
    text: str


def at_most(name: str, value: float, limit: float, setting: str, said: str, remedy: str) -> Result:
    """Compare a value with the largest that is allowed."""
    if value <= limit:
        return Result(name, "ok", value, limit, said)
    return Result(name, "failed", value, limit, f"{said}, more than check.{setting} = {limit:g}; {remedy}")


def share_at_most(name: str, count: int, of: int, limit: float, said: str, remedy: str) -> Result:
    """Compare a share with the largest that is allowed, `max_NAME` of the settings.

    The lower end of its 95 % interval counts: one odd image of sixteen is no sign of a bad source.

    Args:
        name: of the check.
        count: images that are odd.
        of: images among which they are.
        limit: the largest share.
        said: what was found; the share follows it.
        remedy: what to do where there are more.
    """
    share = count / max(of, 1)
    said = f"{said} ({percent(share)})"
    if not of or wilson(share, of)[0] <= limit:
        return Result(name, "ok", share, limit, said)
    return Result(name, "failed", share, limit, f"{said}, more than check.max_{name} = {limit:g}; {remedy}")


def percent(share: float) -> str:
    """Write a share: `0.4 %`."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
