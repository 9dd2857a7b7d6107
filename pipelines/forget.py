"""Delete images on request: out of the set, and its shards; say what else holds or has seen them.

`moco forget KEY…` takes keys, SHA-256 or paths, or files that list them. Only shards that hold the
images are written again. `--purge` also deletes what else holds them: tars and arrays of earlier
versions, or of none, in the cache and the default remote, and those that runs left on this disk.
"""

from collections.abc import Sequence
from pathlib import Path

from moco.config import Params
from moco.errors import MocoError
from moco.files import write_json
from moco.sources.forget import forget as take_out
from moco.sources.manifest import read_manifest
from pipelines import stage
from pipelines.cache import restore
from pipelines.driver import under_way
from pipelines.fetch import beside_the_source, metrics
from pipelines.holders import Deleted, delete, holders
from pipelines.ingest import record
from pipelines.shard import shard


def forget(params: Params, names: Sequence[str], purge: bool = False) -> None:
    """Take images out of the set, and say what else holds them.

    Args:
        params: how images are stored.
        names: keys, SHA-256, paths as the manifest has them, or files with one of these a line.
        purge: whether to delete what else holds them: the tars of earlier versions, …
    """
    if under_way(Path.cwd()):
        raise MocoError("a stage runs here, and DVC would record it with other images than it read; wait for it")
    with stage.alone("fetch"), beside_the_source(params.fetch):
        restore(stage.RAW)
        found = take_out(stage.RAW, [name for given in names for name in _names(given)])
        manifest = read_manifest(stage.RAW)
        write_json(stage.outputs("fetch") / "metrics.json", metrics(manifest))
        contents = {placed.row.sha256 or placed.row.path for placed in found}
        print(f"{len(contents)} images are out of {stage.RAW}, and do not come in again")
        shard(params)
        record("fetch", "shard")
    there = holders(Deleted.of(manifest, found), remote=purge)
    for line in (delete(there) if purge else there).said():
        print(line)


def _names(given: str) -> list[str]:
    path = Path(given)
    if not path.is_file():
        return [given]
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise MocoError(f"{given}: no list in UTF-8 ({error}); write one key, SHA-256 or path a line") from None
    if not any(names):
        raise MocoError(f"{given}: lists nothing; write one key, SHA-256 or path a line")
    return [name for name in names if name]


if __name__ == "__main__":
    stage.main(
        forget,
        __doc__,
        names={"nargs": "+", "metavar": "KEY", "help": "key, SHA-256 or path of an image, or a file that lists them"},
    )
