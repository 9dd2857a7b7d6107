"""Pictures of predictions beside ground truth: boxes, masks, keypoints and label maps."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from PIL import Image

from moco.drawing import FAINT, GRAY, MUTED, PAGE, bare, class_colors, picture
from moco.errors import MocoError
from moco.images.decode import Pixels
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.data.loader import read_pixels
from moco.transfer.data.segments import mask_of

SMALL = 320
"""If all images are below this size in pixels, a row holds two pairs; else one."""
VOID = 255

_DPI = 160  # of `picture`
_MASK, _CLASS, _VOID = 0.45, 0.6, 0.75  # opacity of masks, of classes in a label map, of its void
_GAP, _APART = 0.03, 0.1  # between the two of a pair, and between pairs, in panels' widths
_LEGEND = 6  # entries a line

Mask = NDArray[np.bool_]


@dataclass
class _Panel:
    """An image with what is drawn on it; n boxes, each with text, color and `ignored`."""

    image: Pixels
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 4), np.float32))
    texts: Sequence[str] = ()
    colors: Sequence[str] = ()
    ignored: Sequence[bool] = ()
    keypoints: NDArray[np.float32] | None = None
    """n x K x 3: x, y, and 0 for not there, 1 for hidden, 2 for visible."""
    areas: list[tuple[Mask, str, float, bool]] = field(default_factory=list)
    """Masks of the image's size, each with its color, its opacity and whether it is outlined."""


def detections_sheet(
    annotated: AnnotatedSet, detections: Detections, images: Sequence[int], least_score: float
) -> bytes:
    """Draw ground truth and detections side by side, with masks and keypoints if the set has them.

    Colors distinguish the classes, or the instances if there is only one class. Boxes with broken
    lines are ignored in evaluation (crowd, difficult). The detections with the best scores lie on
    top.

    Args:
        annotated: the ground truth.
        detections: of the same set.
        images: positions in the set, in the order to show.
        least_score: detections below it are not drawn.

    Returns:
        A PNG; the same bytes for the same input, on one machine.

    Raises:
        MocoError: an image cannot be read.
    """
    pairs = []
    for n in images:
        image, where = _read(annotated, n), annotated.instances(n)
        truth = _Panel(
            image,
            annotated.boxes[where],
            [annotated.classes[label] for label in annotated.labels[where]],
            _colors(annotated.classes, annotated.labels[where]),
            annotated.ignored[where].tolist(),
            None if annotated.keypoints is None else annotated.keypoints[where],
        )
        if annotated.segments is not None:
            _add_masks(truth, annotated.masks(n).astype(bool))
        found = np.flatnonzero((detections.image == n) & (detections.scores >= least_score))
        found = found[np.argsort(detections.scores[found], kind="stable")]
        labels = detections.labels[found]
        guess = _Panel(
            image,
            detections.boxes[found],
            [
                f"{annotated.classes[label]} {score:.2f}"
                for label, score in zip(labels, detections.scores[found], strict=True)
            ],
            _colors(annotated.classes, labels),
            [False] * len(found),
        )
        if detections.segments is not None:
            height, width = image.shape[:2]
            _add_masks(guess, [mask_of(detections.segments[d], height, width) > 0 for d in found])
        if detections.keypoints is not None:
            guess.keypoints = detections.keypoints[found].copy()
            guess.keypoints[:, :, 2] = 2
        pairs.append((truth, guess))
    return _sheet(pairs, f"prediction, score ≥ {least_score:g}", [])


def label_maps_sheet(annotated: AnnotatedSet, predicted: Sequence[NDArray[np.uint8]], images: Sequence[int]) -> bytes:
    """Draw true and predicted label maps side by side over the images; background stays as it is.

    Args:
        annotated: a set with label maps.
        predicted: for each of `images`, uint8 H x W, numbers of `annotated.semantic_classes`.
        images: positions in the set, in the order to show.

    Returns:
        A PNG; the same bytes for the same input, on one machine.

    Raises:
        MocoError: an image or a label map cannot be read.
    """
    names = annotated.semantic_classes
    painted = [number for number, name in enumerate(names) if name != "background"]
    color_of = dict(zip(painted, class_colors(len(painted)), strict=True))
    pairs, seen = [], set()
    for n, guess in zip(images, predicted, strict=True):
        image, panels = _read(annotated, n), []
        for labels in (_read_labels(annotated, n), guess):
            there = np.unique(labels).tolist()
            areas = [(labels == c, color_of[c], _CLASS, True) for c in there if c in color_of]
            if VOID in there:
                areas.append((labels == VOID, FAINT, _VOID, False))
            seen.update(there)
            panels.append(_Panel(image, areas=areas))
        pairs.append((panels[0], panels[1]))
    legend = [(names[number], color_of[number]) for number in painted if number in seen]
    return _sheet(pairs, "prediction", legend + [("void", FAINT)] * (VOID in seen))


def _read(annotated: AnnotatedSet, n: int) -> Pixels:
    try:
        return read_pixels(annotated, n)
    except MocoError as error:
        raise MocoError(f"{error}, or show another image") from None


def _read_labels(annotated: AnnotatedSet, n: int) -> NDArray[np.uint8]:
    assert annotated.label_maps is not None
    path = annotated.label_maps[n]
    try:
        with Image.open(path) as file:
            labels = np.array(file, np.uint8)
    except OSError as error:
        raise MocoError(f"{path}: cannot be read as a label map ({error}); restore it, or show another image") from None
    return labels if annotated.label_of_pixel is None else annotated.label_of_pixel[labels]


