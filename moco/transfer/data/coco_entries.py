"""The entries of COCO's JSON files: what each must hold, and why one cannot be used."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.transfer.data.annotations import Id


def order_of(ids: Sequence[Id]) -> list[int]:
    """Give the places of ids in the order in which pycocotools sorts them.

    Numbers come before texts, which it refuses to mix.
    """
    return sorted(range(len(ids)), key=lambda n: (isinstance(ids[n], str), ids[n]))


def categories_of(path: Path, categories: list[Any]) -> tuple[list[str], list[Id]]:
    """Names and ids in the order of the ids.

    Raises:
        MocoError: one lacks an id or a name, or has the id of another.
    """
    try:
        names = {category["id"]: str(category["name"]) for category in categories}
    except (KeyError, TypeError):
        raise MocoError(f"{path}: a category without an id or a name; give each both") from None
    _require_ids(path, "a category", names)
    if len(names) < len(categories):
        raise MocoError(f"{path}: two categories have the same id; give each its own")
    ids = list(names)
    ids = [ids[place] for place in order_of(ids)]
    return [names[name] for name in ids], ids


def require_names(path: Path, classes: list[str], category_ids: list[Id], annotations: list[Any]) -> None:
    """Refuse two categories of one name if both have annotations: their figures would be mixed.

    Raises:
        MocoError: there are such two.
    """
    if len(set(classes)) == len(classes):
        return
    used = {
        entry["category_id"] for entry in annotations if isinstance(entry, dict) and is_id(entry.get("category_id"))
    }
    first: dict[str, Id] = {}
    for name, category in zip(classes, category_ids, strict=True):
        if category in used and first.setdefault(name, category) != category:
            raise MocoError(
                f"{path}: categories {first[name]!r} and {category!r} are both {name!r}; give each its own name"
            )


def layout_of(content: Any) -> str | None:
    """Name the program whose JSON this is, if it is known and not COCO's."""
    first = content[0] if isinstance(content, list) and content else content
    if not isinstance(first, dict):
        return None
    if isinstance(content, list):
        keys = {"data": "Label Studio's own JSON; export it as COCO", "image": "Create ML's JSON"}
        return next((name for key, name in keys.items() if key in first and "annotations" in first), None)
    if "shapes" in first:
        return "labelme's JSON of one image"
    return "VIA's JSON" if any(isinstance(value, dict) and "regions" in value for value in first.values()) else None


def keypoints_of(path: Path, categories: list[Any]) -> tuple[list[str], list[tuple[int, int]]]:
    """Names, and the pairs that differ only in left and right.

    Raises:
        MocoError: the names are no list of texts, or differ between categories.
    """
    lists = [category["keypoints"] for category in categories if category.get("keypoints")]
    if not lists:
        return [], []
    names = lists[0]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MocoError(f"{path}: a category's keypoints are {names!r:.40}; list their names")
    if any(other != names for other in lists):
        raise MocoError(f"{path}: categories with different keypoints; give each kind a file of its own")
    position = {name: number for number, name in enumerate(names)}
    partners = [(number, position.get(name.replace("left", "right"))) for name, number in position.items()]
    return names, [(left, right) for left, right in partners if right is not None and right != left]


def images_of(
    path: Path, images: list[Any], file_of: Callable[[dict[str, Any]], Path]
) -> tuple[list[Id], list[Path], NDArray[np.int32]]:
    """Ids, files and sizes (height, width).

    Raises:
        MocoError: one lacks something.
    """
    try:
        sizes = np.array([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2)
        ids, paths = [image["id"] for image in images], [file_of(image) for image in images]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise MocoError(
            f"{path}: an image that cannot be used ({type(error).__name__}: {error}); each needs id, file_name, height, width"
        ) from None
    _require_ids(path, "an image", ids)
    return ids, paths, sizes


def flaw_of(entry: Any, position_of: dict[Any, int], label_of: dict[Any, int], keypoints: int) -> str | None:
    """Say why an annotation cannot become a row, or None."""
    if not isinstance(entry, dict):
        return f"an annotation is {entry!r:.40}"
    if not is_id(entry.get("id")):
        return f"an annotation's id is {entry.get('id')!r:.40}; give it a number or a text"
    for key, known in (("image_id", position_of), ("category_id", label_of)):
        if not is_in(name := entry.get(key), known):
            return f"{called(entry)}: {key.removesuffix('_id')} {name!r:.40} is not listed{_alike(name, known)}"
    box = entry.get("bbox")
    if not _are_finite(box, 4):
        return f"{called(entry)}: its bbox is {box!r:.40}, not four finite numbers; correct or remove it"
    if is_crowd(entry) is None:
        return f"{called(entry)}: its iscrowd is {entry['iscrowd']!r:.40}; write 0 or 1"
    if (area := entry.get("area")) is not None and not _is_finite(area):
        return f"{called(entry)}: its area is {area!r:.40}; write square pixels, or leave it out"
    if keypoints and (flaw := _flaw_of_keypoints(entry, keypoints)):
        return f"{called(entry)}: {flaw}"
    return None


def _flaw_of_keypoints(entry: dict[str, Any], keypoints: int) -> str | None:
    points, labelled = entry.get("keypoints"), entry.get("num_keypoints")
    if points and not _are_finite(points, 3 * keypoints):
        return f"its keypoints are not {keypoints} times x, y and visibility"
    if labelled is not None and not (_is_finite(labelled) and labelled == int(labelled)):
        return f"its num_keypoints is {labelled!r:.40}; write a whole number, or leave it out"
    return None


def is_crowd(entry: dict[str, Any]) -> bool | None:
    """Tell whether an annotation is of a crowd; None: what it states is neither yes nor no."""
    value = entry.get("iscrowd")
    if isinstance(value, str):
        return {"": False, "0": False, "1": True, "false": False, "true": True}.get(value.strip().lower())
    return bool(value) if value is None or isinstance(value, int | float) else None


def called(entry: dict[str, Any]) -> str:
    """Name an annotation."""
    return f"annotation {entry['id']}"


def is_id(name: Any) -> bool:
    """Tell whether a value can be an id: a text or a finite number."""
    return isinstance(name, int | str) or (isinstance(name, float) and math.isfinite(name))


def is_in(name: Any, known: dict[Any, int]) -> bool:
    """Tell whether a value, maybe no id at all, is among ids."""
    return is_id(name) and name in known


def _require_ids(path: Path, what: str, names: Iterable[Any]) -> None:
    for name in names:
        if not is_id(name):
            raise MocoError(f"{path}: {what} has the id {name!r}; give it a number or a text")


def _alike(name: Any, known: dict[Any, int]) -> str:
    """Hint at an id of another type, which pycocotools tells apart too."""
    other: Any = str(name)
    if isinstance(name, str):
        other = int(name) if name.isdecimal() else None
    return f", {other!r} is; write both alike" if is_id(name) and is_in(other, known) else ""


def _are_finite(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(_is_finite, values))


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False
