"""How many processor cores there are for this process."""

import os


def cores() -> int:
    """Processor cores that this process may use.

    `MOCO_CORES` is a share of them, where several stages run at once.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("MOCO_CORES", "")
    return min(here, max(1, int(share))) if share.isdecimal() else here
