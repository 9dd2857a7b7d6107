"""COCO's JSON files, instances and keypoints, and LVIS's."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Federated, Id, Problem
from moco.transfer.data.coco_entries import (
    called,
    categories_of,
    flaw_of,
    images_of,
    is_crowd,
    is_in,
    keypoints_of,
    layout_of,
    require_names,
)
from moco.transfer.data.problems import DEFAULT, Checks, Listing, checked, image_of_each
from moco.transfer.data.segment_checks import good_segment
from moco.transfer.data.segments import PackedSegments, Segment, area_of

COCO_ARCHIVES = "annotations_trainval2017.zip from https://cocodataset.org/#download has them in annotations/"
LOOKED_FOR = 100
"""Images that are looked for in a folder before another one is taken for theirs."""
LVIS_ARCHIVES = "lvis_v1_train.json.zip and lvis_v1_val.json.zip are at https://www.lvisdataset.org/dataset"


def read_coco(
    json_file: Path | str, images: Path | str, *, masks: bool = True, checks: Checks = DEFAULT
) -> AnnotatedSet:
    """Read instances_*.json or person_keypoints_*.json; crowds are `ignored`.

    Args:
        json_file: with images, annotations and categories.
        images: the folder that the file names are relative to. If none of the first `LOOKED_FOR`
            images is there, but some are beside the JSON or in a folder `images`, that is taken and
            said: as Roboflow, CVAT and Label Studio export.
        masks: read the segmentations, polygons and both kinds of RLE; if no annotation has one, the
            set has none. False: annotations need none.
        checks: how bad images and annotations are handled. Bad is also an annotation of an image or
            a category that is not listed, and one without a usable segmentation if others have one:
            its box stays, its segment is empty. A polygon of no use is left out and counted, and
            the others of its annotation stay (`moco.transfer.data.segment_checks`).

    Returns:
        Images in the file's order; labels in the order of the category ids. Ids may be numbers or
        texts. `areas` are the file's, else those of the segments, else of the boxes. Boxes beyond
        their image, without an area or repeated under one id stay, as pycocotools counts them.

    Raises:
        MocoError: a file or folder is missing or not in COCO's format, or too much is bad.
    """
    path = Path(json_file)
    content = _load(path, COCO_ARCHIVES)
    folder = _folder_of(path, Path(images), content["images"])
    _require_folder(folder)

    def file_of(image: dict[str, Any]) -> Path:
        return folder / image["file_name"]

    found, problems = _read(path, content, file_of, masks)
    return _with_areas(checked(found, problems, checks))


def read_lvis(
    json_file: Path | str, images: Path | str, *, masks: bool = True, checks: Checks = DEFAULT
) -> AnnotatedSet:
    """Read lvis_v1_*.json as `read_coco` does, and what was looked for in `federated`.

    Args:
        json_file: LVIS v1's; its images are COCO's of 2017, val's from train2017 and val2017.
        images: a folder with train2017 and val2017, or with the images themselves.
        masks: as for `read_coco`.
        checks: as for `read_coco`.

    Raises:
        MocoError: as `read_coco`; also if the federated lists are missing or name an unknown
            category.
    """
    path, folder = Path(json_file), Path(images)
    content = _load(path, LVIS_ARCHIVES)
    _require_folder(folder)
    listing = Listing()

    def file_of(image: dict[str, Any]) -> Path:
        parts = Path(image["coco_url"] if "coco_url" in image else image["file_name"]).parts
        nested = folder.joinpath(*parts[-2:])
        return nested if listing.has(nested) else folder / parts[-1]

    found, problems = _read(path, content, file_of, masks)
    label_of = {category: label for label, category in enumerate(found.category_ids)}
    try:
        frequency_of = {category["id"]: category["frequency"] for category in content["categories"]}
        found.federated = Federated(
            frequency=[frequency_of[category] for category in found.category_ids],
            negative=[[label_of[c] for c in image["neg_category_ids"]] for image in content["images"]],
            not_exhaustive=[[label_of[c] for c in image["not_exhaustive_category_ids"]] for image in content["images"]],
        )
    except (KeyError, TypeError) as error:
        raise MocoError(f"{path}: {error} is missing or unknown; {LVIS_ARCHIVES}") from None
    return _with_areas(checked(found, problems, checks))


def _load(path: Path, archives: str) -> dict[str, Any]:
    collecting = gc.isenabled()
    gc.disable()  # it would walk millions of new lists repeatedly, and free nothing
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; {archives}") from None
    except (OSError, ValueError) as error:
        raise MocoError(f"{path}: cannot be read as JSON ({error}); download it again") from None
    finally:
        if collecting:
            gc.enable()
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            other = f" (this looks like {whose})" if (whose := layout_of(content)) else ""
            raise MocoError(f"{path}: no list {key!r}{other}; instances or keypoints in COCO's format are expected")
    return content


def _folder_of(path: Path, images: Path, entries: list[Any]) -> Path:
    """Find the folder that the names of the images are relative to, by the first of them."""
    try:
        names = [entry["file_name"] for entry in entries[:LOOKED_FOR]]
        folders = [images, path.parent, images / "images", path.parent / "images", path.parent.parent / "images"]
        found = next((folder for folder in folders if any((folder / name).is_file() for name in names)), images)
    except (KeyError, TypeError, OSError, ValueError):  # `images_of` says what is wrong
        return images
    if found != images:
        print(f"{path}: its images are not in {images}; those in {found} are taken", flush=True)
    return found


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise MocoError(f"{folder}: no such folder; the images are expected there")


def _read(
    path: Path, content: dict[str, Any], file_of: Callable[[dict[str, Any]], Path], masks: bool
) -> tuple[AnnotatedSet, list[Problem]]:
    """Read all images, and the annotations that can become rows; the others are problems.

    An area that is not stated is not a number; `_with_areas` measures it when sizes are checked.
    """
    problems: list[Problem] = []
    classes, category_ids = categories_of(path, content["categories"])
    require_names(path, classes, category_ids, content["annotations"])
    names, flip_pairs = keypoints_of(path, content["categories"])
    ids, paths, sizes = images_of(path, content["images"], file_of)
    position_of: dict[Any, int] = {}
    for n, name in enumerate(ids):
        position_of.setdefault(name, n)
    label_of = {category: label for label, category in enumerate(category_ids)}

    kept: list[dict[str, Any]] = []
    for entry in content["annotations"]:
        flaw = flaw_of(entry, position_of, label_of, len(names))
        if flaw is None:
            kept.append(entry)
        else:
            image_id = entry.get("image_id") if isinstance(entry, dict) else None
            where = paths[position_of[image_id]] if is_in(image_id, position_of) else path
            problems.append(Problem(str(where), flaw, "annotation"))
    last = {entry["id"]: entry for entry in kept}
    kept = [last[entry["id"]] for entry in kept]  # pycocotools looks objects up by id, so that the last one counts
    image = np.array([position_of[entry["image_id"]] for entry in kept], np.int64)
    order = np.argsort(image, kind="stable")
    kept, image = [kept[row] for row in order.tolist()], image[order]

    segments: list[Segment] | None = None
    if masks and any(entry.get("segmentation") for entry in kept):
        segments = []
        for entry, n in zip(kept, image.tolist(), strict=True):
            height, width = sizes[n].tolist()
            segment, reason = good_segment(entry.get("segmentation") or [], height, width)
            if not segment:
                reason = reason or "has no segmentation, as others have; add it, or read without masks"
            if reason:
                problems.append(Problem(str(paths[n]), f"{called(entry)}: {reason}", "annotation", stays=True))
            segments.append(segment)

    stated = np.array([entry["bbox"] for entry in kept], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore"):  # a box of 1e300 pixels is not finite then, and listed
        boxes = np.concatenate([stated[:, :2], stated[:, :2] + stated[:, 2:]], axis=1).astype(np.float32)
    keypoints = labelled = None
    if names:
        none = [0] * (3 * len(names))
        keypoints = np.array([entry.get("keypoints") or none for entry in kept], np.float64)
        keypoints = keypoints.reshape(len(kept), len(names), 3)
        counted = (keypoints[:, :, 2] > 0).sum(axis=1).tolist()
        numbers = [entry.get("num_keypoints") for entry in kept]
        labelled = np.array(
            [own if said is None else int(said) for said, own in zip(numbers, counted, strict=True)], np.int64
        )
    found = AnnotatedSet(
        name=path.stem,
        classes=classes,
        ids=ids,
        paths=paths,
        sizes=sizes,
        first=np.searchsorted(image, np.arange(len(ids) + 1)).astype(np.int64),
        boxes=boxes,
        labels=np.array([label_of[entry["category_id"]] for entry in kept], np.int64),
        areas=np.array([np.nan if (area := entry.get("area")) is None else area for entry in kept], np.float64),
        ignored=np.array([bool(is_crowd(entry)) for entry in kept], bool),
        annotation_ids=_column([entry["id"] for entry in kept]),
        segments=None if segments is None else PackedSegments(segments),
        keypoints=keypoints,
        num_keypoints=labelled,
        stated=stated,
        keypoint_names=names,
        flip_pairs=flip_pairs,
        category_ids=category_ids,
    )
    return found, problems


def _column(ids: list[Id]) -> NDArray[Any]:
    """Whole numbers where all are, else objects, which keep their type."""
    if all(type(name) is int and abs(name) < 2**63 for name in ids):
        return np.array(ids, np.int64)
    column = np.empty(len(ids), object)
    column[:] = ids
    return column


def _with_areas(found: AnnotatedSet) -> AnnotatedSet:
    """Measure the areas that are not stated: those of the segments, else of the boxes."""
    assert found.stated is not None
    image = image_of_each(found)
    for row in np.flatnonzero(np.isnan(found.areas)).tolist():
        height, width = found.sizes[image[row]].tolist()
        segment = found.segments and found.segments[row]
        found.areas[row] = area_of(segment, height, width) if segment else found.stated[row, 2:].prod()
    return found
