"""PASCAL VOC's folders, and data laid out like them: boxes, instance masks, label maps."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.errors import MocoError
from moco.sources.manifest import IMAGE_SUFFIXES
from moco.transfer.data.annotations import AnnotatedSet, Problem, set_of_label_maps
from moco.transfer.data.problems import DEFAULT, Checks, checked
from moco.transfer.data.segments import PackedSegments, Segment, encode

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/"
VOID = 255

Split = tuple[str, str]
"""Year and list: ("2007", "trainval")."""


@dataclass(frozen=True)
class Object:
    """An <object> of an XML file; parts of it, such as hands, are not."""

    name: str
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels, from 0, half-open. VOC's own count from 1 and are closed."""
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """An XML file."""

    size: tuple[int, int]
    """Height, width; 0, 0 if it does not say."""
    objects: list[Object | str]
    """In the file's order; a text says why one cannot be used."""


def read_voc(
    root: Path | str,
    splits: Sequence[Split],
    *,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    checks: Checks = DEFAULT,
) -> AnnotatedSet:
    """Read the boxes of one or more lists of images as one set; difficult objects are `ignored`.

    Args:
        root: VOCdevkit, the folder that it is in, or, if only one year is asked for, that year's
            folder.
        splits: years and lists, [("2007", "trainval"), ("2012", "trainval")]; the folder of a year
            is VOC + year, and its lists are in ImageSets/Main.
        classes: names in the order of their labels. None: if all names found are VOC's, VOC's
            twenty, else the names found, sorted; a test set is then read with the `classes` of its
            training set.
        masks: read the images of ImageSets/Segmentation instead, with their instances' masks: the
            pixels of object k of the XML are those of number k in SegmentationObject, k from 1.
            Difficult objects, and others without a pixel, are `ignored`.
        checks: what is done about what is wrong.

    Returns:
        The images in the order of the lists. An id is the name of the image's file without its
        suffix; if years share names, with the year before it: "2007/000005".

    Raises:
        MocoError: a folder or list is missing, or too much is wrong.
    """
    root, problems = Path(root), list[Problem]()
    images: list[_Listed] = []
    sizes: list[tuple[int, int]] = []
    objects: list[list[_Numbered]] = []
    for image in _listed(root, splits, "Segmentation" if masks else "Main"):
        annotation = read_xml(image.xml)
        if isinstance(annotation, str):
            problems.append(Problem(str(image.xml), annotation, "image"))
            continue
        size, numbers = annotation.size, None
        if masks:
            path = image.beside("SegmentationObject")
            read = _object_numbers(path, annotation)
            if isinstance(read, str):
                problems.append(Problem(str(path), read, "image"))
                continue
            size, numbers = (read.shape[0], read.shape[1]), read
        images.append(image)
        sizes.append(size)
        objects.append([])
        for number, one in enumerate(annotation.objects, start=1):
            if isinstance(one, str):
                problems.append(Problem(str(image.xml), f"object {number}: {one}", "annotation"))
            else:
                objects[-1].append(_Numbered.of(number, one, numbers))

    classes = list(_classes_of(objects) if classes is None else classes)
    for n, image in enumerate(images):
        for one in objects[n]:
            if one.name not in classes:
                reason = f"object {one.number}: {one.name!r} is none of the classes {', '.join(classes)}"
                problems.append(Problem(str(image.xml), reason, "annotation"))
        objects[n] = [one for one in objects[n] if one.name in classes]

    all_objects = [one for of_image in objects for one in of_image]
    boxes = np.array([one.box for one in all_objects], np.float32).reshape(-1, 4)
    ignored = np.array([one.difficult for one in all_objects], bool)
    areas, segments = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), None
    if masks:
        areas, segments = (
            np.array([one.pixels for one in all_objects], np.float32),
            PackedSegments(one.segment for one in all_objects),
        )
        ignored |= areas == 0
    found = AnnotatedSet(
        name=_name(splits),
        classes=classes,
        ids=_ids(images),
        paths=[image.path for image in images],
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        first=np.cumsum([0, *(len(of_image) for of_image in objects)]),
        boxes=boxes,
        labels=np.array([classes.index(one.name) for one in all_objects], np.int64),
        areas=areas,
        ignored=ignored,
        annotation_ids=np.arange(1, len(all_objects) + 1),
        segments=segments,
    )
    return checked(found, problems, checks)