def _colors(classes: Sequence[str], labels: NDArray[np.int64]) -> list[str]:
    if len(classes) > 1:
        palette = class_colors(len(classes))
        return [palette[label] for label in labels]
    palette = class_colors(10)
    return [palette[number % 10] for number in range(len(labels))]


def _add_masks(panel: _Panel, masks: Sequence[Mask] | Mask) -> None:
    panel.areas = [(mask, color, _MASK, True) for mask, color in zip(masks, panel.colors, strict=True)]


def _sheet(pairs: Sequence[tuple[_Panel, _Panel]], prediction: str, legend: Sequence[tuple[str, str]]) -> bytes:
    """Lay pairs out in rows. Lengths are in panels' widths, which an image's longer side fills."""
    small = all(max(truth.image.shape[:2]) < SMALL for truth, _ in pairs)
    abreast = min(2, len(pairs)) if small else 1
    width = abreast * (2 + _GAP) + (abreast - 1) * _APART
    inches = PAGE / width
    head, foot = 0.3 / inches, -(-len(legend) // _LEGEND) * 0.2 / inches
    rows = [pairs[start : start + abreast] for start in range(0, len(pairs), abreast)]
    heights = [
        max(t.image.shape[0] / max(t.image.shape[:2]) for t, _ in row) + (_APART if small else _GAP) for row in rows
    ]
    height = head + sum(heights) + foot
    out = io.BytesIO()
    with picture(out, (PAGE, height * inches)) as figure:  # type: ignore[arg-type]  # savefig takes both
        figure.set_layout_engine("none")
        axes = bare(figure.add_axes((0, 0, 1, 1)))
        axes.set(xlim=(0, width), ylim=(height, 0))
        lefts = [pair * (2 + _GAP + _APART) for pair in range(abreast)]
        for left in lefts:
            for word, x in (("ground truth", left + 0.5), (prediction, left + 1.5 + _GAP)):
                axes.text(x, head / 2, word, ha="center", va="center", color=MUTED, weight="bold", fontsize=9)
        top = head
        for row, tall in zip(rows, heights, strict=True):
            for left, (truth, guess) in zip(lefts, row, strict=False):
                _draw(axes, truth, left, top + tall / 2, inches)
                _draw(axes, guess, left + 1 + _GAP, top + tall / 2, inches)
            top += tall
        if legend:
            handles = [Patch(color=color, label=name) for name, color in legend]
            figure.legend(handles=handles, loc="lower center", ncols=_LEGEND, fontsize=8.5, borderpad=0.1)
    return out.getvalue()


def _draw(axes: Axes, panel: _Panel, left: float, middle: float, inches: float) -> None:
    """Draw a panel, `inches` wide; `middle` is the height of its center."""
    height, width = panel.image.shape[:2]
    scale = 1 / max(height, width)
    x, y = left + (1 - width * scale) / 2, middle - height * scale / 2
    extent = (x, x + width * scale, y + height * scale, y)
    axes.imshow(_blend(panel, max(1.0, inches * _DPI * scale)), extent=extent, aspect="auto")
    _rectangle(axes, (x, y, extent[1], extent[2]), FAINT, "solid", 0.6)
    corners = np.clip(panel.boxes, 0, (width, height, width, height)) * scale + (x, y, x, y)
    for (x0, y0, x1, y1), color, ignored in zip(corners.tolist(), panel.colors, panel.ignored, strict=True):
        _rectangle(axes, (x0, y0, x1, y1), color, (0, (3, 2)) if ignored else "solid", 1.4)
    if panel.keypoints is not None:
        for points, color in zip(panel.keypoints, panel.colors, strict=True):
            _draw_keypoints(axes, points, color, x, y, scale)
    for (x0, y0, x1, _), text, color, ignored in zip(
        corners.tolist(), panel.texts, panel.colors, panel.ignored, strict=True
    ):
        at_right = x0 - x > 0.7
        axes.text(
            x1 if at_right else x0,
            y0,
            text,
            color="white",
            fontsize=6,
            ha="right" if at_right else "left",
            va="bottom" if y0 - y > 0.05 else "top",
            bbox={"facecolor": GRAY if ignored else color, "edgecolor": "none", "pad": 0.9, "alpha": 0.85},
        )


def _rectangle(axes: Axes, corners: tuple[float, float, float, float], color: str, line: Any, width: float) -> None:
    x0, y0, x1, y1 = corners
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linestyle=line, linewidth=width))


def _draw_keypoints(axes: Axes, points: NDArray[np.float32], color: str, x: float, y: float, scale: float) -> None:
    for across, down, seen in points.tolist():
        if seen > 0:
            axes.plot(
                x + across * scale,
                y + down * scale,
                "o",
                markersize=4,
                markeredgewidth=1,
                color=color if seen > 1 else "none",
                markeredgecolor="white" if seen > 1 else color,
            )


def _blend(panel: _Panel, enlarge: float) -> Pixels:
    """Enlarge the image and mix its masks in."""
    height, width = (round(side * enlarge) for side in panel.image.shape[:2])
    canvas: Pixels = cv2.resize(panel.image, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    for mask, color, opacity, outlined in panel.areas:
        smooth = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        large = smooth > 0.5
        paint = np.array(to_rgb(color)) * 255
        canvas[large] = np.rint(canvas[large] * (1 - opacity) + paint * opacity).astype(np.uint8)
        if outlined:
            outlines, _ = cv2.findContours(large.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, outlines, -1, paint.tolist(), 1, cv2.LINE_AA)
    return canvas
