"""What of a set is trained on, and which images are left."""

from dataclasses import replace

import numpy as np
import pytest
from transfer_material import annotated_set

from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.data.segments import PackedSegments
from moco.transfer.data.trainable import trainable, with_objects


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedSet:
    return annotated_set(tmp_path_factory.mktemp("images"))


def test_ignored_and_empty_instances_are_not_trained_on_and_images_without_others_are_left_out(images):
    odd = replace(images, ignored=images.ignored.copy(), boxes=images.boxes.copy(), areas=images.areas.copy())
    odd.ignored[odd.instances(0)] = True
    odd.boxes[odd.instances(1), 2] = odd.boxes[odd.instances(1), 0]
    odd.areas[odd.instances(2)] = 0
    assert len(trainable(odd).labels) < len(images.labels) - 3
    assert not trainable(odd).ignored.any()
    assert set(range(12)) - set(with_objects(trainable(odd)).tolist()) == {0, 1}
    assert set(range(12)) - set(with_objects(trainable(odd, masks=True)).tolist()) == {0, 1, 2}


def test_an_image_whose_keypoints_are_not_labelled_is_left_out_for_keypoints_alone(images):
    odd = replace(images, keypoints=images.keypoints.copy())
    odd.keypoints[odd.instances(4), :, 2] = 0
    assert 4 not in with_objects(odd, keypoints=True)
    assert 4 in with_objects(odd)


def test_an_object_is_trained_on_once_and_for_masks_only_with_a_segment(images):
    ids = np.arange(len(images.labels)).astype(object)
    ids[[3, 4]] = "again"
    segments = list(images.segments)
    segments[0] = []
    odd = replace(images, annotation_ids=ids, ignored=images.ignored & False, segments=PackedSegments(segments))
    assert trainable(odd).annotation_ids.tolist() == [0, 1, 2, "again", *range(5, len(ids))]
    assert trainable(odd, masks=True).annotation_ids.tolist() == [1, 2, "again", *range(5, len(ids))]
