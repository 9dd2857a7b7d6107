"""How many processor cores, and how much memory, there are for this process."""

import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/memory.max")
"""A container's own limit, in bytes or `max`."""


def cores() -> int:
    """Processor cores that this process may use.

    `MOCO_CORES` is a share of them, where several stages run at once.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("MOCO_CORES", "")
    return min(here, max(1, int(share))) if share.isdecimal() else here


def memory() -> int | None:
    """Give the bytes of memory of this machine or container; None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = LIMIT.read_text().strip() if LIMIT.exists() else "max"
    except (OSError, ValueError):
        return None
    return min(total, int(limit)) if limit.isdecimal() else total
