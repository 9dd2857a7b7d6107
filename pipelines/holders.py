"""What still holds deleted images, or has seen them: versions, cache, remote, runs, encoders."""

import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from moco import npy
from moco.errors import MocoError
from moco.images.index import sample_key
from moco.sources.manifest import Manifest, Placed
from moco.sources.places import file_at
from pipelines.cache import Cache
from pipelines.driver import under_way
from pipelines.prune import QUEUE, WORKTREES
from pipelines.stage import ENCODER, RAW, SHARDS, runs_folder
from pipelines.versions import git

TAR, ARRAY = b"ustar", b"\x93NUMPY"
"""How tars and arrays show what they are: from byte 257 on, and at the start."""


@dataclass(frozen=True)
class Deleted:
    """The images that are looked for.

    Attributes:
        keys: their names in tars, as `moco.images.index.sample_key` makes them.
        contents: their SHA-256, hexadecimal.
        sources: files that they came from and that are still there.
    """

    keys: Set[str]
    contents: Set[str]
    sources: Sequence[Path] = ()

    @classmethod
    def of(cls, manifest: Manifest, found: Sequence[Placed]) -> "Deleted":
        """Name the images of some lines of the manifest."""
        rows = [placed.row for placed in found if placed.row.sha256]
        files = set[Path]()
        for placed in found:
            root = manifest.listings[placed.listing].root
            if root is not None:
                files.add(file_at(root, placed.row.path, placed.row.row))
            files |= {file_at(place.root, place.path, place.row) for place in placed.places}
        sources = sorted(file for file in files if file.exists())
        return cls({sample_key(row.key) for row in rows}, {row.sha256 for row in rows}, sources)

    def in_file(self, path: Path) -> bool:
        """Tell whether a tar, or an array of images, holds one of them."""
        kind = _kind(path)
        if kind == TAR:
            with suppress(tarfile.TarError), tarfile.open(path, "r:") as opened:
                return any(member.name.partition(".")[0] in self.keys for member in opened)
        images = npy.mapped(path) if kind == ARRAY else None
        if images is None or images.dtype != "uint8" or images.ndim < 3:
            return False
        return any(sha256(image.tobytes()).hexdigest() in self.contents for image in images)


@dataclass(frozen=True)
class Holders:
    """Who holds some images.

    Attributes:
        versions: commits or tags whose shards or arrays hold them.
        objects: hashes of the tars and arrays that hold them, as DVC names them.
        unnamed: how many of these no version names.
        unknown: tars of earlier versions that are not in the cache, and were not looked into.
        files: of interrupted runs, of worktrees, and of sets elsewhere that are kept on this disk.
        busy: folders of worktrees where a stage runs.
        encoders: versions whose encoder was trained on them.
        sources: files that they came from and that are still there.
    """

    versions: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    unnamed: int = 0
    unknown: int = 0
    files: list[Path] = field(default_factory=list)
    busy: list[Path] = field(default_factory=list)
    encoders: list[str] = field(default_factory=list)
    sources: Sequence[Path] = ()

    def said(self) -> Iterator[str]:
        """Say it, a line each."""
        if self.objects:
            of = f"of {', '.join(self.versions)}" + f" ({self.unnamed} of no version)" * bool(self.unnamed)
            yield (
                f"still in {len(self.objects)} tars {of if self.versions else 'of no version'}, in the cache and, where it was pushed, in"
                " the remote; `--purge` deletes these tars, and these versions can then not be checked out"
            )
        elif self.versions:
            yield f"cannot be checked out any more: {', '.join(self.versions)}"
        if self.files:
            yield f"still in {_some(self.files)}, of earlier runs; `--purge` deletes them"
        if self.busy:
            yield f"a stage runs in {_some(self.busy)}: look again when it has ended"
        if self.unknown:
            yield f"{self.unknown} tars of earlier versions are not in the cache: `dvc fetch --all-commits`, then look again"
        if self.sources:
            yield f"the files that they came from stay: {_some(self.sources)}; delete them there"
        if self.encoders:
            yield f"seen by the encoders of {', '.join(self.encoders)}: train again, from no weights of theirs"
        yield (
            "pictures of outputs/check and outputs/report, tables of `moco embed`, artifacts in MLflow, other clones and"
            " their caches are made again, or deleted by hand"
        )


