"""Where the default DVC remote has the tars of data/shards, for training that reads them there."""

from pathlib import Path
from typing import Any

from moco.errors import MocoError
from moco.images.tar_source import write_addresses
from pipelines.stage import SHARDS


def write_tars(file: Path) -> None:
    """Write the tars' addresses for the processes that train, which need no DVC.

    Raises:
        MocoError: DVC is not installed, there is no default remote, or data/shards is not in it.
    """
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        raise MocoError(
            "machine.yaml: shards_from = dvc needs DVC here; `pip install 'moco-pipeline[pipeline]'`"
        ) from None
    try:
        with Repo() as repo:
            remote = repo.cloud.get_remote(None, "shards_from")
            (out,) = repo.find_outs_by_path(str(SHARDS))
            tree = out.get_dir_cache(jobs=1, remote=remote.name) if out.hash_info else None
            if tree is None:
                raise MocoError(
                    f"{SHARDS}: its list is neither in DVC's cache nor in remote {remote.name}; `dvc push shard`"
                )
            addresses = {key[-1]: _address(remote, info.value) for key, _, info in tree if key[-1].endswith(".tar")}
            endpoint = repo.config["remote"][remote.name].get("endpointurl")
    except DvcException as error:
        raise MocoError(f"machine.yaml: shards_from = dvc: {' '.join(str(error).split())}") from None
    write_addresses(file, addresses, endpoint)


def _address(remote: Any, digest: str) -> str:
    path = remote.odb.oid_to_path(digest)
    return str(path if remote.fs.protocol == "local" else remote.fs.unstrip_protocol(path))
