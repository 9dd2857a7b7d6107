"""The split goes by content alone, and the manifest is the same for the same images."""

import csv
import hashlib
import json

import pytest
from small_material import rows_of

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.grow import Arrival, grow
from moco.sources.listing import Item
from moco.sources.manifest import read_left_out, read_manifest
from moco.sources.splits import choose_split

SETTINGS = Fetch(source="folder", path="pictures", labels="folders", val_fraction=0.1, test_fraction=0.2, split_seed=0)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def items(count, part="all", content="picture"):
    return [Item(f"{i:05d}.png", None, f"class{i % 3}", part, digest(f"{content} {i}"), 100) for i in range(count)]


def write(found, folder, settings=SETTINGS, classes=None, own=()):
    folder.mkdir(exist_ok=True)
    return grow(Arrival(found, settings, settings.source, "pictures", classes, own), folder, folder)


def sides(folder):
    return {row.path: row.split for row in rows_of(folder)}


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


def test_of_exact_duplicates_one_stays_and_the_others_are_listed_with_it(tmp_path):
    first = [item._replace(label="") if i % 2 else item for i, item in enumerate(items(100))]
    copies = [item._replace(path=f"copy/{item.path}", label="cat") for item in first]
    manifest = write(copies + first, tmp_path)
    assert (manifest.images, manifest.duplicates) == (100, 100)
    stay = set(sides(tmp_path))
    assert stay == {("copy/" if i % 2 else "") + item.path for i, item in enumerate(first)}, "the labelled, the first"
    assert {line.twin for line in read_left_out(tmp_path)} == stay
    assert {line.path for line in read_left_out(tmp_path)}.isdisjoint(stay)


def test_a_set_that_the_source_has_itself_keeps_its_duplicates_under_keys_of_their_own(tmp_path):
    test = items(20, "test")
    manifest = write([*items(20, "train", "other"), *test, test[0]._replace(path="again.png")], tmp_path)
    assert (manifest.splits["test"]["images"], manifest.duplicates) == (21, 0)
    assert len({row.key for row in rows_of(tmp_path)}) == manifest.images == 41


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
    for name in ("000000.csv", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    train = [row.path for row in rows_of(tmp_path / "a") if row.split == "train"]
    assert train != sorted(train)


def test_odd_names_and_labels_survive_the_manifest(tmp_path):
    names = [
        'with "quotes", and commas',
        "two\nlines",
        "one\rline",
        "\r\n",
        "Größe/ü",
        "\u202ecod\U0001f600",
        "not utf-8 \udcff",
        " spaces ",
    ]
    found = [Item(f"{name}.png", None, name, "all", digest(str(i)), 1) for i, name in enumerate(names)]
    write(found, tmp_path, SETTINGS.model_copy(update={"val_fraction": 0.0, "test_fraction": 0.0}))
    labels = {"not utf-8 \udcff": r"not utf-8 \xff"}  # a path leads to its file; a class's name is a text
    assert {(row.path, row.label) for row in rows_of(tmp_path)} == {
        (f"{name}.png", labels.get(name, name)) for name in names
    }


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
    assert {row.sha256 for row in rows_of(tmp_path) if row.path.startswith("lost")} == {""}


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
    with (tmp_path / "000000.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert list(rows[0]) == ["path", "row", "label", "split", "sha256", "bytes", "copy", "cluster"]
    assert json.loads((tmp_path / "manifest.json").read_text())["images"] == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000.csv",
        "left_out.csv",
        "manifest.json",
        "removed.csv",
    ]


def test_a_missing_or_damaged_manifest_is_one_clear_line(tmp_path):
    with pytest.raises(MocoError, match="run `dvc repro fetch` first"):
        read_manifest(tmp_path)
    write(items(3), tmp_path)
    (tmp_path / "000000.csv").write_text("nonsense\n")
    with pytest.raises(MocoError, match=r"000000\.csv: damaged"):
        rows_of(tmp_path)


def grouped(count, groups, content="picture"):
    return [item._replace(group=f"g{i % groups}") for i, item in enumerate(items(count, content=content))]


def test_images_of_a_group_are_in_one_split_and_groups_share_out_as_images_do(tmp_path):
    found = grouped(4000, 1000)
    write(found, tmp_path)
    side = sides(tmp_path)
    of_group = {}
    for item in found:
        of_group.setdefault(item.group, set()).add(side[item.path])
    assert all(len(splits) == 1 for splits in of_group.values())
    assert abs(sum(splits == {"test"} for splits in of_group.values()) - 200) < 60


def test_groups_that_share_an_exact_duplicate_are_in_one_split(tmp_path):
    found = grouped(600, 300)
    twins = [found[i]._replace(path=f"twin/{i}.png", group=found[i + 1].group) for i in range(0, 299, 2)]
    write([*found, *twins], tmp_path)
    side = sides(tmp_path)
    assert all(side[found[i].path] == side[found[i + 1].path] for i in range(0, 299, 2))
    assert set(side.values()) == {"train", "val", "test"}


def test_a_duplicate_without_a_group_follows_its_twin_in_one(tmp_path):
    found = grouped(300, 100)
    alone = [item._replace(path=f"!{item.path}", group="") for item in found[:100]]
    write(found, tmp_path / "without")
    write([*found, *alone], tmp_path / "with")
    side, without = sides(tmp_path / "with"), sides(tmp_path / "without")
    of_group = {item.group: side[item.path] for item in found[100:]}
    assert all(side[f"!{item.path}"] == of_group[item.group] for item in found[:100])
    assert len(side) == len(without) == 300


def test_a_group_in_two_of_the_sources_own_splits_is_refused(tmp_path):
    found = [item._replace(group="g") for item in [*items(2, "train"), *items(2, "test", "other")]]
    with pytest.raises(MocoError, match="are of one group and in two splits; give each group one split"):
        write(found, tmp_path)


def test_a_source_with_validation_images_of_its_own_gets_no_others(tmp_path):
    own = [*items(200, "train"), *items(20, "val", "val"), *items(30, "test", "test")]
    manifest = write(own, tmp_path, own={"val", "test"})
    assert [manifest.splits[split]["images"] for split in ("train", "val", "test")] == [200, 20, 30]


def test_of_exact_duplicates_in_the_sources_own_splits_the_test_image_stays_then_the_one_of_validation(tmp_path):
    test, val, train = items(10, "test"), items(10, "val", "val"), items(10, "train", "train")
    leaks = [item._replace(path=f"leak/{item.path}") for item in (test[0]._replace(part="val"), val[0], test[1])]
    leaks[1:] = [item._replace(part="train") for item in leaks[1:]]
    manifest = write([*test, *val, *train, *leaks], tmp_path, own={"val", "test"})
    assert manifest.duplicates_of_test == 3
    assert [manifest.splits[split]["images"] for split in ("train", "val", "test")] == [10, 10, 10]
    assert not [path for path in sides(tmp_path) if path.startswith("leak/")]


def test_an_image_that_is_listed_with_two_labels_is_refused(tmp_path):
    listed = SETTINGS.model_copy(update={"source": "list", "path": "list.csv"})
    twice = items(3)
    twice.append(twice[0]._replace(label="other"))
    with pytest.raises(MocoError, match=r"'list.csv': '00000.png' is listed with the labels 'class0' and 'other'"):
        write(twice, tmp_path, listed)
