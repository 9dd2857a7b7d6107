"""What of an annotated set is trained on; metrics take the whole set as it is."""

from dataclasses import replace

import numpy as np

from moco.permutation import Integers
from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.data.problems import beyond, limits_of, repeated
from moco.transfer.data.segments import present


def trainable(images: AnnotatedSet, masks: bool = False) -> AnnotatedSet:
    """Keep the instances to train on, each once, with boxes that end where their image ends.

    Ignored ones are left out, those whose box in the image has no area and, for `masks`, those
    without an area or a mask. A box that reaches past its image by rounding stays as it is.
    """
    past = beyond(images)[:, None]
    boxes = np.where(past, np.clip(images.boxes, 0, limits_of(images)), images.boxes)
    kept = ~images.ignored & (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & ~repeated(images.annotation_ids)
    if masks and images.segments is not None:
        kept &= (images.areas > 0) & present(images.segments)
    return replace(images, boxes=boxes).with_instances(kept)


def with_objects(images: AnnotatedSet, keypoints: bool = False) -> Integers:
    """Find the images with an instance (`keypoints`: with a labelled keypoint), int64."""
    counted = images.labels >= 0  # all
    if keypoints and images.keypoints is not None:
        counted &= (images.keypoints[:, :, 2] > 0).any(axis=1)
    before = np.concatenate([[0], np.cumsum(counted)])
    return np.flatnonzero(before[images.first[1:]] > before[images.first[:-1]])
