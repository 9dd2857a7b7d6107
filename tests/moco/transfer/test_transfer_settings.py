"""Settings of fine-tuning: what fits together, and what takes the place of a schedule's own values."""

import pytest
from pydantic import ValidationError
from transfer_material import settings

from moco.transfer.schedules import BoxSizes, LabelSizes, PixelSizes
from moco.transfer.settings import sizes_of


def test_sizes_are_the_schedules_where_the_settings_are_null():
    chosen = settings("detection", short_sides=None, long_side=None, test_short_side=None)
    assert sizes_of(chosen, BoxSizes) == BoxSizes(tuple(range(480, 801, 32)), 800, 1333)
    assert sizes_of(settings("detection", test_short_side=None), BoxSizes) == BoxSizes((48, 64), 800, 96)
    assert sizes_of(settings("semantic", crop_size=None), PixelSizes) == PixelSizes(513, (0.5, 2.0))
    assert sizes_of(settings("classification"), LabelSizes) == LabelSizes(16, 16)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("detection", {"neck": None}, "neck = None does not fit task = detection; choose c4 or fpn"),
        ("semantic", {"neck": "fpn"}, "neck = fpn does not fit task = semantic; set it to null"),
        ("detection", {"schedule": "3x"}, "schedule = '3x' is not known; choose one of voc-24k, coco-1x"),
        ("semantic", {"schedule": "coco-1x"}, "is not for task = semantic; choose one of voc-seg, cityscapes"),
        ("detection", {"crop_size": 64}, "crop_size does not apply to task = detection; set it to null"),
        ("classification", {"anchor_sizes": [8]}, "anchor_sizes does not apply to task = classification"),
        ("detection", {"label_fraction": 0.1}, "label_fraction does not apply to task = detection; set it to 1"),
        ("semantic", {"scales": [2.0, 0.5]}, "scales must rise"),
        ("detection", {"color": 1}, "color"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_with_a_remedy(task, changes, message):
    with pytest.raises(ValidationError) as refused:
        settings(task, **changes)
    assert message in str(refused.value)
