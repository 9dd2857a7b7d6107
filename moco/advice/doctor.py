"""What will not work on this machine, and what to do about it, before hours depend on it.

Each check reads the machine, the folder and the settings, takes less than a second, and changes
nothing but files of its own, which it removes.
"""

import errno
import fcntl
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moco.cluster.machine import load_machine
from moco.compiled import keeps_results
from moco.config import load_params
from moco.cores import cores
from moco.devices import compute_devices, describe, gpus
from moco.errors import MocoError, os_error_in_one_line
from moco.files import readable
from moco.images import fused_views
from moco.ranks import RANKS

FOLDERS = ("data", "outputs", "runs")
LEAST_FREE = 2 * 10**9  # bytes: checkpoints, features and reports of a small run
OPEN_FILES = 1024
CLOCKS_APART = 5.0  # seconds


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        kind: ok, note (it works, in another way than one may think) or problem (it will not work).
        text: what, where and what to do, one line.
    """

    kind: Literal["ok", "note", "problem"]
    text: str

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.text}"


def examine(folder: Path | str = ".") -> list[Finding]:
    """Look at everything that stops or slows people's runs; problems and notes come last.

    Args:
        folder: the project's, where stages run.
    """
    found = dict.fromkeys(finding for check in CHECKS for finding in _guarded(check, Path(folder)))
    return sorted(found, key=lambda finding: ("ok", "note", "problem").index(finding.kind))


def _guarded(check: Callable[[Path], Iterator[Finding]], folder: Path) -> list[Finding]:
    try:
        return list(check(folder))
    except MocoError as error:
        return [Finding("problem", str(error))]
    except OSError as error:
        return [Finding("problem", os_error_in_one_line(error) or str(error))]


def _settings(folder: Path) -> Iterator[Finding]:
    if (folder / "params.yaml").exists():
        load_params(folder / "params.yaml")
        yield Finding("ok", "params.yaml: valid")
    else:
        yield Finding("note", f"{folder / 'params.yaml'}: no such file; stages run in a project's folder")
    load_machine(folder / "machine.yaml")


def _devices(folder: Path) -> Iterator[Finding]:
    machine = load_machine(folder / "machine.yaml")
    # What a launcher asks for is elsewhere, such as on the nodes of Slurm.
    device = machine.device if machine.launcher.outlives_driver else machine.training_device
    count = gpus(device)  # a driver that torch cannot use is a MocoError
    first = describe(compute_devices(device)[0])
    yield Finding("ok", f"computes on {count} x {first}" if count else f"computes on {cores()} cores of the CPU")


def _folders(folder: Path) -> Iterator[Finding]:
    for name in FOLDERS:
        place = folder / (os.environ.get("MOCO_RUNS", name) if name == "runs" else name)
        while not place.exists():
            place = place.parent
        try:
            probe = tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-")  # noqa: SIM115
        except OSError as error:
            said = os_error_in_one_line(error) or str(error)
            yield Finding(
                "note", f"{place}: nothing can be written there, which stages that are out of date do: {said}"
            )
            continue
        with probe as file:
            apart = abs(Path(file.name).stat().st_mtime - time.time())
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                yield Finding(
                    "note",
                    f"{place}: files cannot be locked there ({error.strerror}); see to it that one process a run works there,"
                    " or mount it with locks",
                )
        if apart > CLOCKS_APART:
            yield Finding(
                "note",
                f"{place}: its clock and this machine's are {apart:.0f} s apart; set them by NTP, for DVC and make go by times",
            )
        free = shutil.disk_usage(place).free
        kind = "ok" if free >= LEAST_FREE else "note"
        yield Finding(kind, f"{place}: can be written, {readable(free)} free" + "; free some space" * (kind == "note"))  # type: ignore[arg-type]


def _cache_links(folder: Path) -> Iterator[Finding]:
    """See what DVC can do between its cache and the workspace."""
    cache = folder / ".dvc"
    if not cache.is_dir():
        return
    with tempfile.NamedTemporaryFile(dir=cache, prefix="doctor-") as file:
        link = folder / f".doctor-{os.getpid()}"
        try:
            os.link(file.name, link)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise
            yield Finding(
                "note",
                f"{folder}: no hard links between DVC's cache and the data ({error.strerror}): DVC copies, and data takes twice"
                " the room; put the cache on the same file system (`dvc cache dir`)",
            )
        finally:
            link.unlink(missing_ok=True)


def _person(folder: Path) -> Iterator[Finding]:
    try:
        home = Path.home()
        if not os.access(home, os.W_OK):
            yield Finding(
                "note", f"HOME = {home} cannot be written; set HOME, or MPLCONFIGDIR and PREFECT_HOME, elsewhere"
            )
    except RuntimeError:
        yield Finding(
            "problem", "this user has no home: DVC refuses users without one; set HOME to a folder that can be written"
        )
    if not keeps_results():
        yield Finding(
            "note",
            "compiled functions cannot be kept (neither the package nor HOME can be written), so that each process compiles"
            " for seconds; set NUMBA_CACHE_DIR to a folder that can be written",
        )
    if not fused_views.available():
        yield Finding(
            "note",
            "the compiled views were not built, training reads images slower; `make setup` with g++ and libjpeg builds them",
        )


def _limits(folder: Path) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        more = f"`ulimit -n {min(hard, 4096)}`" if hard > soft else "the administrator allows no more"
        yield Finding("note", f"{soft} files may be open; a large set of shards is read faster with more: {more}")
    temporary = tempfile.gettempdir()  # one that can be written, or a FileNotFoundError that lists what was tried
    yield Finding("ok", f"temporary files in {temporary}")


def _environment(folder: Path) -> Iterator[Finding]:
    if "TORCHELASTIC_RUN_ID" not in os.environ and (left := [name for name in RANKS if name in os.environ]):
        yield Finding(
            "note", f"{', '.join(left)} of another program in the environment: stages do not use them; unset them"
        )
    machine = load_machine(folder / "machine.yaml")
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except socket.gaierror:
        many = machine.launcher.hosts() != (1, 1)
        yield Finding(
            "problem" if many else "note",
            f"this host does not know its own name, {socket.gethostname()}; "
            + ("put it into the DNS or /etc/hosts" if many else "one host trains all the same, several would not"),
        )
    params = folder / "params.yaml"
    streams = params.exists() and load_params(params).pretrain.stream is not None
    if streams and (machine.shards_from or "").startswith(("http", "s3:")) and not shutil.which("curl"):
        yield Finding(
            "problem", f"machine.yaml: shards_from = {machine.shards_from!r} needs the command curl; install it"
        )


def _repository(folder: Path) -> Iterator[Finding]:
    if not (folder / "dvc.yaml").exists():
        return
    if not shutil.which("git"):
        yield Finding("note", "git is missing, which experiments and flows with changed parameters need; install it")
        return

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)

    if git("rev-parse", "HEAD").returncode:
        yield Finding(
            "note",
            f"{folder.resolve()}: no git repository with a commit, which experiments and flows with changed parameters need;"
            " `git init`, add and commit the project",
        )
    if not (folder / ".dvc").is_dir():
        yield Finding(
            "problem",
            f"{folder.resolve()}: has no .dvc; run `dvc init` (in a folder of a repository: `dvc init --subdir`)",
        )
    else:
        yield Finding("ok", "a git repository with DVC")


def _records(folder: Path) -> Iterator[Finding]:
    from moco.tracking import connection

    if not connection.enabled():
        yield Finding("note", "runs are not recorded: MOCO_TRACKING is off, or mlflow is not installed")
        return
    uri = connection.tracking_uri()
    if uri.startswith(connection.SQLITE) and not Path(uri.removeprefix(connection.SQLITE)).exists():
        yield Finding("ok", f"runs will be recorded in {uri}")
        return
    try:
        connection.look()
    except Exception as error:  # whatever it is, no stage stops for it
        yield Finding("note", connection.describe(error, connection.is_passing(error)))
    else:
        yield Finding("ok", f"runs are recorded in {connection.public_uri()}")


CHECKS = (_settings, _devices, _folders, _cache_links, _person, _limits, _environment, _repository, _records)
