"""Segments in COCO's forms: what of them is kept, and what is found before a mask is painted."""

import re

import numpy as np
import pytest
from pycocotools import mask

from moco.transfer.data.segment_checks import REACH, good_segment
from moco.transfer.data.segments import mask_of

TRIANGLE = [0.0, 0.0, 4.0, 0.0, 4.0, 4.0]


def test_polygons_of_less_than_three_points_are_left_out_of_a_segment():
    kept, reason = good_segment([TRIANGLE, [0.0, 0.0, 1.0, 1.0], [*TRIANGLE, 1.0], TRIANGLE], 6, 8)
    assert kept == [TRIANGLE, TRIANGLE]
    assert reason == (
        "2 of its 4 polygons left out: [0.0, 0.0, 1.0, 1.0] is not of three or more corners; correct its corners"
    )
    assert good_segment([TRIANGLE], 6, 8) == ([TRIANGLE], None)


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        ([[0.0, 0.0, 1.0, float("nan"), 2.0, 2.0]], "polygons"),
        ([[0.0, 0.0, 1.0, None, 2.0, 2.0]], "polygons"),
        ([0.0, 0.0, 4.0, 0.0, 4.0, 4.0], "polygons"),  # one polygon without the list around it
        ([[0, 0, 4, 0, 4, 4, 7]], "7 numbers, an x without its y"),
        ([[10**400, 0, 4, 0, 4, 4]], "not of finite numbers"),
        ([[1e9, 0, 4, 0, 4, 4]], r"reaches to pixel 1e\+09, more than 2,000,000 away"),
        (
            [[429496729.4, 0, 429496729.6, 5, 429496729.6, 9]],
            "reaches to pixel",
        ),  # 2**31 / 5: a painter's integers wrap
        ([[number for y in range(2000) for number in (3000 * (y % 2), y)]], "outline is 6,000,000 pixels long"),
        ("polygon", "neither polygons nor an RLE"),
        (5, "neither polygons nor an RLE"),
        ({"size": [8, 6], "counts": [48]}, r"size \[8, 6\], not \[6, 8\]"),
        ({"size": [6, 8], "counts": [40, 7]}, "sum to 47, not 6 x 8"),
        ({"size": [6, 8], "counts": []}, "sum to 0"),
        ({"size": [6, 8], "counts": [40.0, 8.0]}, r"run length 40\.0 is no whole number"),
        ({"size": [6, 8], "counts": [-1, 49]}, "run length -1 is negative"),
        ({"size": [6, 8], "counts": ["48"]}, "'48' is no whole number"),
        ({"size": [6, 8], "counts": "zzzz####"}, "has the character 'z'"),
        ({"size": [6, 8], "counts": "é4"}, "has the character 'é'"),
        ({"size": [6, 8], "counts": "abc"}, "ends within a number"),
        ({"size": [6, 8], "counts": "o" * 50 + "0"}, "number of 51 characters"),
        ({"size": [6, 8], "counts": "O0"}, "run length -1 is negative"),
        ({"size": [6, 8], "counts": "5"}, "sum to 5"),
        ({"size": [6, 8]}, "no counts"),
    ],
)
def test_a_segment_of_no_use_is_empty_and_says_why(segment, reason):
    kept, said = good_segment(segment, 6, 8)
    assert kept == []
    assert re.search(reason, said)


@pytest.mark.parametrize("seed", range(20))
def test_what_pycocotools_writes_is_good_and_one_changed_character_of_it_fails_nowhere(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 400, 2).tolist()
    pixels = np.asfortranarray(random.random((height, width)) < random.choice([0.001, 0.5, 1.0]), np.uint8)
    segment = {"size": [height, width], "counts": mask.encode(pixels)["counts"].decode()}
    assert good_segment(segment, height, width) == (segment, None)
    for place in range(min(40, len(segment["counts"]))):
        counts = segment["counts"]
        counts = counts[:place] + chr(random.integers(33, 127)) + counts[place + 1 :]
        kept, _ = good_segment({**segment, "counts": counts}, height, width)
        assert mask_of(kept, height, width).shape == (height, width)


def test_a_polygon_at_the_limit_is_painted_in_bounded_memory():
    far = [[REACH / 2 - 10, 0.0, 5.0, 5.0, 9.0, 1.0]]
    assert good_segment(far, 6, 8) == (far, None)
    assert mask_of(far, 6, 8).any()
