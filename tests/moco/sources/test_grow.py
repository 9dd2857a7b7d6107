"""Images that arrive later make a listing of their own; what was there stays byte for byte."""

import hashlib
import shutil
import time

import pytest
from small_material import rows_of

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.forget import forget, leave_out
from moco.sources.grow import Arrival, grow
from moco.sources.listing import Item
from moco.sources.manifest import lines, read_left_out, read_manifest
from moco.sources.places import read_places

SETTINGS = Fetch(source="folder", path="pictures", labels="folders", val_fraction=0.2, test_fraction=0.2, split_seed=0)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def items(*numbers, label="cat", part="all", group="", folder="a"):
    return [Item(f"{folder}/{n:05d}.png", None, label, part, digest(f"{n}"), 100, group) for n in numbers]


@pytest.fixture
def raw(tmp_path):
    """A manifest of 60 images that follow their source."""
    folder = tmp_path / "raw"
    folder.mkdir()
    grow(Arrival(items(*range(60)), SETTINGS, "folder", "pictures"), folder, folder)
    return folder


def add(raw, found, followed=True, settings=SETTINGS, **about):
    """Replace the manifest by what it is with these images."""
    part = raw.with_name("part")
    part.mkdir()
    arrival = Arrival(found, settings, "folder", "pictures", followed=followed, **about)
    try:
        manifest = grow(arrival, part, raw, read_manifest(raw))
    except MocoError:
        shutil.rmtree(part)
        raise
    shutil.rmtree(raw)
    part.rename(raw)
    return manifest


def content(raw):
    return {file.name: file.read_bytes() for file in raw.iterdir()}


def paths(raw):
    return {row.path for row in rows_of(raw)}


def test_what_is_new_makes_a_listing_and_the_first_one_is_not_written_again(raw):
    before, file = content(raw), (raw / "000000.csv").stat()
    manifest = add(raw, items(*range(70)))
    assert [listing.images for listing in manifest.listings] == [60, 10]
    assert (manifest.images, manifest.changes, manifest.duplicates) == (70, 2, 0)
    assert content(raw)["000000.csv"] == before["000000.csv"]
    assert (raw / "000000.csv").stat().st_ino == file.st_ino
    assert {row.path for _, _, row, *_ in lines(raw, manifest) if int(row.path[2:7]) >= 60} == {
        item.path for item in items(*range(60, 70))
    }
    for split, counted in manifest.splits.items():
        assert counted["images"] == sum(row.split == split for row in rows_of(raw))


def test_nothing_new_gives_the_same_bytes(raw):
    before = content(raw)
    assert add(raw, items(*range(60))[::-1]).changes == 1
    assert content(raw) == before


def test_an_image_that_its_source_no_longer_has_goes_and_the_line_stays(raw):
    before = content(raw)["000000.csv"]
    manifest = add(raw, items(*range(5, 60)))
    assert (manifest.images, manifest.changes) == (55, 2)
    assert paths(raw) == {item.path for item in items(*range(5, 60))}
    assert content(raw)["000000.csv"] == before
    assert sum(placed.removed == 2 for placed in lines(raw, manifest)) == 5
    again = add(raw, items(*range(60)))
    assert (again.images, again.changes, len(again.listings)) == (60, 3, 2), "it comes back as a new image"


def test_an_image_that_came_by_itself_stays_when_the_source_changes(raw):
    add(raw, items(100, 101), followed=False)
    assert paths(raw) >= {"a/00100.png", "a/00101.png"}
    manifest = add(raw, items(*range(30)))
    assert manifest.images == 32
    assert paths(raw) >= {"a/00100.png", "a/00101.png"}


def test_a_file_that_moved_is_the_same_image_and_one_in_another_class_is_another(raw):
    before = content(raw)["000000.csv"]
    moved = items(*range(3), folder="b") + items(*range(3, 60))
    assert add(raw, moved).changes == 1
    relabelled = items(*range(3), label="dog", folder="dog") + items(*range(3, 60))
    manifest = add(raw, relabelled)
    assert (manifest.images, manifest.classes, manifest.changes) == (60, ["cat", "dog"], 2)
    assert content(raw)["000000.csv"] == before


def spots(raw):
    return [(place.root, place.path, place.followed) for place in read_places(raw)]


def test_a_file_that_moved_has_its_new_place_noted_and_one_that_moved_back_none(raw):
    before = content(raw)
    moved = items(7, folder="b") + items(*range(7), *range(8, 60))
    assert add(raw, moved).changes == 1
    noted = content(raw)
    assert spots(raw) == [("pictures", "b/00007.png", True)]
    assert {name: data for name, data in noted.items() if name != "places.csv"} == before
    add(raw, moved)
    assert content(raw) == noted, "once is enough"
    add(raw, moved + items(7, folder="copy"))
    assert [(line.path, line.twin) for line in read_left_out(raw)] == [("copy/00007.png", "b/00007.png")]
    add(raw, items(7, folder="c") + items(*range(7), *range(8, 60)))
    assert spots(raw) == [("pictures", "c/00007.png", True)]
    add(raw, items(*range(60)))
    assert content(raw) == before


