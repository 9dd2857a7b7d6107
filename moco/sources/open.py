"""Open the source that the settings name: a module of that name, underscores for hyphens."""

from importlib import import_module

from moco.config import Fetch
from moco.sources.source import Arrays, Files


def open_source(settings: Fetch) -> Files | Arrays:
    """Find the images that the settings name; download a public data set if it is not there.

    Raises:
        MocoError: the source is missing, damaged or out of reach; names what was tried.
    """
    source: Files | Arrays = import_module(f"moco.sources.{settings.source.replace('-', '_')}").find(settings)
    return source
