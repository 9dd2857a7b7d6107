"""Open the source that the settings name: a module of that name, underscores for hyphens."""

from importlib import import_module
from pathlib import Path

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.source import Arrays, Files


def open_source(settings: Fetch) -> Files | Arrays:
    """Find the images that the settings name; download a public data set if it is not there.

    Raises:
        MocoError: the source is missing, damaged or out of reach; names what was tried.
    """
    find = import_module(f"moco.sources.{settings.source.replace('-', '_')}").find
    try:
        source: Files | Arrays = find(settings)
    except MocoError as error:
        if ".dvc/tmp/exps" in Path.cwd().as_posix() and not Path(settings.path).is_absolute():
            raise MocoError(
                f"{error} (`dvc exp run --temp` and `--queue` work in a copy of the files that git or DVC track: give"
                " fetch.path as an absolute path)"
            ) from None
        raise
    return source