class TestWhatIngestFoundToo:
    """Images that are in the followed source and came by themselves."""

    @pytest.mark.parametrize("ingest_first", [False, True])
    def test_they_stay_when_the_source_loses_them(self, raw, ingest_first):
        if ingest_first:
            add(raw, items(70, 71, folder="night"), followed=False)
            add(raw, items(*range(60), 70, 71))
        else:
            add(raw, items(*range(60), 70, 71))
            assert add(raw, items(70, 71, folder="night"), followed=False).images == 62
        there = content(raw)
        add(raw, items(70, 71, folder="night"), followed=False)
        assert content(raw) == there
        manifest = add(raw, items(*range(60)))
        assert manifest.images == 62
        assert {int(path[-9:-4]) for path in paths(raw)} == {*range(60), 70, 71}
        assert ("pictures", "night/00070.png", False) in spots(raw) or ingest_first
        forget(raw, ["night/00070.png"])
        assert len(rows_of(raw)) == 61
        assert add(raw, items(*range(60), 70)).images == 61

    def test_they_stay_when_another_source_is_followed_and_keep_their_split(self, raw):
        split = {row.sha256: row.split for row in rows_of(raw)}
        add(raw, items(3, 4, folder="night"), followed=False)
        other = SETTINGS.model_copy(update={"path": "elsewhere"})
        manifest = add(raw, items(4, *range(100, 120), label="dog", folder="e"), settings=other)
        assert manifest.images == 22
        label = {row.sha256: (row.label, row.split) for row in rows_of(raw)}
        assert label[digest("3")] == ("cat", split[digest("3")])
        assert label[digest("4")] == ("dog", split[digest("4")]), "as the followed source has it now"
        assert add(raw, items(*range(100, 120), label="dog", folder="e"), settings=other).images == 22
        seeded = other.model_copy(update={"split_seed": 1})
        with pytest.raises(
            MocoError, match="images are there that were split by 0; set it back, or `moco fetch --begin"
        ):
            add(raw, items(*range(100, 120), folder="e"), settings=seeded)

    def test_a_file_of_the_followed_source_itself_follows_it(self, raw):
        add(raw, items(3, 4), followed=False)
        assert spots(raw) == []
        assert add(raw, items(*range(3), *range(5, 60))).images == 58


def test_lines_of_what_is_left_out_go_with_the_files_of_the_followed_source(raw):
    add(raw, items(*range(60)) + items(7, folder="copy"))
    add(raw, items(8, folder="night"), followed=False)
    assert [line.path for line in read_left_out(raw)] == ["copy/00007.png", "night/00008.png"]
    manifest = add(raw, items(*range(60)))
    assert ([line.path for line in read_left_out(raw)], manifest.duplicates) == (["night/00008.png"], 1)


def test_a_list_of_before_that_does_not_say_who_found_a_file_is_made_again(raw):
    add(raw, items(*range(60)) + items(7, folder="copy"))
    lines_of_before = [line.rpartition(",")[0] for line in (raw / "left_out.csv").read_text().splitlines()]
    (raw / "left_out.csv").write_text("\n".join(lines_of_before) + "\n")
    assert add(raw, items(*range(60)) + items(7, folder="copy")).duplicates == 1
    assert [line.followed for line in read_left_out(raw)] == ["1"]


def test_many_copies_of_one_image_cost_no_time_that_grows_with_their_square(raw):
    copies = [item._replace(path=f"copy/{n}.png") for n, item in enumerate(items(*[99] * 6000, part="train"))]
    start = time.monotonic()
    manifest = add(raw, copies + items(*range(60)) + items(98, part="test"), own={"test"})
    assert manifest.duplicates == 5999
    assert time.monotonic() - start < 30  # 3 s on two busy cores; it was 80 s with a search for each


