"""Prove that training is right on this machine's GPU, and measure it: `python -m benchmarks.gpu`.

Eight parts, each in a process of its own with a limit, six minutes at most. docs/gpu.md says what
each figure means. `--cpu` is a dry run: small sizes, and every line but the calls of CUDA.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.feeding import feeding
from benchmarks.gpu.learning import learning
from benchmarks.gpu.nccl import nccl
from benchmarks.gpu.record import CUT_SHORT, Record, read, write
from benchmarks.gpu.ring import ring
from benchmarks.gpu.sides import sides
from benchmarks.gpu.speed import speed
from benchmarks.gpu.versions import versions
from benchmarks.gpu.waiting import waiting
from benchmarks.photographs import KEPT

Part = Callable[[Record, Chip, Path], None]
PARTS: dict[str, tuple[Part, float]] = {
    "versions": (versions, 25),
    "sides": (sides, 45),
    "waiting": (waiting, 20),
    "ring": (ring, 25),
    "nccl": (nccl, 35),
    "learning": (learning, 60),
    "speed": (speed, 110),
    "feeding": (feeding, 40),
}
"""Each part, in order, with the seconds that it may take: six minutes together."""

PATIENCE = 5
"""A dry run is given as many times the limit: it may share its cores."""


def work(name: str, kind: str, out: Path, scratch: Path) -> None:
    """Do one part, in a process of its own and the leader of all that it starts."""
    os.setsid()
    part, limit = PARTS[name]
    record = Record(name, limit)
    record.open(out)
    try:
        part(record, Chip.of(kind), scratch)
        record.close()
    except BaseException as error:
        record.close(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        raise


def run(name: str, kind: str, out: Path) -> dict[str, Any]:
    """Run one part within its limit, and give what it left."""
    limit = PARTS[name][1] * (1 if kind == "cuda" else PATIENCE)
    # A fork has all that is imported already. Nothing here has touched CUDA, which cannot be
    # forked.
    process = multiprocessing.get_context("fork").Process
    with tempfile.TemporaryDirectory(dir=out, ignore_cleanup_errors=True) as scratch:
        child = process(target=work, args=(name, kind, out, Path(scratch)))
        child.start()
        child.join(limit)
        late = child.is_alive()
        child.kill()
        assert child.pid
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # what a part has started ends with it
        child.join()
    found = read(out, name)
    if CUT_SHORT in found["failed"]:
        reason = f"took more than its {limit:.0f} s" if late else f"its process ended with {child.exitcode}"
        found["failed"][-1] = reason
        write(out, name, found)
    return found


def lines(prefix: str, value: Any) -> Iterator[str]:
    """Give a line of the table for each figure."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from lines(f"{prefix}: {name}", inner)
    else:
        yield f"{prefix} | {f'{value:.4g}' if isinstance(value, float) else value} |"


def summary(found: dict[str, dict[str, Any]]) -> str:
    """Render all parts and figures as tables in Markdown."""
    text = ["| part | result | seconds |", "|---|---|---|"]
    for name, part in found.items():
        result = "; ".join(part["failed"]) or "ok"
        text.append(f"| {name} | {result} | {part['seconds']} |")
    text += ["", "| part | figure | value |", "|---|---|---|"]
    for name, part in found.items():
        for figure, value in part["figures"].items():
            text += lines(f"| {name} | {figure}", value)
        text += [f"| {name} | left out | {note} |" for note in part["notes"]]
    return "\n".join(text)


def main() -> None:
    """Run all parts, print what they found, and fail if one of them did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="a dry run on the CPU, at small sizes; about a minute")
    parser.add_argument("--out", type=Path, default=KEPT / "gpu", help="folder for PART.json (default: %(default)s)")
    options = parser.parse_args()
    out, kind = options.out.absolute(), "cpu" if options.cpu else "cuda"
    out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in PARTS:
        found[name] = run(name, kind, out)
        print(f"{name}: {'ok' if found[name]['ok'] else 'FAILED'} after {found[name]['seconds']} s", flush=True)
    print("\n" + summary(found))
    sys.exit(not all(part["ok"] for part in found.values()))


if __name__ == "__main__":
    main()