def holders(deleted: Deleted, remote: bool = False) -> Holders:
    """Look through the cache, every version in git, and what runs left on this disk.

    Args:
        deleted: the images.
        remote: whether to look into what the default remote has and the cache lacks, too.

    Raises:
        MocoError: the remote cannot be reached.
    """
    cache = Cache()
    looked = {oid: deleted.in_file(path) for oid, path in cache.objects()}
    if remote and cache.remote:
        looked |= _in_remote(deleted, looked.keys())
    versions, encoders, named = list[str](), list[str](), set[str]()
    for name, lock in _locks():
        data = _hash(lock, "outs", str(SHARDS))
        seen = _hash(lock, "deps", str(SHARDS), "pretrain")
        tars = {digest for file, digest in cache.files_of(data).items() if file.endswith(".tar")}
        arrays = {
            digest for file, digest in cache.files_of(_hash(lock, "outs", str(RAW))).items() if file.endswith(".npy")
        }
        named |= tars | arrays
        if any(looked.get(digest) for digest in tars | arrays):
            versions.append(name)
            if seen == data and _hash(lock, "outs", str(ENCODER)) and any(looked.get(digest) for digest in tars):
                encoders.append(name)
    objects = sorted(oid for oid, holds in looked.items() if holds)
    trees = [tree for place in (WORKTREES, QUEUE) for tree in Path().glob(f"{place}/*") if tree.is_dir()]
    busy = [tree for tree in trees if under_way(tree)]
    files = [file for file in _files([tree for tree in trees if tree not in busy]) if deleted.in_file(file)]
    unnamed, unknown = len(set(objects) - named), len(named - looked.keys())
    return Holders(versions, objects, unnamed, unknown, files, busy, encoders, deleted.sources)


def delete(found: Holders) -> Holders:
    """Delete tars and arrays from the default remote, the cache, and what runs left on this disk.

    Returns:
        Who holds the images now.

    Raises:
        MocoError: the remote cannot be reached; the cache is as it was.
    """
    from dvc.repo import Repo

    if found.objects:
        with _remote_in_reach("nothing was deleted from the cache"), Repo(".") as repo:
            for store in [*_remotes(repo), repo.cache.local]:
                for oid in found.objects:
                    if store.exists(oid):
                        store.delete(oid)
    for file in found.files:
        file.unlink(missing_ok=True)
    shutil.rmtree(runs_folder() / "survey", ignore_errors=True)  # tiny copies of images, which are made again
    return replace(found, objects=[], unnamed=0, files=[])


def _files(trees: list[Path]) -> Iterator[Path]:
    """Give the tars and arrays that runs left on this disk."""
    runs = runs_folder()
    for pattern in ("shards-*/shards/*.tar", "tars/*/*.tar"):
        yield from sorted(runs.glob(pattern))
    for folder in (Path(), *trees):
        for name in (f"{RAW}*", f"{SHARDS}*"):
            for place in folder.glob(name):
                if place.name.endswith(".part") or folder in trees:
                    yield from sorted((*place.rglob("*.tar"), *place.rglob("*.npy")))


def _kind(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        start = file.read(512)
        if start[257:262] == TAR:
            return TAR
        return start[:6] if start[:6] == ARRAY else b""
    return b""


def _some(paths: Sequence[Path]) -> str:
    return f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"


def _remotes(repo: Any) -> list[Any]:
    return [repo.cloud.get_remote_odb()] if repo.config["core"].get("remote") else []


@contextmanager
def _remote_in_reach(then: str) -> Iterator[None]:
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, OSError) as error:
        raise MocoError(f"the remote: {str(error).splitlines()[0]}; {then}") from None


def _in_remote(deleted: Deleted, known: Set[str]) -> dict[str, bool]:
    """Look into what a remote has and the cache lacks, such as what another clone pushed."""
    from dvc.repo import Repo

    looked: dict[str, bool] = {}
    with (
        _remote_in_reach("nothing was deleted"),
        Repo(".") as repo,
        tempfile.TemporaryDirectory(dir=runs_folder()) as scratch,
    ):
        for store in _remotes(repo):
            for oid in sorted(set(store.all()) - known):
                place, copy = store.oid_to_path(oid), Path(scratch) / "object"
                with store.fs.open(place, "rb") as file:
                    copy.write_bytes(file.read(512))
                if _kind(copy):
                    store.fs.get_file(place, str(copy))
                    looked[oid] = deleted.in_file(copy)
                copy.unlink()
    return looked


def _locks() -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream the distinct files dvc.lock of git's history, each by a tag or the commit."""
    log = ("log", "--all", "--format=%h%x09%D", "--", "dvc.lock")
    blobs = set()
    for line in _git(*log).splitlines():
        commit, _, names = line.partition("\t")
        tags = [name.removeprefix("tag: ") for name in names.split(", ") if name.startswith("tag: ")]
        blob = _git("rev-parse", f"{commit}:dvc.lock").strip()
        if not blob or blob in blobs:
            continue
        blobs.add(blob)
        found = yaml.safe_load(_git("cat-file", "blob", blob))
        if isinstance(found, dict):
            yield tags[0] if tags else commit, found


def _git(*words: str) -> str:
    return git(Path.cwd(), *words, check=False)


def _hash(lock: dict[str, Any], kind: str, path: str, stage: str | None = None) -> str | None:
    for name, about in lock.get("stages", {}).items():
        if stage in (None, name):
            for entry in about.get(kind, []):
                if entry.get("path") == path:
                    return entry.get("md5")
    return None
