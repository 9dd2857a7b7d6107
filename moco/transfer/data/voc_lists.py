"""PASCAL VOC's lists of images: which files belong to a year and a list."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moco.errors import MocoError
from moco.sources.names import IMAGE_SUFFIXES
from moco.transfer.data.annotations import Id

JPEG = (".jpg", ".jpeg")
SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/"
OBJECT = re.compile(r"\S+\s+\d+(\s+-?[01])?")
"""A line of an image, the number of one of its objects and maybe a class's 1, 0 or -1."""
Split = tuple[str, str]
"""Year and list: ("2007", "trainval")."""


@dataclass(frozen=True)
class Listed:
    """An image in a list of a year: the year, its folder, the image's name, and its file."""

    year: str
    folder: Path
    name: str
    path: Path

    @property
    def xml(self) -> Path:
        """The annotation file."""
        return self.folder / "Annotations" / f"{self.name}.xml"

    def beside(self, folder: str) -> Path:
        """Give the PNG file of the image's name in a folder of the year."""
        return self.folder / folder / f"{self.name}.png"


def listed(root: Path, splits: Sequence[Split], kind: str) -> list[Listed]:
    """Find the images of lists, in their order.

    A line is an image's name, with spaces or a suffix too, and maybe a class's 1, 0 or -1; or the
    image's path and what follows; or, as in VOC's Layout and Action, the image's name and the
    number of an object, and one image for the lines of its objects. Of files with one name the JPEG
    is the image.

    Args:
        root: VOCdevkit, the folder that holds it, or, for a single year, that year's folder.
        splits: years and lists; a list with a slash is one in ImageSets.
        kind: the folder of the other lists: Main or Segmentation.

    Raises:
        MocoError: a folder or list is missing.
    """
    found: list[Listed] = []
    years = {year for year, _ in splits}
    for year, split in splits:
        folder = _year_folder(root, year, alone=len(years) == 1)
        path = folder / "ImageSets" / (f"{split}.txt" if "/" in split else f"{kind}/{split}.txt")
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, ValueError):
            raise MocoError(
                f"{path}: no such list of images; a line of it is an image's name without .jpg. VOC's are in"
                f" {SOURCE}voc{year}/ (trainval and test are two archives for one folder)"
            ) from None
        images = folder / "JPEGImages"
        if not images.is_dir():
            raise MocoError(f"{images}: no such folder; the images are expected there")
        files = _files_of(images)
        for line in (line.strip() for line in lines if line.strip()):
            names, of_objects = _names_in(line), line.split()[0] if OBJECT.fullmatch(line) else ""
            name = next((name for name in [*names, of_objects] if name in files), names[-1])
            if name == of_objects and found and (found[-1].folder, found[-1].name) == (folder, name):
                continue
            there = files.get(name, [images / f"{name}.jpg"])
            if len(there) > 1 and there[0].suffix.lower() not in JPEG:
                raise MocoError(f"{there[0]} and {there[1].name}: both may be the image {name!r} of {path}; remove one")
            found.append(Listed(year, folder, name, there[0]))
    return found


def _files_of(folder: Path) -> dict[str, list[Path]]:
    """Find the files of each name, JPEGs first."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir(), key=lambda file: (file.suffix.lower() not in JPEG, file.name)):
        if file.suffix.lower() in IMAGE_SUFFIXES - {""}:
            found.setdefault(file.stem, []).append(file)
    return found


def _names_in(line: str) -> list[str]:
    """Give the names that a line can mean, the likeliest first; the last where no such file is."""
    first = line.split()[0]
    if "/" in first:
        return [Path(first).stem]
    names = [line, re.sub(r"\s+-?[01]$", "", line)]
    return [
        *names,
        *(Path(name).stem for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES - {""}),
        names[1],
    ]


def _year_folder(root: Path, year: str, alone: bool) -> Path:
    for folder in (root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if folder.is_dir():
            return folder
    other_year = root.name.startswith("VOC2") and root.name != f"VOC{year}"
    if alone and not other_year and (root / "ImageSets").is_dir():
        return root
    if (root / "Annotations").is_dir() and not (root / "ImageSets").is_dir():
        raise MocoError(
            f"{root}: Annotations without ImageSets, as Label Studio exports; write the names of the images, a line each,"
            f" into ImageSets/Main/LIST.txt, and name the folder of the images JPEGImages"
        )
    if any(root.glob("train/*.xml")):
        raise MocoError(
            f"{root}: images and XML files side by side, as Roboflow exports for VOC; export it as COCO, or move them into"
            " JPEGImages, Annotations and ImageSets/Main"
        )
    raise MocoError(
        f"{root}: no folder VOC{year} in it; expected is {root / 'VOCdevkit' / f'VOC{year}'} with Annotations,"
        f" ImageSets and JPEGImages, as in VOC's archives ({SOURCE}) or your own"
    )


def name_of(splits: Sequence[Split]) -> str:
    """Name a set: "VOC2007 trainval + VOC2012 trainval"."""
    return " + ".join(f"VOC{year} {split}" for year, split in splits)


def ids_of(images: Sequence[Listed]) -> list[Id]:
    """Give each image its name as id, with the year before it if years share names."""
    year_of: dict[str, str] = {}
    shared = any(year_of.setdefault(image.name, image.year) != image.year for image in images)
    return [f"{image.year}/{image.name}" if shared else image.name for image in images]
