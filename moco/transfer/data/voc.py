"""PASCAL VOC's folders, and other data in the same layout: boxes, instance masks, label maps."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Problem, set_of_label_maps
from moco.transfer.data.problems import DEFAULT, Checks, checked
from moco.transfer.data.segments import PackedSegments, Segment, encode
from moco.transfer.data.voc_lists import Listed, Split, ids_of, listed, name_of

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
VOID = 255


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
    """Height, width; 0, 0 if it is not stated."""
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
        root: VOCdevkit, the folder that holds it, or, for a single year, that year's folder.
        splits: years and lists, [("2007", "trainval"), ("2012", "trainval")]; the folder of a year
            is VOC + year, and its lists are in ImageSets/Main.
        classes: names in the order of their labels. None: if all names found are VOC's, VOC's
            twenty, else the names found, sorted; a test set is then read with the `classes` of its
            training set.
        masks: read the images of ImageSets/Segmentation instead, with their instances' masks: the
            pixels of object k of the XML are those of number k in SegmentationObject, k from 1.
            Difficult objects, and others without a pixel, are `ignored`.
        checks: how bad images and annotations are handled.

    Returns:
        The images in the order of the lists. An id is the name of the image's file without its
        suffix; if years share names, with the year before it: "2007/000005".

    Raises:
        MocoError: a folder or list is missing, or too much is bad.
    """
    root, problems = Path(root), list[Problem]()
    images: list[Listed] = []
    sizes: list[tuple[int, int]] = []
    objects: list[list[_Numbered]] = []
    for image in listed(root, splits, "Segmentation" if masks else "Main"):
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
        name=name_of(splits),
        classes=classes,
        ids=ids_of(images),
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
        checks: how bad images and annotations are handled.

    Returns:
        The images in the order of the lists, with `semantic_classes` background and then `classes`.

    Raises:
        MocoError: a folder or list is missing, or too much is bad.
    """
    root = Path(root)
    images = listed(root, splits, "Segmentation")
    for folder in dict.fromkeys(image.folder / labels for image in images):
        if not folder.is_dir():
            raise MocoError(f"{folder}: no such folder; label maps are expected there, NAME.png for each image")
    found = set_of_label_maps(
        name=name_of(splits),
        ids=ids_of(images),
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
    height, width = (_pixels(root.findtext(f"size/{side}", "0")) for side in ("height", "width"))
    return Annotation(
        (height, width) if height and width else (0, 0), [_object(element) for element in root.findall("object")]
    )


def _pixels(text: str) -> int:
    """Read a side of an image; 0 where it is none, as `inf` or a number of a hundred digits are."""
    try:
        side = float(text)
    except ValueError:
        return 0
    return int(side) if 0 <= side < 2**31 else 0


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
    """An object, its number in the file from 1, and its mask, if masks are read."""

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
