"""Take new images in: a listing and shards of their own, cached and pushed, and an event.

`moco ingest FOLDER…` reads what is new in the folders, lists or tars, whatever `fetch.path` is, and
keeps it when they are emptied. Nothing that is there is written again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from moco.cluster.machine import load_machine
from moco.config import Fetch, Params
from moco.errors import MocoError
from moco.files import write_json, write_text
from moco.sources.manifest import Manifest
from moco.sources.open import open_source
from moco.sources.take_in import take_in
from moco.text import printable
from moco.tracking import dvc_digest
from pipelines import stage
from pipelines.cache import restore
from pipelines.driver import under_way
from pipelines.fetch import beside_the_source, earlier, metrics
from pipelines.shard import shard

EVENT = "moco.data.ingested"
"""What a deployment's trigger waits for; its resource is `moco.data.main`."""
SOURCES: dict[str, Literal["list", "tars"]] = {".csv": "list", ".tsv": "list", ".parquet": "list", ".pq": "list"}
SOURCES |= {".tar": "tars"}
"""Kind of source by suffix; anything else is a folder."""


def ingest(params: Params, paths: Sequence[str], announce: bool | None = None) -> None:
    """Take in what is new at some paths, shard it, and tell DVC, the remote and Prefect.

    Args:
        params: how images are split, labelled and stored.
        paths: folders of images, lists, or tars.
        announce: whether to emit `EVENT`; None: where PREFECT_API_URL names a server.
    """
    if under_way(Path.cwd()):
        raise MocoError("a stage runs here, and DVC would record it with other images than it read; wait for it")
    pending = stage.runs_folder() / "ingest.pending"
    with stage.alone("fetch"), beside_the_source(params.fetch):
        restore(stage.RAW)
        manifest = before = earlier(stage.RAW)
        again = pending.exists()  # an earlier call did not come to its end
        write_text(pending, "")  # until the images are in the shards, the cache and the remote
        for path in paths:
            manifest = _take_in(path, params.fetch, manifest)
        assert manifest is not None
        write_json(stage.outputs("fetch") / "metrics.json", metrics(manifest))
        new = manifest.images - (before.images if before else 0)
        left_out = manifest.duplicates - (before.duplicates if before else 0)
        print(f"{new} new images, {left_out} left out as exact duplicates; {manifest.images} in the set")
        shard(params)
        record("fetch", "shard")
    changed = before is None or manifest.changes != before.changes
    if (changed or again) and (announce if announce is not None else "PREFECT_API_URL" in os.environ):
        emit(manifest, new)
    pending.unlink()


def _take_in(path: str, settings: Fetch, before: Manifest | None) -> Manifest:
    source = SOURCES.get(Path(path).suffix.lower(), "tars" if settings.source == "tars" else "folder")
    found = settings.model_copy(update={"source": source, "path": path})
    marks = stage.runs_folder() / "ingest.sqlite"
    return take_in(open_source(found), found, stage.RAW, before, marks, False, load_machine().elsewhere)


def record(*stages: str) -> None:
    """Write stages' outputs as they are to dvc.lock and the cache, and push them to a remote.

    Where there is no DVC repository, nothing happens; a remote that does not answer is said.

    Raises:
        MocoError: DVC refuses.
    """
    if not Path(".dvc").is_dir():
        return
    _dvc("commit", "--force", *stages)
    remote = subprocess.run([sys.executable, "-m", "dvc", "config", "core.remote"], capture_output=True, check=False)
    if remote.stdout.strip():
        try:
            _dvc("push", *stages)
        except MocoError as error:
            print(f"not pushed: {error}; `dvc push` does it later", flush=True)


def _dvc(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise MocoError(f"dvc {words[0]}: {printable(said[0].removeprefix('ERROR: ') if said else 'failed')}")


def emit(manifest: Manifest, new: int) -> None:
    """Emit the event that deployments wait for; what is in the set is safe without it."""
    resource = {"prefect.resource.id": "moco.data.main", "prefect.resource.name": "the images"}
    payload = {"images": manifest.images, "new": new, "data": dvc_digest(str(stage.SHARDS))}
    words = ["event", "emit", EVENT, "--resource", json.dumps(resource), "--payload", json.dumps(payload)]
    done = subprocess.run([sys.executable, "-m", "prefect", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no event {EVENT}: {printable((done.stderr or done.stdout).strip().splitlines()[-1])}", flush=True)


if __name__ == "__main__":
    stage.main(
        ingest,
        __doc__,
        paths={"nargs": "+", "metavar": "PATH", "help": "a folder of images, a list (CSV, Parquet), or a tar"},
    )
