"""Where images come from: folders, lists and public data sets."""

import csv
import gzip
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.config import Fetch
from moco.errors import MocoError
from moco.files import require_free
from moco.sources.manifest import Part

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Of the files unpacked: the archives of the package and of the publisher differ in their gzip headers.
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
STL10_BYTES = 6 * 10**9  # the archive and what is unpacked from it
CIFAR10_BYTES = 4 * 10**8


@dataclass(frozen=True)
class Files:
    """Image files that stay where they are."""

    root: str
    """As the settings gave it, so that the manifest is the same on every machine."""
    walk: Callable[[], Iterator[tuple[str, str, Part]]]
    """Streams (path relative to root, label or empty, part)."""
    classes: list[str] | None = None


@dataclass(frozen=True)
class Arrays:
    """Images that come as arrays; they are stored once, one after the other, in one file."""

    parts: list[tuple[NDArray[np.uint8], NDArray[Any] | None, Part]]
    """(images N x H x W or N x H x W x 3, labels N or None, part)"""
    classes: list[str]
    root: None = None


def open_source(settings: Fetch) -> Files | Arrays:
    """Find the images that the settings name, downloading a public data set if need be.

    Raises:
        MocoError: the source is missing, damaged or cannot be reached; the line says what was tried.
    """
    path = Path(settings.path)
    match settings.source:
        case "fashion-mnist":
            return _fashion_mnist()
        case "cifar10":
            return _cifar10(path)
        case "stl10":
            return _stl10(path)
        case "imagenet":
            return _imagenet(path)
        case "list":
            return _list(path)
        case "folder":
            return _folder(path, settings.labels == "folders")


def _folder(path: Path, labelled: bool) -> Files:
    if not path.is_dir():
        raise MocoError(f"fetch.path = {str(path)!r}: no such folder; name the folder that holds your images")
    if next(_tree(path), None) is None:
        raise MocoError(f"fetch.path = {str(path)!r}: the folder holds no files; put your images there")

    def walk() -> Iterator[tuple[str, str, Part]]:
        for name in _tree(path):
            first, slash, _ = name.partition("/")
            yield name, first if labelled and slash else "", "all"

    return Files(str(path), walk)


def _tree(folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Paths of the files below a folder, sorted in each folder; links are followed, but never in a circle."""
    here = folder.stat()
    above |= {(here.st_dev, here.st_ino)}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        raise MocoError(f"{folder}: this folder may not be read; change its permissions") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            below = entry.stat()
            if (below.st_dev, below.st_ino) not in above:
                yield from _tree(folder / entry.name, f"{prefix}{entry.name}/", above)
        elif entry.is_file() or entry.is_symlink():
            yield prefix + entry.name


def _list(path: Path) -> Files:
    if not path.is_file():
        raise MocoError(f"fetch.path = {str(path)!r}: no such file; source list needs a CSV or Parquet file")
    rows = _parquet_rows if path.suffix.lower() in {".parquet", ".pq"} else _csv_rows

    def walk() -> Iterator[tuple[str, str, Part]]:
        for where, name, label in rows(path):
            if not name:
                raise MocoError(f"{path}, {where}: the column path is empty; fill it or remove the row")
            if not os.path.lexists(path.parent / name):
                raise MocoError(f"{path}, {where}: no such file {name!r} (below {path.parent}); mend or remove the row")
            yield name, label, "all"

    return Files(str(path.parent), walk)


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _require_path_column(path, list(reader.fieldnames or []))
            for row in reader:
                yield f"line {reader.line_num}", row["path"] or "", row.get("label") or ""
    except (UnicodeDecodeError, csv.Error) as error:
        raise MocoError(f"{path}: not a CSV file in UTF-8 ({error}); save it as one, or as Parquet") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MocoError(f"{path}: needs pyarrow to be read; install it, or save the list as CSV") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise MocoError(f"{path}: not a Parquet file ({error}); write it again") from None
    _require_path_column(path, file.schema_arrow.names)
    columns = [name for name in ("path", "label") if name in file.schema_arrow.names]
    number = 0
    for batch in file.iter_batches(columns=columns):
        for row in batch.to_pylist():
            number += 1
            name, label = row["path"], row.get("label")
            yield f"row {number}", "" if name is None else str(name), "" if label is None else str(label)


def _require_path_column(path: Path, columns: list[str]) -> None:
    if "path" not in columns:
        found = ", ".join(columns) or "none"
        raise MocoError(
            f"{path}, line 1: no column path (columns: {found}); call it path, and the other, if any, label"
        )


def _fashion_mnist() -> Arrays:
    tried = []
    ways: list[tuple[str, Callable[[Path], Path]]] = [
        (str(FASHION_MNIST), lambda scratch: FASHION_MNIST),
        (f"apt-get download {FASHION_MNIST_PACKAGE}", _unpack_package),
        ("the download by torchvision", _download_fashion_mnist),
    ]
    for name, find in ways:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                folder = find(Path(scratch))
                files = {file: _idx(folder, file) for file in FASHION_MNIST_SHA256}
            except (OSError, RuntimeError, ValueError, EOFError, subprocess.SubprocessError) as error:
                tried.append(f"{name} ({_reason(error)})")
                continue
            train, train_labels, test, test_labels = files.values()
            return Arrays([(train, train_labels, "train"), (test, test_labels, "test")], list(FASHION_MNIST_CLASSES))
    raise MocoError(
        f"fashion-mnist: cannot be reached; tried {'; '.join(tried)}. Install the Debian package"
        f" {FASHION_MNIST_PACKAGE}, or go online, or set fetch.source to a folder of yours"
    )


def _unpack_package(scratch: Path) -> Path:
    """The Debian package, unpacked without root."""
    run = partial(subprocess.run, cwd=scratch, check=True, capture_output=True, text=True, timeout=600)
    run(["apt-get", "download", FASHION_MNIST_PACKAGE])
    run(["dpkg-deb", "-x", *(file.name for file in scratch.glob("*.deb")), "."])
    return scratch / FASHION_MNIST.relative_to("/")


def _download_fashion_mnist(scratch: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(scratch, download=True)
    return scratch / "FashionMNIST" / "raw"


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, the type, the number of dimensions, these (4 bytes each), the data."""
    with gzip.open(folder / f"{name}.gz") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != FASHION_MNIST_SHA256[name]:
        raise ValueError(f"the SHA-256 of {name} is wrong")
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _reason(error: Exception) -> str:
    """An error from a tool or a library, short enough for a line."""
    if isinstance(error, FileNotFoundError):
        return f"no {error.filename}"
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]


