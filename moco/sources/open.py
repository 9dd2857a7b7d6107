"""The kinds of sources by name. A new one is a module of its own and its line here."""

from collections.abc import Callable

from moco.config import Fetch
from moco.sources import cifar10, fashion_mnist, folder, image_list, imagenet, stl10
from moco.sources.source import Arrays, Files

SOURCES: dict[str, Callable[[Fetch], Files | Arrays]] = {
    "fashion-mnist": fashion_mnist.find,
    "folder": folder.find,
    "cifar10": cifar10.find,
    "stl10": stl10.find,
    "imagenet": imagenet.find,
    "list": image_list.find,
}


def open_source(settings: Fetch) -> Files | Arrays:
    """Find the images that the settings name; download a public data set if it is not there.

    Raises:
        MocoError: the source is missing, damaged or cannot be reached; the line says what was
            tried.
    """
    return SOURCES[settings.source](settings)
