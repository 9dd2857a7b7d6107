"""What every stage does in the same way: read its parameters, run, turn errors into one line."""

import argparse
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from moco.config import Pretrain, load_params
from moco.ending import end_process
from moco.errors import Interrupted, MocoError, os_error_in_one_line
from moco.files import read_note, write_json
from moco.locks import exclusive
from moco.progress import print_any_text
from moco.text import printable
from pipelines import STOPPED
from pipelines.driver import ends_with_driver

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
SHARDS = Path("data/shards")
PASSED = Path("outputs/check/passed.json")
"""Is written when no check failed, and holds the data's hash alone: pretraining waits for it, and
another look of the card, or another threshold, trains nothing again."""
ENCODER = Path("outputs/pretrain/encoder")
SECONDS = "seconds.json"
"""In the runs' folder: how long each stage took the last time."""
LESS_MEMORY = "end other programs, or lower `processes` and `num_workers` in machine.yaml"


def check_pretraining(settings: Pretrain) -> None:
    """See, before anything takes time, that the encoder can be built, and this machine can train.

    Raises:
        MocoError: the encoder cannot be built, or does not suit the images' size; or machine.yaml
            and these settings do not go together.
    """
    from moco.cluster.machine import load_machine
    from moco.training.checks import check_machine, processes_per_host

    machine = load_machine()
    try:
        processes_per_host(settings, machine)
    except MocoError:  # GPUs are asked for and are elsewhere: another host may prepare the images
        pass
    else:
        check_machine(settings, machine)
    if settings.encoder.kind != "resnet":  # those are known, and take any size
        from moco.encoders.build import measured

        measured(settings.encoder, settings.image_size)


def check_enough(settings: Pretrain, training: dict[str, int], other_files: int) -> None:
    """See, before images are packed, that there are enough to pretrain on.

    Args:
        settings: of pretraining.
        training: `images` and, of those, `labelled`, as fetch counted them.
        other_files: that sharding will try too; each may be an image.

    Raises:
        MocoError: there are fewer than a batch.
    """
    from moco.training.checks import check_images

    labelled = training["labelled"]
    chosen = {"all": training["images"], "labelled": labelled, "unlabelled": training["images"] - labelled}
    check_images(settings, round(settings.images_fraction * (chosen[settings.images] + other_files)))


def note(stage: str, lines: Iterable[str]) -> None:
    """Say what is allowed and does nothing."""
    for line in lines:
        print(f"{stage}: note: {line}", flush=True)


def outputs(stage: str) -> Path:
    """Give the folder of a stage's tracked outputs, made if missing."""
    folder = Path("outputs") / stage
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(stage: str, place: Path | None = None, command: str | None = None) -> Iterator[None]:
    """Let one process at a time write a stage's outputs in this folder; note how long it took.

    The lock is among the untracked state, for DVC removes outputs; with a name of this folder,
    because worktrees share that state.

    Args:
        stage: its name.
        place: the folder that it writes; None: `outputs/STAGE`.
        command: that runs it; None: `moco STAGE`.

    Raises:
        MocoError: another process writes them.
    """
    place = place or outputs(stage)
    mark = hashlib.sha256(os.fsencode(place.absolute())).hexdigest()[:8]
    lock = runs_folder() / f"{stage}-{mark}.lock"
    with exclusive(lock, place, patience=0, what=f"runs `{command or f'moco {stage}'}` here"):
        begin = time.monotonic()
        yield
    if place == outputs(stage):
        note = exclusive(runs_folder() / "seconds.lock", runs_folder(), patience=1, what="writes there")
        with suppress(OSError, MocoError), note:  # it is not worth a stage
            write_json(runs_folder() / SECONDS, read_note(runs_folder() / SECONDS) | {stage: time.monotonic() - begin})


def seconds_of(stage: str) -> float | None:
    """Give how long a stage took when it last ran to its end here; None: it never did."""
    took = read_note(runs_folder() / SECONDS).get(stage)
    return float(took) if isinstance(took, int | float) else None


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
) -> NoReturn:
    """Run a stage as `python -m pipelines.STAGE [ARGUMENT…] [--params FILE] [--set KEY=VALUE]`.

    Args:
        run: the stage; takes the parameters, and the arguments by their names.
        description: for --help.
        load: reads and validates a parameter file, with values that change this once.
        file: read where --params names no other.
        arguments: further positional arguments, each with the options of `add_argument`.
    """
    print_any_text()
    parser = with_parameters(argparse.ArgumentParser(description=description), file)
    for name, options in arguments.items():
        parser.add_argument(name, **options)
    given = vars(parser.parse_args())
    params, changes = given.pop("params"), given.pop("set")

    def work() -> None:
        with ends_with_driver():
            drop_ranks_of_others()
            run(load(params, changes), **given)

    as_process(work)


def as_process(main: Callable[[], None]) -> NoReturn:
    """Run a program, with errors in one line, and end this process at once."""
    code = 0
    try:
        with errors_in_one_line():
            main()
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        code = ended.code
    end_process(code)


def drop_ranks_of_others() -> None:
    """Forget what another program's processes left in the environment: a stage is one process.

    Its launcher gives the processes that train their own. Under torchrun the variables are this
    stage's, and only one of its processes gets the run's lock.
    """
    from moco.ranks import RANKS

    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    if left := [name for name in RANKS if os.environ.pop(name, None) is not None]:
        print(
            f"not used: {', '.join(left)} in the environment, which torchrun did not set", file=sys.stderr, flush=True
        )


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
        print_any_text()
        self._before = signal.signal(signal.SIGTERM, _interrupt) or signal.SIG_DFL
        self._hook, sys.unraisablehook = sys.unraisablehook, _stop_all_the_same

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        sys.unraisablehook = self._hook
        if isinstance(error, MocoError):
            if os.environ.get("RANK", "0") == "0" or not isinstance(error, Interrupted):  # one of many says it
                print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
            sys.exit(error.exit_code)
        if isinstance(error, BrokenPipeError):  # `moco … | head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(MocoError.exit_code)
        if isinstance(error, OSError) and (said := os_error_in_one_line(error)):
            print(f"error: {printable(said)}", file=sys.stderr, flush=True)
            sys.exit(MocoError.exit_code)
        if isinstance(error, MemoryError):
            print(
                f"error: the memory is used up{f' ({error})' if str(error) else ''}; {LESS_MEMORY}",
                file=sys.stderr,
                flush=True,
            )
            sys.exit(MocoError.exit_code)
        if isinstance(error, KeyboardInterrupt):
            print(STOPPED, file=sys.stderr, flush=True)
            sys.exit(Interrupted.exit_code)


def _stop_all_the_same(lost: "sys.UnraisableHookArgs") -> None:
    """Ask again where Ctrl-C came while an object was removed: Python drops it there."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        again = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
