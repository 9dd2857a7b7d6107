"""The untracked folder of one training run, named by settings and data, written by one group."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from moco.config import Pretrain, settings_hash
from moco.errors import MocoError
from moco.files import hash_of_files
from moco.locks import exclusive

FINISHED = "finished"
DECIDES_NOTHING = frozenset(
    [
        "advice",
        "alarms",
        "checks",
        "cluster",
        "compiled",
        "config",
        "cores",
        "drawing",
        "duplicates",
        "encoders.export",
        "ending",
        "errors",
        "explore",
        "files",
        "locks",
        "npy",
        "notices",
        "presets",
        "progress",
        "ranks",
        "report",
        "runs",
        "settings",
        "study",
        "survey",
        "text",
        "tracking",
        "verdicts",
        "transfer.config",
        "transfer.data_config",
        "worker",
        "yaml_files",
    ]
)
"""Rooms and modules of the library that leave a training's result as it is: another one of these is
no other code."""
_CODE = "code"


def training_hash(settings: Pretrain, data_hash: str) -> str:
    """Names a training run by what decides its result: settings and data, 16 hex digits.

    So is the code of a network of a person's own, which is no part of the library, and the file of
    its first weights.
    """
    own, weights = settings.encoder.source, settings.init.place
    parts = [] if own is None else [hash_of_files([own], own.parent, (".py",))]
    if weights is not None and weights.exists():  # where it is missing, the run says so
        parts.append(hash_of_files([weights], weights.parent))
    return settings_hash(settings, data_hash, *parts)


def decides_nothing(module: str) -> bool:
    """Tell whether a module, such as `transfer.config`, or its room leaves a result as it is."""
    parts = module.split(".")
    return any(".".join(parts[:end]) in DECIDES_NOTHING for end in range(1, len(parts) + 1))


def code_hash() -> str:
    """Hash the library's sources: what finished under other code is no result of this code."""
    package = Path(__file__).parents[1]
    files = (path for path in package.rglob("*") if path.suffix in (".py", ".cpp", ".h"))
    names = {path: ".".join(path.relative_to(package).with_suffix("").parts) for path in files}
    return hash_of_files((path for path, name in names.items() if not decides_nothing(name)), package)


def prepare(folder: Path, restart: bool) -> None:
    """Decide whether a run may resume from the folder's checkpoints; if not, set them aside.

    An unfinished run resumes, under changed code too (and says so): a corrected mistake should not
    cost the hours before it. A finished run counts only under the code that made it.
    """
    code = folder / _CODE
    same_code = code.exists() and code.read_text() == code_hash()
    finished = (folder / FINISHED).exists()
    if folder.exists() and (restart or (finished and not same_code)):
        aside = next(path for n in range(1, 10**6) if not (path := folder.with_name(f"{folder.name}.old{n}")).exists())
        folder.rename(aside)
        print(f"{folder.name}: starts from step 0; the checkpoints from before are in {aside.name}", flush=True)
    elif code.exists() and not same_code and not finished:
        print(
            f"{folder.name}: the code has changed since these checkpoints were written; resuming from them (--restart starts from step 0)",
            flush=True,
        )
    folder.mkdir(parents=True, exist_ok=True)
    code.write_text(code_hash())


def held(folder: Path) -> bool:
    """Whether another process drives this run."""
    try:
        with only_writer(folder):
            return False
    except MocoError:
        return True


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the right to drive a run.

    Raises:
        MocoError: another process holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_name(folder.name + ".lock"), folder, patience=0):
        yield
