"""The split goes by content alone, and the manifest is the same for the same images."""

import csv
import hashlib
import json

import pytest

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.manifest import Item, choose_split, read_manifest, write_manifest

SETTINGS = Fetch(source="folder", path="pictures", labels="folders", val_fraction=0.1, test_fraction=0.2, split_seed=0)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def items(count, part="all", content="picture"):
    return [Item(f"{i:05d}.png", None, f"class{i % 3}", part, digest(f"{content} {i}"), 100) for i in range(count)]


def write(found, folder, settings=SETTINGS, classes=None):
    folder.mkdir(exist_ok=True)
    return write_manifest(found, folder, settings, "pictures", classes)


def sides(folder):
    return {row.path: row.split for row in read_manifest(folder)[1]}


def test_the_shares_of_the_split_are_those_asked_for(tmp_path):
    counts = write(items(5000), tmp_path).splits
    assert abs(counts["val"]["images"] - 500) < 100
    assert abs(counts["test"]["images"] - 1000) < 130


def test_images_that_arrive_later_move_no_others(tmp_path):
    write(items(200), tmp_path / "before")
    write(items(300), tmp_path / "after")
    before, after = sides(tmp_path / "before"), sides(tmp_path / "after")
    assert len(after) == 300
    assert all(after[path] == side for path, side in before.items())


def test_another_seed_gives_another_split(tmp_path):
    write(items(200), tmp_path / "a")
    write(items(200), tmp_path / "b", SETTINGS.model_copy(update={"split_seed": 1}))
    assert sides(tmp_path / "a") != sides(tmp_path / "b")


def test_exact_duplicates_fall_on_one_side_and_are_counted(tmp_path):
    first = items(100)
    copies = [item._replace(path=f"copy/{item.path}") for item in first]
    manifest = write(first + copies, tmp_path)
    found = sides(tmp_path)
    assert manifest.duplicates == 100
    assert all(found[item.path] == found[f"copy/{item.path}"] for item in first)


def test_training_images_that_are_in_the_official_test_set_are_left_out(tmp_path):
    test = items(20, "test")
    train = [
        *items(50, "train", "other"),
        *(item._replace(path=f"leak/{item.path}", part="train") for item in test[:7]),
    ]
    manifest = write(train + test, tmp_path)
    assert manifest.duplicates_of_test == 7
    assert manifest.splits["test"]["images"] == 20
    assert not [path for path in sides(tmp_path) if path.startswith("leak/")]


@pytest.mark.parametrize("content", ["a", "b", "c", "d", "e", "f"])
def test_official_parts_keep_their_meaning(content):
    everything = SETTINGS.model_copy(update={"val_fraction": 0.0, "test_fraction": 0.9})
    assert choose_split(digest(content), "test", everything) == "test"
    assert choose_split(digest(content), "train", everything) == "train"
    half = SETTINGS.model_copy(update={"val_fraction": 0.5})
    assert {choose_split(digest(f"{content}{i}"), "train", half) for i in range(20)} == {"train", "val"}


def test_the_order_within_a_split_is_mixed_and_does_not_depend_on_the_order_found(tmp_path):
    found = items(300)
    write(found, tmp_path / "a")
    write(found[::-1], tmp_path / "b")
    for name in ("manifest.csv", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    train = [row.path for row in read_manifest(tmp_path / "a")[1] if row.split == "train"]
    assert train != sorted(train)


def test_odd_names_and_labels_survive_the_manifest(tmp_path):
    names = ['with "quotes", and commas', "two\nlines", "Größe/ü", "not utf-8 \udcff", " spaces "]
    found = [Item(f"{name}.png", None, name, "all", digest(str(i)), 1) for i, name in enumerate(names)]
    write(found, tmp_path, SETTINGS.model_copy(update={"val_fraction": 0.0, "test_fraction": 0.0}))
    assert {(row.path, row.label) for row in read_manifest(tmp_path)[1]} == {(f"{name}.png", name) for name in names}


def test_classes_that_are_numbers_are_in_numerical_order(tmp_path):
    found = [item._replace(label=str(i)) for i, item in enumerate(items(12))]
    assert write(found, tmp_path).classes == [str(i) for i in range(12)]


def test_unlabelled_images_are_counted_apart(tmp_path):
    found = [item._replace(label="") for item in items(100)] + items(50, content="labelled")
    splits = write(found, tmp_path).splits
    assert sum(side["images"] for side in splits.values()) == 150
    assert sum(side["labelled"] for side in splits.values()) == 50


def test_an_unreadable_file_is_listed_without_a_hash_and_is_no_duplicate(tmp_path):
    manifest = write([*items(50), *(Item(f"lost{i}.png", None, "", "all", "", 0) for i in range(2))], tmp_path)
    assert manifest.duplicates == 0
    assert {row.sha256 for row in read_manifest(tmp_path)[1] if row.path.startswith("lost")} == {""}


def test_files_that_are_no_images_by_their_names_are_counted_apart(tmp_path):
    texts = [item._replace(path=f"{item.path}.txt", label="texts") for item in items(40)]
    manifest = write(items(60, content="other") + texts, tmp_path)
    assert (manifest.images, manifest.other_files, manifest.duplicates) == (60, 40, 0)
    assert sum(side["images"] for side in manifest.splits.values()) == 60
    assert "texts" not in manifest.classes
    assert len(sides(tmp_path)) == 100
    with pytest.raises(MocoError, match=r"'pictures': no images there \(40 other files\)"):
        write(texts, tmp_path)


def test_a_few_images_may_leave_a_split_empty(tmp_path):
    manifest = write(items(3), tmp_path, SETTINGS.model_copy(update={"test_fraction": 0.0, "val_fraction": 0.0}))
    assert manifest.splits["val"] == manifest.splits["test"] == {"images": 0, "labelled": 0}


def test_no_training_image_is_an_error_that_names_the_remedy(tmp_path):
    with pytest.raises(MocoError, match=r"'pictures': none of the 5 images .* training side; add images"):
        write(items(5, "test"), tmp_path)


def test_the_manifest_holds_one_line_an_image_and_leaves_no_scratch_file(tmp_path):
    write(items(10), tmp_path)
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert list(rows[0]) == ["path", "row", "label", "split", "sha256", "bytes"]
    assert json.loads((tmp_path / "manifest.json").read_text())["images"] == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.csv", "manifest.json"]


def test_a_missing_or_damaged_manifest_is_one_clear_line(tmp_path):
    with pytest.raises(MocoError, match="run `dvc repro fetch` first"):
        read_manifest(tmp_path)
    write(items(3), tmp_path)
    (tmp_path / "manifest.csv").write_text("nonsense\n")
    with pytest.raises(MocoError, match=r"manifest\.csv: damaged"):
        list(read_manifest(tmp_path)[1])
