from dataclasses import replace

import numpy as np
import pytest
from small_material import write_arrays

from moco.checks.reference import from_bytes, reference_of, to_bytes
from moco.checks.shift import check_shift, look_distance, population_stability
from moco.config import Check
from moco.survey.run import Survey, survey


def looks(count: int, seed: int, level: int = 60) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.clip(generator.normal(level, 40, (count, 8, 8, 3)), 0, 255).astype(np.uint8)


def surveyed(folder, images: np.ndarray, labels: np.ndarray) -> Survey:
    folder.mkdir()
    shards = write_arrays(folder, [(images, labels, "train")], ["a", "b"], 1000, val_fraction=0.1)
    return survey(shards, folder / "kept", "check")


def pictures(count: int, seed: int, level: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(level, 15, (count, 12, 12, 3)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def last(tmp_path_factory) -> Survey:
    return surveyed(tmp_path_factory.mktemp("last") / "x", pictures(120, 0), np.arange(120) % 2)


def results(found: Survey, before: Survey | None, **values) -> dict[str, object]:
    reference = None if before is None else reference_of(before)
    return {result.name: result for result in check_shift(found, reference, Check(**values))}


def test_the_same_kind_of_images_is_near_and_another_is_far():
    same, other = look_distance(looks(200, 0), looks(200, 1)), look_distance(looks(200, 0), looks(200, 1, level=200))
    assert same.value < 0.05 and same.chance > 0.01
    assert other.value > 0.5 and other.chance == pytest.approx(1 / 201)


def test_the_distance_grows_with_the_share_of_other_images():
    mixed = [
        look_distance(looks(400, 0), np.concatenate([looks(400 - n, 1), looks(n, 2, level=200)])) for n in (40, 200)
    ]
    assert 0.05 < mixed[0].value < mixed[1].value / 3


def test_stability_is_0_for_equal_shares_and_follows_its_formula():
    assert population_stability({"a": 50, "b": 150}, {"a": 500, "b": 1500}) == pytest.approx(0, abs=1e-3)
    p, q = np.array([900, 100]) / 1000, np.array([500, 500]) / 1000
    expected = ((p - q) * np.log(p / q)).sum()
    assert population_stability({"a": 90000, "b": 10000}, {"a": 5000, "b": 5000}) == pytest.approx(expected, rel=1e-3)


def test_a_class_that_one_version_lacks_counts():
    assert population_stability({"a": 500, "b": 500}, {"a": 500}) > 0.25


def test_without_a_last_version_nothing_is_compared(last):
    found = results(last, None)
    assert {result.status for result in found.values()} == {"skipped"}


def test_the_same_version_passes(last):
    found = results(last, last)
    assert {result.status for result in found.values()} == {"ok"}


def test_a_version_that_lost_images_fails(last, tmp_path):
    now = surveyed(tmp_path / "now", pictures(80, 0), np.arange(80) % 2)
    assert results(now, last)["fewer"].status == "failed"
    assert results(now, last, max_fewer=0.5)["fewer"].status == "ok"


def test_a_version_of_other_shares_of_the_classes_fails_and_names_the_class(last, tmp_path):
    found = results(surveyed(tmp_path / "now", pictures(120, 0), (np.arange(120) % 10 == 0).astype(int)), last)
    assert found["class_shift"].status == "failed"
    assert "check.max_class_shift = 0.25" in found["class_shift"].text
    assert "50 % to" in found["class_shift"].text
    assert found["look_shift"].status == "ok"


def test_a_version_that_looks_different_fails(last, tmp_path):
    found = results(surveyed(tmp_path / "now", pictures(120, 1, level=200), np.arange(120) % 2), last)
    assert found["look_shift"].status == "failed"
    assert found["added_look_shift"].status == "note"


def test_some_new_images_that_look_different_are_a_note(last, tmp_path):
    images = np.concatenate([np.repeat(pictures(120, 0), 5, axis=0), pictures(60, 1, level=200)])
    images[:600, 0, 0] = np.arange(600)[:, None] % 256  # none is a copy
    grown = surveyed(
        tmp_path / "now", np.concatenate([pictures(600, 3), pictures(60, 1, level=200)]), np.arange(660) % 2
    )
    before = surveyed(tmp_path / "before", pictures(600, 3), np.arange(600) % 2)
    found = results(grown, before)
    assert found["look_shift"].status == "ok"
    assert found["added_look_shift"].status == "note"
    assert "60 new images" in found["added_look_shift"].text


def test_a_reference_comes_back_as_it_was_written_and_damage_is_none(last):
    reference = reference_of(last)
    data = to_bytes(reference)
    back = from_bytes(data)
    assert back is not None
    assert (back.data_hash, back.splits, back.classes) == (reference.data_hash, reference.splits, reference.classes)
    assert (back.content == reference.content).all() and (back.looks == reference.looks).all()
    assert to_bytes(reference) == data
    assert from_bytes(data[:100]) is None
    assert from_bytes(b"") is None
    assert from_bytes(to_bytes(replace(reference, data_hash="x"))).data_hash == "x"
