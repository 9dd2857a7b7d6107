"""What every stage does in the same way: read its parameters, run, turn errors into one line."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from moco.config import Pretrain, load_params
from moco.errors import Interrupted, MocoError

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
SHARDS = Path("data/shards")
ENCODER = Path("outputs/pretrain/encoder")


def check_encoder(settings: Pretrain) -> None:
    """See, before anything takes time, that the encoder can be built and suits the images' size.

    Raises:
        MocoError: it cannot, or does not.
    """
    if settings.encoder.kind != "resnet":  # those are known, and take any size
        from moco.encoders.build import measured

        measured(settings.encoder, settings.image_size)


def outputs(stage: str) -> Path:
    """Give the folder of a stage's tracked outputs, made if missing."""
    folder = Path("outputs") / stage
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def runs_folder() -> Path:
    """Give the folder of untracked state: checkpoints, ids, timings, logs. `MOCO_RUNS` moves it."""
    folder = Path(os.environ.get("MOCO_RUNS", "runs")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(
    run: Callable[..., None],
    description: str | None,
    load: Callable[[str, list[str]], Any] = load_params,
    file: Path = PARAMS,
    **arguments: dict[str, Any],
) -> None:
    """Run a stage as `python -m pipelines.STAGE [ARGUMENT…] [--params FILE] [--set KEY=VALUE]`.

    Args:
        run: the stage; takes the parameters, and the arguments by their names.
        description: for --help.
        load: reads and validates a parameter file, with values that change this once.
        file: read where --params names no other.
        arguments: further positional arguments, each with the options of `add_argument`.
    """
    parser = with_parameters(argparse.ArgumentParser(description=description), file)
    for name, options in arguments.items():
        parser.add_argument(name, **options)
    given = vars(parser.parse_args())
    params, changes = given.pop("params"), given.pop("set")
    with errors_in_one_line():
        run(load(params, changes), **given)


def with_parameters(parser: argparse.ArgumentParser, file: Path = PARAMS) -> argparse.ArgumentParser:
    """Add the options that name a parameter file and change values of it, this once."""
    parser.add_argument("--params", default=str(file), help=f"the parameter file (default: {file})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one value, this once"
    )
    return parser


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Make the type of an argument: a whole number of at least `least`, and at most `most`."""

    def read(text: str) -> int:
        if not text.strip().lstrip("+").isdecimal() or not least <= int(text) <= (most or int(text)):
            range_ = f"from {least} to {most}" if most else f"from {least} on"
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {range_}")
        return int(text)

    return read


class errors_in_one_line:  # noqa: N801 - reads as a phrase where it is used
    """Make a MocoError one line on stderr and an exit code, and SIGTERM act like Ctrl-C."""

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
