"""What every stage does the same way: read params, run, write its outputs, turn errors into one line."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from moco.config import Params, load_params
from moco.errors import Interrupted, MocoError

RAW = Path("data/raw")
SHARDS = Path("data/shards")
ENCODER = Path("outputs/pretrain/encoder")


def outputs(stage: str) -> Path:
    """The folder of a stage's tracked outputs, made if missing."""
    folder = Path("outputs") / stage
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def runs_folder() -> Path:
    """Untracked working state: checkpoints, ids, timings, logs. `MOCO_RUNS` moves it (the flow's worktrees share one)."""
    folder = Path(os.environ.get("MOCO_RUNS", "runs")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, values: Any) -> None:
    """Write JSON as a whole or not at all, the same bytes for the same values."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def main(stage: Callable[[Params], None], description: str | None) -> None:
    """Entry point of `python -m pipelines.STAGE`."""
    arguments = with_parameters(argparse.ArgumentParser(description=description)).parse_args()
    with errors_in_one_line():
        stage(load_params(arguments.params, arguments.set))


def with_parameters(parser: argparse.ArgumentParser, file: str = "params.yaml") -> argparse.ArgumentParser:
    """Add the options that name a parameter file and change values of it, this once."""
    parser.add_argument("--params", default=file, help=f"the parameter file (default: {file})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one value, this once"
    )
    return parser


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an argument: a whole number from `least` on, or up to `most`."""

    def read(text: str) -> int:
        if not text.strip().lstrip("+").isdecimal() or not least <= int(text) <= (most or int(text)):
            range_ = f"from {least} to {most}" if most else f"from {least} on"
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {range_}")
        return int(text)

    return read


class errors_in_one_line:  # noqa: N801 - reads as a phrase where it is used
    """Context: a MocoError becomes one line on stderr and its exit code; SIGTERM acts like Ctrl-C."""

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, _interrupt) or signal.SIG_DFL

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        if isinstance(error, MocoError):
            if os.environ.get("RANK", "0") == "0" or not isinstance(error, Interrupted):  # one of many says it
                print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(error.exit_code)
        if isinstance(error, KeyboardInterrupt):
            print("stopped", file=sys.stderr, flush=True)
            sys.exit(Interrupted.exit_code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