def _cifar10(path: Path) -> Arrays:
    from torchvision.datasets import CIFAR10

    if not (path / CIFAR10.base_folder).is_dir():
        require_free(path, CIFAR10_BYTES, "downloading cifar10")
    train, test = (
        _public("cifar10", path, partial(CIFAR10, path, train=train, download=True)) for train in (True, False)
    )
    parts: list[tuple[NDArray[np.uint8], NDArray[Any] | None, Part]] = [
        (train.data, np.asarray(train.targets), "train"),
        (test.data, np.asarray(test.targets), "test"),
    ]
    return Arrays(parts, list(train.classes))


def _stl10(path: Path) -> Arrays:
    from torchvision.datasets import STL10

    folder = path / STL10.base_folder
    if not folder.is_dir():
        require_free(path, STL10_BYTES, "downloading stl10")
    test = _public("stl10", path, partial(STL10, path, split="test", download=True))

    def images(name: str) -> NDArray[np.uint8]:  # mapped, for the unlabelled images alone are 2.8 GB; stored by column
        return np.memmap(folder / name, np.uint8, mode="r").reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)

    def labels(name: str) -> NDArray[Any]:
        return np.fromfile(folder / name, np.uint8) - 1

    parts: list[tuple[NDArray[np.uint8], NDArray[Any] | None, Part]] = [
        (images("train_X.bin"), labels("train_y.bin"), "train"),
        (images("unlabeled_X.bin"), None, "train"),
        (images("test_X.bin"), labels("test_y.bin"), "test"),
    ]
    return Arrays(parts, list(test.classes))


def _imagenet(path: Path) -> Files:
    from torchvision.datasets import ImageNet

    # The public labels are those of the validation folder, so that folder is the test set here. Folders that
    # were unpacked by other means need neither the archives nor torchvision's meta file.
    for split in ("train", "val"):
        if not any(folder.is_dir() for folder in path.glob(f"{split}/*")):
            _public("imagenet", path, partial(ImageNet, path, split))

    def walk() -> Iterator[tuple[str, str, Part]]:
        for name in _tree(path / "train"):
            yield f"train/{name}", name.split("/")[0], "train"
        for name in _tree(path / "val"):
            yield f"val/{name}", name.split("/")[0], "test"

    return Files(str(path), walk, sorted(entry.name for entry in os.scandir(path / "train") if entry.is_dir()))


def _public(name: str, path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, RuntimeError, EOFError) as error:
        raise MocoError(
            f"{name}: not complete in {path} and torchvision could not get it ({_reason(error)});"
            " put its archives there, or mend fetch.path"
        ) from None
