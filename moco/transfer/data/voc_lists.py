"""PASCAL VOC's lists of images: which files belong to a year and a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moco.errors import MocoError
from moco.sources.manifest import IMAGE_SUFFIXES
from moco.transfer.data.annotations import Id

SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/"
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
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError):
            raise MocoError(
                f"{path}: no such list of images; a line of it is an image's name without .jpg. VOC's are in"
                f" {SOURCE}voc{year}/ (trainval and test are two archives for one folder)"
            ) from None
        images = folder / "JPEGImages"
        if not images.is_dir():
            raise MocoError(f"{images}: no such folder; the images are expected there")
        files = {file.stem: file for file in images.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES - {""}}
        for first in (line.split()[0] for line in lines if line.strip()):
            name = Path(first).stem if "/" in first else first
            found.append(Listed(year, folder, name, files.get(name, images / f"{name}.jpg")))
    return found


def _year_folder(root: Path, year: str, alone: bool) -> Path:
    for folder in (root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if folder.is_dir():
            return folder
    other_year = root.name.startswith("VOC2") and root.name != f"VOC{year}"
    if alone and not other_year and (root / "ImageSets").is_dir():
        return root
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
