"""COCO's JSON files, instances and keypoints, and LVIS's."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Federated, Problem
from moco.transfer.data.problems import DEFAULT, Checks, Listing, checked, good_segment
from moco.transfer.data.segments import PackedSegments, Segment, area_of

COCO_ARCHIVES = "annotations_trainval2017.zip from https://cocodataset.org/#download has them in annotations/"
LVIS_ARCHIVES = "lvis_v1_train.json.zip and lvis_v1_val.json.zip are at https://www.lvisdataset.org/dataset"


def read_coco(
    json_file: Path | str, images: Path | str, *, masks: bool = True, checks: Checks = DEFAULT
) -> AnnotatedSet:
    """Read instances_*.json or person_keypoints_*.json; crowds are `ignored`.

    Args:
        json_file: with images, annotations and categories.
        images: the folder that the file names are relative to.
        masks: read the segmentations, polygons and both kinds of RLE; if no annotation has one, the
            set has none. False: annotations need none.
        checks: how bad images and annotations are handled. Bad is also an annotation of an image or
            a category that is not listed, and one without a usable segmentation if others have one.
            A polygon of fewer than three points is left out and counted, and its annotation kept if
            another polygon is left.

    Returns:
        Images in the file's order; labels in the order of the category ids. `areas` are the file's,
        else those of the segments, else of the boxes.

    Raises:
        MocoError: a file or folder is missing or not in COCO's format, or too much is bad.
    """
    path, folder = Path(json_file), Path(images)
    content = _load(path, COCO_ARCHIVES)
    _require_folder(folder)

    def file_of(image: dict[str, Any]) -> Path:
        return folder / image["file_name"]

    found, problems = _read(path, content, file_of, masks)
    return checked(found, problems, checks)


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
    except KeyError as error:
        raise MocoError(f"{path}: {error} is missing or unknown; {LVIS_ARCHIVES}") from None
    return checked(found, problems, checks)


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
            raise MocoError(f"{path}: no list {key!r}; instances or keypoints in COCO's format are expected")
    return content


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise MocoError(f"{folder}: no such folder; the images are expected there")


def _read(
    path: Path, content: dict[str, Any], file_of: Callable[[dict[str, Any]], Path], masks: bool
) -> tuple[AnnotatedSet, list[Problem]]:
    """Read all images, and the annotations that can become rows; the others are problems."""
    problems: list[Problem] = []
    classes, category_ids = _categories(path, content["categories"])
    names, flip_pairs = _keypoints(path, content["categories"])
    ids, paths, sizes = _images(path, content["images"], file_of)
    position_of: dict[Any, int] = {}
    for n, name in enumerate(ids):
        position_of.setdefault(name, n)
    label_of = {category: label for label, category in enumerate(category_ids)}

    kept: list[dict[str, Any]] = []
    for entry in content["annotations"]:
        flaw = _flaw(entry, position_of, label_of, len(names))
        if flaw is None:
            kept.append(entry)
        else:
            image_id = entry.get("image_id") if isinstance(entry, dict) else None
            where = paths[position_of[image_id]] if _is_in(image_id, position_of) else path
            problems.append(Problem(str(where), flaw, "annotation"))
    image = np.array([position_of[entry["image_id"]] for entry in kept], np.int64)
    order = np.argsort(image, kind="stable")
    kept, image = [kept[row] for row in order.tolist()], image[order]

    segments: list[Segment] | None = None
    if masks and any(entry.get("segmentation") for entry in kept):
        segments, rows = [], []
        for row, n in enumerate(image.tolist()):
            height, width = sizes[n].tolist()
            segment, reason = good_segment(kept[row].get("segmentation") or [], height, width)
            if segment:
                segments.append(segment)
                rows.append(row)
            else:
                reason = reason or "has no segmentation, as others have; add it, or read without masks"
            if reason:
                problems.append(Problem(str(paths[n]), f"{_called(kept[row])}: {reason}", "annotation"))
        kept, image = [kept[row] for row in rows], image[rows]

    boxes = np.array([entry["bbox"] for entry in kept], np.float64).reshape(-1, 4)
    areas = [entry.get("area") for entry in kept]
    for row, area in enumerate(areas):
        if not isinstance(area, int | float):
            height, width = sizes[image[row]].tolist()
            areas[row] = area_of(segments[row], height, width) if segments else boxes[row, 2:].prod()
    boxes[:, 2:] += boxes[:, :2]
    keypoints = None
    if names:
        none = [0] * (3 * len(names))
        keypoints = np.array([entry.get("keypoints") or none for entry in kept], np.float32)
        keypoints = keypoints.reshape(len(kept), len(names), 3)
    found = AnnotatedSet(
        name=path.stem,
        classes=classes,
        ids=ids,
        paths=paths,
        sizes=sizes,
        first=np.searchsorted(image, np.arange(len(ids) + 1)).astype(np.int64),
        boxes=boxes.astype(np.float32),
        labels=np.array([label_of[entry["category_id"]] for entry in kept], np.int64),
        areas=np.array(areas, np.float32),
        ignored=np.array([bool(entry.get("iscrowd")) for entry in kept], bool),
        annotation_ids=np.array([entry["id"] for entry in kept], np.int64),
        segments=None if segments is None else PackedSegments(segments),
        keypoints=keypoints,
        keypoint_names=names,
        flip_pairs=flip_pairs,
        category_ids=category_ids,
    )
    return found, problems


def _categories(path: Path, categories: list[Any]) -> tuple[list[str], list[int]]:
    """Names and ids in the order of the ids."""
    try:
        names = {int(category["id"]): str(category["name"]) for category in categories}
    except (KeyError, TypeError, ValueError):
        raise MocoError(f"{path}: a category without an id or a name; give each both") from None
    if len(names) < len(categories):
        raise MocoError(f"{path}: two categories have the same id; give each its own")
    return [names[number] for number in sorted(names)], sorted(names)


def _keypoints(path: Path, categories: list[Any]) -> tuple[list[str], list[tuple[int, int]]]:
    """Names, and the pairs that differ only in left and right."""
    lists = [list(category["keypoints"]) for category in categories if category.get("keypoints")]
    if not lists:
        return [], []
    names = lists[0]
    if any(other != names for other in lists):
        raise MocoError(f"{path}: categories with different keypoints; give each kind a file of its own")
    position = {name: number for number, name in enumerate(names)}
    partners = [(number, position.get(name.replace("left", "right"))) for name, number in position.items()]
    return names, [(left, right) for left, right in partners if right is not None and right != left]


def _images(
    path: Path, images: list[Any], file_of: Callable[[dict[str, Any]], Path]
) -> tuple[list[int | str], list[Path], NDArray[np.int32]]:
    try:
        sizes = np.array([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2)
        return [image["id"] for image in images], [file_of(image) for image in images], sizes
    except (KeyError, TypeError, ValueError) as error:
        raise MocoError(
            f"{path}: an image that cannot be used ({type(error).__name__}: {error}); each needs id, file_name, height, width"
        ) from None


def _flaw(entry: Any, position_of: dict[Any, int], label_of: dict[int, int], keypoints: int) -> str | None:
    """Why an annotation cannot become a row."""
    if not isinstance(entry, dict):
        return f"an annotation is {entry!r:.40}"
    if not isinstance(entry.get("id"), int):
        return f"an annotation's id is {entry.get('id')!r:.40}, not a whole number"
    if not _is_in(entry.get("image_id"), position_of):
        return f"{_called(entry)}: image {entry.get('image_id')!r:.40} is not listed"
    if not _is_in(entry.get("category_id"), label_of):
        return f"{_called(entry)}: category {entry.get('category_id')!r:.40} is not listed"
    box = entry.get("bbox")
    if not _are_numbers(box, 4):
        return f"{_called(entry)}: its bbox is {box!r:.40}, not four numbers"
    if keypoints and entry.get("keypoints") and not _are_numbers(entry["keypoints"], 3 * keypoints):
        return f"{_called(entry)}: its keypoints are not {keypoints} times x, y and visibility"
    return None


def _called(entry: dict[str, Any]) -> str:
    return f"annotation {entry['id']}"


def _is_in(key: Any, known: dict[Any, int]) -> bool:
    return isinstance(key, int | str) and key in known


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(value, int | float) for value in values)