def read_voc_segmentation(
    root: Path | str,
    splits: Sequence[Split],
    *,
    classes: Sequence[str] = VOC_CLASSES,
    labels: str = "SegmentationClass",
    checks: Checks = DEFAULT,
) -> AnnotatedSet:
    """Read images with label maps; the set has no instances.

    The 10,582 training images that most papers use, labelled by Hariharan et al. (2011), are splits
    [("2012", "train_aug")] with labels "SegmentationClassAug".

    Args:
        root: as for `read_voc`.
        splits: years and lists in ImageSets/Segmentation; a list with a slash, as
            "SegmentationAug/train_aug", is one in ImageSets. A line is a name, or the image's path
            and what follows.
        classes: the names of the label maps' numbers from 1; 0 is background, 255 ignored.
        labels: the folder of the label maps, within a year's.
        checks: what is done about what is wrong.

    Returns:
        The images in the order of the lists, with `semantic_classes` background and then `classes`.

    Raises:
        MocoError: a folder or list is missing, or too much is wrong.
    """
    root = Path(root)
    images = _listed(root, splits, "Segmentation")
    for folder in dict.fromkeys(image.folder / labels for image in images):
        if not folder.is_dir():
            raise MocoError(f"{folder}: no such folder; label maps are expected there, NAME.png for each image")
    found = set_of_label_maps(
        name=_name(splits),
        ids=_ids(images),
        paths=[image.path for image in images],
        label_maps=[image.beside(labels) for image in images],
        semantic_classes=["background", *classes],
    )
    return checked(found, [], checks)


def read_xml(path: Path) -> Annotation | str:
    """Read an annotation file; a text says why it cannot be used."""
    try:
        root = ET.parse(path).getroot()
    except FileNotFoundError:
        return "no such file; VOC's own test images after 2007 have no public annotations"
    except (ET.ParseError, OSError, ValueError, LookupError) as error:  # the last: an unknown encoding
        return f"cannot be read as XML ({error})"
    if root.tag != "annotation":
        return f"its element is <{root.tag}>, not <annotation>"
    try:
        size = int(float(root.findtext("size/height", "0"))), int(float(root.findtext("size/width", "0")))
    except ValueError:
        size = 0, 0
    return Annotation(size, [_object(element) for element in root.findall("object")])


def _object(element: ET.Element) -> Object | str:
    name = (element.findtext("name") or "").strip()
    if not name:
        return "has no name"
    corners = [element.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x0, y0, x1, y1 = (float(corner or "") for corner in corners)  # VOC2011 has 45.70000076293945
    except ValueError:
        return f"({name}) its bndbox is not four numbers: {', '.join(str(corner) for corner in corners)}"
    return Object(name, (x0 - 1, y0 - 1, x1, y1), (element.findtext("difficult") or "0").strip() == "1")


@dataclass(frozen=True)
class _Numbered(Object):
    """An object, its number in the file from 1, and what SegmentationObject says of it."""

    number: int
    segment: Segment
    pixels: int

    @classmethod
    def of(cls, number: int, one: Object, numbers: NDArray[np.uint8] | None) -> "_Numbered":
        mask = np.zeros(0, bool) if numbers is None else numbers == number
        pixels = int(mask.sum())
        return cls(one.name, one.box, one.difficult, number, encode(mask) if pixels else [], pixels)


def _classes_of(objects: Sequence[Sequence[Object]]) -> Sequence[str]:
    names = {one.name for of_image in objects for one in of_image}
    return VOC_CLASSES if names <= set(VOC_CLASSES) else sorted(names)


def _object_numbers(path: Path, annotation: Annotation) -> NDArray[np.uint8] | str:
    """Height x width: 0 background, k the k-th object, 255 void."""
    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L"):
                return f"has pixels of mode {file.mode}, not one 8-bit number each"
            numbers = np.array(file)
    except FileNotFoundError:
        return "no such file"
    except Exception as error:  # Pillow's plug-ins raise nearly every kind of error on broken files
        return f"cannot be read ({type(error).__name__})"
    if all(annotation.size) and numbers.shape != annotation.size:
        return (
            f"is {numbers.shape[1]} x {numbers.shape[0]} pixels, the image {annotation.size[1]} x {annotation.size[0]}"
        )
    last = int(numbers[numbers != VOID].max(initial=0))
    if last > len(annotation.objects):
        return f"has object {last}, the XML file only {len(annotation.objects)}"
    return numbers


@dataclass(frozen=True)
class _Listed:
    """An image in a list of a year."""

    year: str
    folder: Path
    name: str
    path: Path

    @property
    def xml(self) -> Path:
        return self.folder / "Annotations" / f"{self.name}.xml"

    def beside(self, folder: str) -> Path:
        return self.folder / folder / f"{self.name}.png"


def _listed(root: Path, splits: Sequence[Split], kind: str) -> list[_Listed]:
    found: list[_Listed] = []
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
            found.append(_Listed(year, folder, name, files.get(name, images / f"{name}.jpg")))
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


def _name(splits: Sequence[Split]) -> str:
    return " + ".join(f"VOC{year} {split}" for year, split in splits)


def _ids(images: Sequence[_Listed]) -> list[int | str]:
    year_of: dict[str, str] = {}
    shared = any(year_of.setdefault(image.name, image.year) != image.year for image in images)
    return [f"{image.year}/{image.name}" if shared else image.name for image in images]
