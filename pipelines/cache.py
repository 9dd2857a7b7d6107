"""DVC's cache, read without its lock, which the `dvc repro` above a stage holds."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from moco.errors import MocoError
from moco.files import after_a_kill, whole_folder
from moco.tracking import dvc_digest


class Cache:
    """The cache of the project here; empty where there is no DVC, or no repository of it.

    Attributes:
        remote: whether a default remote could fill it.
    """

    def __init__(self) -> None:
        self._store, self.remote = None, False
        try:
            from dvc.exceptions import DvcException
            from dvc.repo import Repo
        except ImportError:
            return
        with suppress(DvcException), Repo(".") as repo:
            self._store, self.remote = repo.cache.local, bool(repo.config["core"].get("remote"))

    def find(self, digest: str) -> Path | None:
        """Find the file with a hash; None: it is not there."""
        path = None if self._store is None else Path(self._store.oid_to_path(digest))
        return path if path and path.is_file() else None

    def objects(self) -> Iterator[tuple[str, Path]]:
        """Stream the hash and the file of everything in it."""
        if self._store is not None:
            for digest in sorted(self._store.all()):
                yield digest, Path(self._store.oid_to_path(digest))

    def files_of(self, digest: str | None) -> dict[str, str]:
        """Give the files of a folder: path below it -> hash; none if the folder is not there."""
        listing = self.find(digest) if digest else None
        entries = json.loads(listing.read_text(encoding="utf-8")) if listing else []
        return {entry["relpath"]: entry["md5"] for entry in entries}

    def holds(self, digest: str) -> bool:
        """Tell whether a folder is there with all of its files."""
        files = self.files_of(digest)
        return bool(files) and all(self.find(each) for each in files.values())

    def give(self, digest: str, folder: Path) -> None:
        """Put a folder that is there into an empty one, as the links that DVC would make."""
        from dvc.fs import localfs
        from dvc_objects.fs.generic import transfer

        assert self._store is not None
        for name, each in self.files_of(digest).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            transfer(
                self._store.fs,
                self._store.oid_to_path(each),
                localfs,
                str((folder / name).absolute()),
                links=list(self._store.cache_types),
            )


def restore(folder: Path, whether_or_not: bool = False) -> None:
    """Bring a folder that dvc.lock names from the cache, if it is missing and the cache has it.

    What a killed process left beside it is put back or removed first.

    Args:
        folder: it.
        whether_or_not: whether what the cache lacks is done without.

    Raises:
        MocoError: the cache lacks it, and there is a remote that may have it.
    """
    after_a_kill(folder)
    digest = None if folder.exists() else dvc_digest(str(folder))
    if digest is None:
        return
    cache = Cache()
    if not cache.holds(digest):
        if cache.remote and not whether_or_not:
            raise MocoError(
                f"{folder}: not here, nor in the cache as dvc.lock names it, and what was added to it would be lost;"
                " `dvc pull data/raw data/shards` gets it, or `moco fetch --begin-again` begins again"
            )
        return
    with whole_folder(folder) as part:
        cache.give(digest, part)
