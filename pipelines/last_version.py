"""The last version of the data that was committed, as its check remembers it."""

import subprocess
from typing import Any

import yaml

from moco.checks.reference import Reference, from_bytes
from pipelines.cache import Cache

REFERENCE = "outputs/check/reference.npz"
SOURCE, PLACE = "fetch.source", "fetch.path"
COMMITS = 200
"""Commits of dvc.lock that are looked at, the newest first."""


def last_version(data_hash: str, source: str, place: str) -> tuple[Reference, str] | None:
    """Find the newest commit of dvc.lock that names other data, and what its check remembered.

    The rule is simple on purpose: what is not committed is no version, and neither running the
    check again nor another threshold makes one. Images of another source are another set, and no
    version of this one: the demo's say nothing of a person's own.

    Args:
        data_hash: of the shard set of now.
        source: `fetch.source` of now.
        place: `fetch.path` of now.

    Returns:
        The reference, and the commit in words; None: there is none, or DVC's cache lacks it.
    """
    log = _git("log", f"-{COMMITS}", "--format=%H %cs", "--", "dvc.lock")
    seen, cache = set[str](), Cache()
    for line in log.splitlines():
        commit, day = line.split()
        lock = _lock(_git("show", f"{commit}:./dvc.lock"))
        then = (lock.get("params") or {}).get("params.yaml") or {}
        digest = next(
            (str(out["md5"]) for out in lock.get("outs") or () if out.get("path") == REFERENCE and "md5" in out), None
        )
        if digest is None or digest in seen or (then and (then.get(SOURCE), then.get(PLACE)) != (source, place)):
            continue
        seen.add(digest)
        path = cache.find(digest)
        found = path and from_bytes(path.read_bytes())
        if not found:  # nobody knows whether an older one is what should be compared with
            return None
        if found.data_hash != data_hash:
            return found, f"commit {commit[:7]} of {day}"
    return None


def _git(*arguments: str) -> str:
    """Give what git prints; nothing where it fails, as outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except OSError:  # no git here
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def _lock(text: str) -> dict[str, Any]:
    """Read what a dvc.lock says of stage check; nothing where it is damaged or does not know it."""
    try:
        return dict(yaml.safe_load(text)["stages"]["check"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}
