"""Fashion-MNIST: 70,000 gray images of 28 x 28 pixels in ten classes."""

import gzip
import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.download import reason
from moco.sources.source import ArrayPart, Arrays

INSTALLED = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
# Of the unpacked files: the package's archives and the publisher's differ in their headers.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def find(settings: Fetch) -> Arrays:
    """Read the installed package, or else the downloaded one, or torchvision's download."""
    installed = [INSTALLED / f"{name}.gz" for name in SHA256]
    return Arrays(_read, CLASSES, installed if all(file.is_file() for file in installed) else [])


def _read() -> list[ArrayPart]:
    tried = []
    ways: list[tuple[str, Callable[[Path], Path]]] = [
        (str(INSTALLED), lambda scratch: INSTALLED),
        (f"apt-get download {PACKAGE}", _unpack_package),
        ("the download by torchvision", _download),
    ]
    for name, way in ways:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                folder = way(Path(scratch))
                files = {file: _idx(folder, file) for file in SHA256}
            except (OSError, RuntimeError, ValueError, EOFError, subprocess.SubprocessError) as error:
                tried.append(f"{name} ({reason(error)})")
                continue
            train, train_labels, test, test_labels = files.values()
            return [(train, train_labels, "train"), (test, test_labels, "test")]
    raise MocoError(
        f"fashion-mnist: not found; tried {'; '.join(tried)}. Install the Debian package"
        f" {PACKAGE}, or go online, or set fetch.source to folder"
    )


def _unpack_package(scratch: Path) -> Path:
    """Unpack the Debian package without root."""
    run = partial(subprocess.run, cwd=scratch, check=True, capture_output=True, text=True, timeout=600)
    run(["apt-get", "download", PACKAGE])
    run(["dpkg-deb", "-x", *(file.name for file in scratch.glob("*.deb")), "."])
    return scratch / INSTALLED.relative_to("/")


def _download(scratch: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(scratch, download=True)
    return scratch / "FashionMNIST" / "raw"


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read an IDX file: two zeros, type, number of dimensions, each in 4 bytes, the data."""
    with gzip.open(folder / f"{name}.gz") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        raise ValueError(f"the SHA-256 of {name} is wrong")
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
