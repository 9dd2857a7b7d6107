import numpy as np
import pytest
from small_material import photographs, write_arrays

from moco.checks.images import Looked, check_images, odd_ones
from moco.config import Check
from moco.duplicates.find import find
from moco.duplicates.likeness import Copies
from moco.survey.run import Survey, survey


def windows(side: int, count: int) -> np.ndarray:
    photo = photographs()[0]  # its lower part: the sky is plain
    return np.stack([photo[y : y + side, x : x + side] for y in (230, 280, 330) for x in range(0, 540, 25)][:count])


def looked(folder, images: np.ndarray, test: np.ndarray | None = None, quarantined: int = 0) -> Looked:
    parts = [(images, None, "train")] + ([] if test is None else [(test, None, "test")])
    found: Survey = survey(write_arrays(folder, parts, [], 1000, val_fraction=0), folder / "kept", "check")
    return Looked(found, find(found, Copies(), 4, 0.99, mirrored=False), quarantined)


def by_name(what: Looked, **values) -> dict[str, object]:
    return {result.name: result for result in check_images(what, Check(**values))}


def failed(what: Looked, **values) -> list[str]:
    return [name for name, result in by_name(what, **values).items() if result.status == "failed"]


def test_sound_photographs_pass(tmp_path):
    assert failed(looked(tmp_path, windows(96, 40)), max_duplicates=1) == []


def test_too_few_images_fail_with_the_setting_in_the_line(tmp_path):
    what = looked(tmp_path, windows(96, 9))
    assert failed(what) == ["images"]
    assert by_name(what)["images"].text == "9 training images, fewer than check.min_images = 10; is the source whole?"
    assert failed(what, min_images=9) == []


def test_one_odd_image_of_a_small_set_is_no_share(tmp_path):
    images = windows(96, 16)
    images[0] = 99
    result = by_name(looked(tmp_path, images), max_duplicates=1)["empty"]
    assert (result.status, result.value) == ("ok", 1 / 16)


def test_a_share_of_unreadable_files_fails(tmp_path):
    what = looked(tmp_path, windows(96, 40), quarantined=4)
    assert failed(what) == ["quarantine"]
    assert by_name(what)["quarantine"].value == pytest.approx(4 / 44)
    assert failed(what, max_quarantine=0.05) == []


ODD = {
    "dark": lambda images: images // 10,
    "bright": lambda images: 225 + images // 10,
    "empty": lambda images: np.full_like(images, 99) + np.arange(len(images), dtype=np.uint8)[:, None, None, None],
    "blurred": lambda images: (
        np.repeat(np.linspace(40, 200, 96).astype(np.uint8)[None, :, None], 96, 0).repeat(3, 2)[None]
        + np.arange(len(images), dtype=np.uint8)[:, None, None, None]
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_share_of_odd_images_fails_and_names_some(tmp_path, kind):
    images = windows(96, 40)
    images[:8] = ODD[kind](images[:8])
    what = looked(tmp_path, images)
    assert failed(what, max_duplicates=1) == [kind]
    named = by_name(what)[kind]
    assert named.value == pytest.approx(0.2)
    key = what.found.key(int(odd_ones(what.found, Check())[kind][0]))
    assert key in named.text and f"check.max_{kind}" in named.text
    assert failed(what, max_duplicates=1, **{f"max_{kind}": 0.2}) == []


@pytest.mark.parametrize(("shape", "kind"), [((12, 40), "small"), ((20, 120), "long")])
def test_sizes_fail(tmp_path, shape, kind):
    photo = photographs()[0]
    images = np.stack([photo[y : y + shape[0], x : x + shape[1]] for y in range(220, 400, 18) for x in (0, 200, 400)])
    assert failed(looked(tmp_path, images), max_duplicates=1) == [kind]


def test_twins_fail_where_they_are_many_or_cross_the_splits(tmp_path):
    images = windows(96, 40)
    what = looked(tmp_path, np.concatenate([images[:30], images[:30] // 2 * 2]), test=images[20:40] // 2 * 2 + 1)
    assert failed(what) == ["duplicates", "crossing"]
    assert "train–test 10" in by_name(what)["crossing"].text
    assert failed(what, max_duplicates=1, max_crossing=0.5) == []
