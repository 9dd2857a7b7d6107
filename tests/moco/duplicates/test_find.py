import csv
import io

import numpy as np
import pytest
from PIL import Image
from small_material import photographs, write_arrays

from moco.duplicates.find import COLUMNS, crossings, find, write_groups, write_pairs
from moco.duplicates.likeness import Copies, Features
from moco.encoders.frozen import EncoderSpec, random_encoder
from moco.encoders.kinds import network_of
from moco.survey.run import Survey, survey

SIDE = 64
SPEC = EncoderSpec(network_of("thin", "small"), 32, 1.0, (0.5,) * 3, (0.5,) * 3, 512, "test")


def square(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)).copy()


def scenes(count: int) -> list[np.ndarray]:
    """Windows of two photographs that do not overlap."""
    windows = [
        p[y : y + 100, x : x + 100] for p in photographs() for y in range(0, 400, 100) for x in range(0, 600, 100)
    ]
    return [square(window) for window in windows[:count]]


def recompressed(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file)).copy()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Survey:
    """Twelve scenes in train; in test a recompressed, a mirrored, and one of its own, twice.

    Two of the training images are plain areas.
    """
    folder = tmp_path_factory.mktemp("twins")
    scene = scenes(13)
    plain = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (90, 91)]
    train = [*scene[:12], *plain]
    test = [recompressed(scene[2]), np.ascontiguousarray(scene[7][:, ::-1]), scene[12], scene[12]]
    parts = [(np.stack(train), None, "train"), (np.stack(test), None, "test")]
    return survey(write_arrays(folder, parts, [], 100, val_fraction=0), folder / "kept", "check")


def pixels(found: Survey, number: int) -> np.ndarray:
    from moco.images.batches import read_image

    split, i = found.place(number)
    return read_image(found.splits[split], i)


def kinds(pairs) -> list[str]:
    return sorted(pair.kind for pair in pairs)


def test_a_twin_is_found_exact_or_recompressed_and_nothing_else_is(found):
    twins = find(found, Copies(), 4, 0.99, mirrored=False)
    assert kinds(twins.pairs) == ["exact", "near"]
    assert twins.redundant == len(twins.groups) - 2 == 2
    exact, near = sorted(twins.pairs, key=lambda pair: pair.kind)
    assert (pixels(found, exact.first) == pixels(found, exact.second)).all()
    assert np.abs(pixels(found, near.first).astype(int) - pixels(found, near.second)).mean() < 10
    assert 0.99 <= near.likeness <= 1


def test_a_mirror_image_counts_where_it_is_asked_for(found):
    twins = find(found, Copies(), 4, 0.99, mirrored=True)
    assert kinds(twins.pairs) == ["exact", "mirrored", "near"]
    (mirrored,) = (pair for pair in twins.pairs if pair.kind == "mirrored")
    assert (pixels(found, mirrored.first)[:, ::-1] == pixels(found, mirrored.second)).all()


def test_a_hash_alone_decides_nothing(found):
    twins = find(found, Copies(), 4, 1.0, mirrored=False)
    assert kinds(twins.pairs) == ["exact"]
    assert twins.candidates >= 1
    (refused,) = twins.refused
    assert 0.97 <= refused.likeness < 1


def test_plain_areas_are_no_twins_of_each_other(found):
    plain = np.flatnonzero(found.records["contrast"] == 0)
    assert len(plain) == 2
    assert not set(plain.tolist()) & set(find(found, Copies(), 7, 0.5, mirrored=True).groups)


def test_features_of_an_encoder_decide_where_there_is_one(found):
    encoder = random_encoder(SPEC, seed=0)
    judge = Features(encoder, "an encoder")
    assert kinds(find(found, judge, 4, 0.99, mirrored=False).pairs) == ["exact", "near"]
    assert find(found, judge, 4, 0.99, mirrored=False).judge == "the cosine of features of an encoder"


def test_images_with_a_twin_in_an_earlier_split_are_listed(found):
    twins = find(found, Copies(), 4, 0.99, mirrored=True)
    assert [found.place(number)[0] for number in twins.crossing] == ["test", "test"]
    assert crossings(found, twins) == {("train", "test"): 2}


def test_more_images_of_one_hash_than_are_compared_with_each_other_still_meet_the_first(found, monkeypatch):
    whole = find(found, Copies(), 4, 0.99, mirrored=False)
    monkeypatch.setattr("moco.duplicates.find.MOST_OF_A_HASH", 1)
    assert find(found, Copies(), 4, 0.99, mirrored=False).groups.keys() <= whole.groups.keys()
    found_now = find(found, Copies(), 0, 0.99, mirrored=False)
    monkeypatch.undo()
    assert found_now.pairs == find(found, Copies(), 0, 0.99, mirrored=False).pairs


def test_pairs_and_groups_are_written_with_the_keys_of_the_tars(found, tmp_path):
    twins = find(found, Copies(), 4, 0.99, mirrored=False)
    write_pairs(tmp_path / "pairs.csv", found, twins.pairs)
    write_groups(tmp_path / "groups.csv", found, twins.groups)
    with (tmp_path / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert sorted((row["kind"], row["split"], row["twin_split"]) for row in rows) == [
        ("exact", "test", "test"),
        ("near", "train", "test"),
    ]
    with (tmp_path / "groups.csv").open(newline="") as file:
        groups = {row["key"]: row["group"] for row in csv.DictReader(file)}
    assert all(groups[row["key"]] == groups[row["twin"]] for row in rows)
    assert len(groups) == 4 and len(set(groups.values())) == 2