class TestForgetting:
    def test_an_image_is_named_by_a_path_that_was_left_out(self, raw):
        add(raw, items(*range(60)) + items(7, folder="copy"))
        assert [placed.row.path for placed in forget(raw, ["copy/00007.png"])] == ["a/00007.png"]
        assert read_left_out(raw) == []
        assert add(raw, items(*range(60)) + items(7, folder="copy")).images == 59

    def test_an_image_is_named_by_the_path_that_it_moved_to(self, raw):
        add(raw, items(7, folder="b") + items(*range(7), *range(8, 60)))
        forget(raw, ["b/00007.png"])
        assert len(rows_of(raw)) == 59
        assert spots(raw) == []

    def test_an_image_that_its_source_lost_is_refused_from_now_on(self, raw):
        add(raw, items(*range(59)))
        assert [placed.row.path for placed in forget(raw, ["a/00059.png"])] == ["a/00059.png"]
        assert add(raw, items(*range(60))).images == 59

    def test_a_near_duplicate_that_was_left_out_is_forgotten_too(self, raw):
        near, twin = digest("7")[:16], digest("8")[:16]
        leave_out(raw, {near: twin})
        assert [placed.row.path for placed in forget(raw, ["a/00007.png"])] == ["a/00007.png"]
        assert read_left_out(raw) == []
        assert add(raw, items(*range(60))).images == 59

    def test_a_path_names_the_image_that_has_it_now(self, raw):
        other = [item._replace(path="a/00059.png") for item in items(80)]
        add(raw, items(*range(59)) + other)
        assert {placed.row.sha256 for placed in forget(raw, ["a/00059.png"])} == {digest("80")}


def test_what_is_in_the_set_already_is_left_out_and_listed_with_its_twin(raw):
    manifest = add(raw, items(3, 4, 70, folder="late"), followed=False)
    assert (manifest.images, manifest.duplicates) == (61, 2)
    assert [(line.path, line.twin) for line in read_left_out(raw)] == [
        ("late/00003.png", "a/00003.png"),
        ("late/00004.png", "a/00004.png"),
    ]
    assert add(raw, items(3, 4, 70, folder="late"), followed=False) == manifest, "once is enough"


def test_a_second_copy_in_the_source_itself_is_listed_too(raw):
    manifest = add(raw, items(*range(60)) + items(7, folder="copy"))
    assert (manifest.images, manifest.duplicates, len(manifest.listings)) == (60, 1, 1)
    assert [line.twin for line in read_left_out(raw)] == ["a/00007.png"]


def test_an_unreadable_file_is_one_image_by_its_path(raw):
    lost = [Item("lost.png", None, "", "all", "", 0)]
    assert add(raw, items(*range(60)) + lost).images == 61
    assert add(raw, items(*range(60)) + lost).changes == 2
    assert add(raw, items(*range(60))).images == 60


def test_classes_keep_their_numbers(raw):
    manifest = add(raw, items(*range(60)) + items(70, label="ant") + items(71, label="bee"))
    assert manifest.classes == ["cat", "ant", "bee"]


def test_what_an_official_test_set_brings_is_no_longer_trained_on(raw):
    train = [row for row in rows_of(raw) if row.split == "train"][:4]
    numbers = [int(row.path[2:7]) for row in train]
    manifest = add(raw, items(*numbers, part="test", folder="test"), followed=False, own={"test"})
    assert manifest.images == 60
    split_of = {row.path: row.split for row in rows_of(raw)}
    assert {split_of[f"test/{n:05d}.png"] for n in numbers} == {"test"}
    assert not {row.path for row in train} & set(split_of)


def test_a_group_stays_in_the_split_that_it_is_in(raw):
    groups = [f"g{n}" for n in range(40)]
    first = [item for n, group in enumerate(groups) for item in items(1000 + n, group=group, folder="first")]
    add(raw, first, followed=False)
    split_of = {row.path: row.split for row in rows_of(raw)}
    # Each later group shares an image with an earlier one, which fixes the split of its others.
    shared = [item for n in range(40) for item in items(1000 + n, 2000 + n, group=f"h{n}", folder="late")]
    again = [item for n, group in enumerate(groups) for item in items(3000 + n, group=group, folder="again")]
    add(raw, shared + again, followed=False)
    later = {row.path: row.split for row in rows_of(raw)}
    for n in range(40):
        split = split_of[f"first/{1000 + n:05d}.png"]
        assert later[f"late/{2000 + n:05d}.png"] == later[f"again/{3000 + n:05d}.png"] == split
    assert len(set(split_of.values())) == 3


def test_other_settings_begin_again_with_what_is_followed_and_keep_what_is_not(raw):
    other = SETTINGS.model_copy(update={"path": "elsewhere"})
    add(raw, items(100), followed=False)
    manifest = add(raw, items(*range(10), folder="e"), settings=other)
    assert (manifest.images, len(manifest.listings), manifest.fetch["path"]) == (11, 3, "elsewhere")
    seeded = other.model_copy(update={"split_seed": 1})
    with pytest.raises(MocoError, match=r"fetch\.split_seed = 1: 1 images are there that were split by 0; set it back"):
        add(raw, items(*range(10), folder="e"), settings=seeded)
    with pytest.raises(MocoError, match="were split by 0"):
        add(raw, items(200), followed=False, settings=seeded)


def test_a_set_that_would_be_empty_is_refused(raw):
    before = content(raw)
    with pytest.raises(MocoError, match="no images there"):
        add(raw, [])
    assert content(raw) == before
