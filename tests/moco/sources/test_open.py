"""Every source yields the same kind of items; public sets are read in their formats on disk."""

import gzip
import hashlib
import os
import pickle
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources import fashion_mnist
from moco.sources.hashing import stream
from moco.sources.open import open_source

SETTINGS = Fetch(source="folder", path="x", labels="folders", val_fraction=0.1, test_fraction=0.1, split_seed=0)


def fetch(source, path, folder=None, **changes):
    settings = SETTINGS.model_copy(update={"source": source, "path": str(path), **changes})
    found = open_source(settings)
    return found, list(stream(found, folder or Path(path), None))


def put(path, content=b"anything"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestFolder:
    def test_the_first_folder_names_the_class_and_files_at_the_root_have_none(self, tmp_path):
        for name in ("cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg", "4.jpg"):
            put(tmp_path / name)
        _, items = fetch("folder", tmp_path)
        assert {item.path: item.label for item in items} == {
            "cat/1.jpg": "cat",
            "cat/deep/2.jpg": "cat",
            "dog/3.jpg": "dog",
            "4.jpg": "",
        }
        assert {item.part for item in items} == {"all"}

    def test_without_labels_nothing_is_labelled(self, tmp_path):
        put(tmp_path / "cat/1.jpg")
        _, items = fetch("folder", tmp_path, labels="none")
        assert [item.label for item in items] == [""]

    def test_hidden_files_and_folders_are_skipped(self, tmp_path):
        for name in (".git/1.jpg", "a/.hidden.jpg", "a/1.jpg"):
            put(tmp_path / name)
        _, items = fetch("folder", tmp_path)
        assert [item.path for item in items] == ["a/1.jpg"]

    def test_files_are_hashed_by_content(self, tmp_path):
        put(tmp_path / "a.jpg", b"one")
        _, [item] = fetch("folder", tmp_path)
        assert (item.sha256, item.bytes) == (hashlib.sha256(b"one").hexdigest(), 3)

    def test_a_broken_link_is_listed_without_a_hash(self, tmp_path):
        put(tmp_path / "a.jpg")
        (tmp_path / "b.jpg").symlink_to("nowhere")
        _, items = fetch("folder", tmp_path)
        assert [(item.path, item.sha256 == "") for item in items] == [("a.jpg", False), ("b.jpg", True)]

    def test_linked_folders_are_followed_but_not_in_a_circle(self, tmp_path):
        put(tmp_path / "elsewhere/1.jpg")
        (tmp_path / "in/a").mkdir(parents=True)
        (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
        (tmp_path / "in/b").symlink_to(tmp_path / "elsewhere")
        _, items = fetch("folder", tmp_path / "in")
        assert [item.path for item in items] == ["b/1.jpg"]

    def test_what_a_nas_or_a_desktop_puts_among_images_is_left_out_and_counted(self, tmp_path):
        for name in ("@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "a/@eaDir/2.jpg", "a/Thumbs.db", "$RECYCLE.BIN/3.jpg"):
            put(tmp_path / name)
        for name in ("__MACOSX/a/4.jpg", "Icon\r", "a/1.jpg", "eaDir/5.jpg"):
            put(tmp_path / name)
        found, items = fetch("folder", tmp_path)
        assert [(item.path, item.label) for item in items] == [("a/1.jpg", "a"), ("eaDir/5.jpg", "eaDir")]
        assert str(found.left_out) == "@eaDir (2), $RECYCLE.BIN (1), Icon (1), __MACOSX (1), Thumbs.db (1)"

    @pytest.mark.parametrize(
        ("folders", "parts"),
        [
            ({"train", "val", "test"}, {"train": "train", "val": "val", "test": "test"}),
            ({"train", "valid"}, {"train": "all", "valid": "val"}),
            ({"Training", "Testing"}, {"Training": "train", "Testing": "test"}),
            ({"train", "dev", "test", ".git", "@eaDir"}, {"train": "train", "dev": "val", "test": "test"}),
        ],
    )
    def test_folders_of_splits_are_splits_and_the_folders_in_them_classes(self, tmp_path, folders, parts):
        for folder in folders:
            put(tmp_path / folder / "cat/1.jpg")
            put(tmp_path / folder / "2.jpg")
        found, items = fetch("folder", tmp_path)
        assert {item.path: (item.label, item.part) for item in items} == {
            f"{folder}/{name}": (label, part)
            for folder, part in parts.items()
            for name, label in (("cat/1.jpg", "cat"), ("2.jpg", ""))
        }
        assert found.own == {"val" if "v" in name.lower() else "test" for name in parts if name.lower()[:2] != "tr"}
        assert found.notes[0].startswith("folders taken for splits: ")
        assert {item.label for item in fetch("folder", tmp_path, labels="none")[1]} == {""}

    @pytest.mark.parametrize("folders", [("train",), ("train", "bus"), ("val", "test"), ("train", "training")])
    def test_folders_that_are_no_splits_stay_classes(self, tmp_path, folders):
        for folder in folders:
            put(tmp_path / folder / "1.jpg")
        found, items = fetch("folder", tmp_path)
        assert ({item.label for item in items}, found.own) == (set(folders), frozenset())

    def test_one_folder_around_the_classes_is_pointed_out(self, tmp_path):
        put(tmp_path / "images/cat/1.jpg")
        put(tmp_path / "images/dog/2.jpg")
        found, _ = fetch("folder", tmp_path)
        assert found.notes == [
            "all images are in the folder 'images', which is the only class; if the folders in it are the classes, set"
            f" fetch.path to '{tmp_path}/images'"
        ]
        assert fetch("folder", tmp_path / "images")[0].notes == []

    @pytest.mark.parametrize(
        ("folders", "line"),
        [
            (("Annotations", "ImageSets", "JPEGImages"), r"PASCAL VOC's layout .* set fetch.path to '.*/JPEGImages'"),
            (("images", "labels"), "YOLO's layout"),
            (("annotations", "train2017", "val2017"), "COCO's layout"),
            (("annotations", "images"), "COCO's layout"),
            (("leftImg8bit", "gtFine"), "Cityscapes' layout"),
        ],
    )
    def test_folders_of_annotations_are_refused_by_the_name_of_their_layout(self, tmp_path, folders, line):
        for folder in folders:
            put(tmp_path / folder / "1.jpg")
        with pytest.raises(MocoError, match=line):
            fetch("folder", tmp_path)
        assert len(fetch("folder", tmp_path, labels="none")[1]) == len(folders)

    def test_a_pipe_among_the_files_does_not_block(self, tmp_path):
        put(tmp_path / "a.jpg")
        os.mkfifo(tmp_path / "b.jpg")
        _, items = fetch("folder", tmp_path)
        assert [item.path for item in items] == ["a.jpg"]

    def test_a_missing_folder_names_the_path_and_the_remedy(self, tmp_path):
        with pytest.raises(MocoError, match="missing': no such folder; name the folder"):
            fetch("folder", tmp_path / "missing")

    def test_an_empty_folder_names_the_path_and_the_remedy(self, tmp_path):
        put(tmp_path / "empty/.keep")
        with pytest.raises(MocoError, match="empty': the folder holds no files; put your images there"):
            fetch("folder", tmp_path / "empty")


class TestList:
    def test_csv_paths_start_at_the_list_and_labels_may_be_missing(self, tmp_path):
        put(tmp_path / "in/a.jpg")
        put(tmp_path / "in/b.jpg")
        listing = put(tmp_path / "list.csv", "\ufefflabel,path\ncat,in/a.jpg\n,in/b.jpg\n".encode())
        found, items = fetch("list", listing)
        assert [(item.path, item.label) for item in items] == [("in/a.jpg", "cat"), ("in/b.jpg", "")]
        assert found.root == str(tmp_path)

    def test_parquet_gives_the_same_items_as_csv(self, tmp_path):
        import pyarrow
        import pyarrow.parquet

        put(tmp_path / "a.jpg")
        put(tmp_path / "b.jpg")
        table = pyarrow.table({"path": ["a.jpg", "b.jpg"], "label": [3, None]})
        pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
        listing = put(tmp_path / "list.csv", b"path,label\na.jpg,3\nb.jpg,\n")
        assert fetch("list", tmp_path / "list.parquet")[1] == fetch("list", listing)[1]

    @pytest.mark.parametrize(
        "text",
        [
            "path,label\na.jpg,cat\nb.jpg,dog\n",
            "path, label\na.jpg, cat\nb.jpg,dog \n",
            "Path,Label\r\na.jpg,cat\r\nb.jpg,dog\r\n",
            "path,class\na.jpg,cat\nb.jpg,dog\n",
            "path;label\na.jpg;cat\nb.jpg;dog\n",
            "label\tpath\ncat\ta.jpg\ndog\tb.jpg\n",
        ],
    )
    def test_names_of_columns_and_labels_may_have_spaces_capitals_and_excels_semicolons(self, tmp_path, text):
        for name in ("a.jpg", "b.jpg"):
            put(tmp_path / name)
        _, items = fetch("list", put(tmp_path / "list.csv", text.encode()))
        assert [(item.path, item.label) for item in items] == [("a.jpg", "cat"), ("b.jpg", "dog")]

    def test_the_columns_that_are_used_and_those_that_are_not_are_named(self, tmp_path):
        put(tmp_path / "a.jpg")
        found, _ = fetch(
            "list", put(tmp_path / "list.csv", b"path,class,width, height,Group,split\na.jpg,cat,1,2,3,val\n")
        )
        assert found.notes == [
            "splits are those of the column split",
            "groups are those of the column Group",
            "labels are those of the column class",
            "columns of the list that are not used: width, height",
        ]

    @pytest.mark.parametrize("value", ["", "nan", "NaN", "<NA>", "  "])
    def test_what_stands_for_no_label_or_group_is_none(self, tmp_path, value):
        put(tmp_path / "a.jpg")
        listing = put(tmp_path / "list.csv", f"path,label,group\na.jpg,{value},{value}\n".encode())
        _, items = fetch("list", listing)
        assert (items[0].label, items[0].group) == ("", "")

    @pytest.mark.parametrize("value", ["none", "None", "null"])
    def test_a_class_may_be_called_none(self, tmp_path, value):
        put(tmp_path / "a.jpg")
        _, items = fetch("list", put(tmp_path / "list.csv", f"path,label\na.jpg,{value}\n".encode()))
        assert items[0].label == value

    def test_whole_numbers_that_a_gap_made_floats_are_whole_again(self, tmp_path):
        import pyarrow
        import pyarrow.parquet

        for name in "abc":
            put(tmp_path / name)
        table = pyarrow.table({"path": ["a", "b", "c"], "label": [0.0, float("nan"), 12.0]})
        pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
        assert [item.label for item in fetch("list", tmp_path / "list.parquet")[1]] == ["0", "", "12"]

    def test_a_list_of_labels_is_refused_with_its_row(self, tmp_path):
        import pyarrow
        import pyarrow.parquet

        put(tmp_path / "a.jpg")
        pyarrow.parquet.write_table(pyarrow.table({"path": ["a.jpg"], "label": [["cat", "dog"]]}), tmp_path / "l.pq")
        with pytest.raises(MocoError, match=r"l\.pq, row 1: the label is \['cat', 'dog'\]; an image has one label"):
            fetch("list", tmp_path / "l.pq")

    def test_a_column_split_gives_the_splits_and_what_is_missing_is_drawn(self, tmp_path):
        for name in "abc":
            put(tmp_path / name)
        listing = put(tmp_path / "list.csv", b"path,split\na,train\nb,Valid\nc,test\n")
        found, items = fetch("list", listing)
        assert [item.part for item in items] == ["train", "val", "test"]
        assert found.own == {"val", "test"}
        put(listing, b"path,split\na,train\nb,val\n")
        assert [item.part for item in fetch("list", listing)[1]] == ["all", "val"]
        put(listing, b"path,split\na,train\nb,holdout\n")
        with pytest.raises(
            MocoError, match=r"list\.csv, line 3: the split is 'holdout'; write train, val or test, or rename"
        ):
            fetch("list", listing)

    def test_a_list_without_labels_is_unlabelled(self, tmp_path):
        put(tmp_path / "a.jpg")
        _, items = fetch("list", put(tmp_path / "list.csv", b"path\na.jpg\n"))
        assert [item.label for item in items] == [""]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"file,label\na.jpg,1\n", r"list\.csv, line 1: no column path \(columns: file, label\)"),
            (b"path,label\na.jpg,1\ngone.jpg,2\n", r"list\.csv, line 3: no such file 'gone\.jpg'"),
            (b"path,label\n,1\n", r"list\.csv, line 2: the column path is empty"),
            (b"path\n\xff\xfe.jpg\n", r"list\.csv: not a CSV file in UTF-8"),
            (b"", r"list\.csv, line 1: no column path \(columns: none\)"),
        ],
    )
    def test_a_wrong_list_is_one_line_with_file_and_row(self, tmp_path, text, message):
        put(tmp_path / "a.jpg")
        with pytest.raises(MocoError, match=message):
            fetch("list", put(tmp_path / "list.csv", text))

    def test_a_missing_list_or_a_broken_parquet_file_is_one_clear_line(self, tmp_path):
        with pytest.raises(MocoError, match="no such file; source list needs a CSV or Parquet file"):
            fetch("list", tmp_path / "none.csv")
        with pytest.raises(MocoError, match=r"list\.parquet: not a Parquet file"):
            fetch("list", put(tmp_path / "list.parquet", b"PAR?"))


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """A Fashion-MNIST of 30 + 10 images in its true format, with matching checksums."""
    random = np.random.default_rng(0)
    folder, sums, content = tmp_path / "fashion", {}, {}
    for name, count in (("train", 30), ("t10k", 10)):
        content[f"{name}-images-idx3-ubyte"] = idx(random.integers(0, 256, (count, 28, 28), np.uint8))
        content[f"{name}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    for name, data in content.items():
        put(folder / f"{name}.gz", gzip.compress(data))
        sums[name] = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(fashion_mnist, "INSTALLED", folder)
    monkeypatch.setattr(fashion_mnist, "SHA256", sums)
    return folder


class TestFashionMnist:
    def test_it_is_read_where_the_package_puts_it(self, fashion, tmp_path):
        found, items = fetch("fashion-mnist", "unused", tmp_path)
        stored = np.load(tmp_path / "000000.npy")
        assert stored.shape == (40, 28, 28)
        assert [item.part for item in items] == ["train"] * 30 + ["test"] * 10
        assert items[13].label == found.classes[3] == "Dress"
        assert items[39].sha256 == hashlib.sha256(stored[39].tobytes()).hexdigest()

    def test_where_it_is_not_installed_the_package_is_unpacked_without_root(self, fashion, tmp_path, monkeypatch):
        calls, moved = [], fashion.rename(tmp_path / "in the package")

        def run(command, cwd, **_):
            calls.append(command)
            if command[0] == "apt-get":
                put(cwd / "dataset.deb")
            else:
                unpacked = cwd / fashion.relative_to("/")
                unpacked.parent.mkdir(parents=True)
                moved.rename(unpacked)

        monkeypatch.setattr(subprocess, "run", run)
        assert len(fetch("fashion-mnist", "unused", tmp_path)[1]) == 40
        assert calls == [["apt-get", "download", "dataset-fashion-mnist"], ["dpkg-deb", "-x", "dataset.deb", "."]]

    def test_damaged_files_are_refused_and_every_way_tried_is_named(self, fashion, tmp_path, monkeypatch):
        put(fashion / "t10k-labels-idx1-ubyte.gz", gzip.compress(b"other"))

        def offline(*arguments, **_):
            raise subprocess.CalledProcessError(100, "apt-get", stderr="E: Unable to locate package\n")

        def no_download(scratch):
            raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

        monkeypatch.setattr(subprocess, "run", offline)
        monkeypatch.setattr(fashion_mnist, "_download", no_download)
        with pytest.raises(MocoError) as error:
            fetch("fashion-mnist", "unused", tmp_path)
        line = str(error.value)
        assert "\n" not in line
        assert "SHA-256 of t10k-labels-idx1-ubyte is wrong" in line
        assert "E: Unable to locate package" in line
        assert "Error downloading" in line
        assert "Install the Debian package dataset-fashion-mnist" in line


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar10_is_read_from_its_pickled_batches(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    random = np.random.default_rng(0)
    folder, images, lists = tmp_path / CIFAR10.base_folder, {}, {"train": [], "test": []}
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        images[name] = random.integers(0, 256, (4, 3, 32, 32), np.uint8)
        batch = {"data": images[name].reshape(4, -1), "labels": [0, 1, 1, 0]}
        file = put(folder / name, pickle.dumps(batch))
        lists["test" if name == "test_batch" else "train"].append([name, md5(file)])
    meta = put(folder / "batches.meta", pickle.dumps({"label_names": ["airplane", "bird"]}))
    monkeypatch.setattr(CIFAR10, "train_list", lists["train"])
    monkeypatch.setattr(CIFAR10, "test_list", lists["test"])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(meta)})
    out = tmp_path / "raw"
    out.mkdir()
    _, items = fetch("cifar10", tmp_path, out)
    assert [item.part for item in items] == ["train"] * 8 + ["test"] * 4
    assert [item.label for item in items[:4]] == ["airplane", "bird", "bird", "airplane"]
    np.testing.assert_array_equal(np.load(out / "000000.npy")[5], images["data_batch_2"][1].transpose(1, 2, 0))


def test_stl10_brings_its_unlabelled_images_to_training(tmp_path, monkeypatch):
    from torchvision.datasets import STL10

    random = np.random.default_rng(0)
    folder, lists, stored = tmp_path / STL10.base_folder, {"train": [], "test": []}, {}
    for part, count, labels in (("train", 4, [1, 2, 1, 2]), ("unlabeled", 6, None), ("test", 2, [2, 1])):
        stored[part] = random.integers(0, 256, (count, 96, 96, 3), np.uint8)
        # On disk: channel by channel, each column by column.
        files = [put(folder / f"{part}_X.bin", stored[part].transpose(0, 3, 2, 1).tobytes())]
        if labels:
            files.append(put(folder / f"{part}_y.bin", bytes(labels)))
        lists["test" if part == "test" else "train"] += [[file.name, md5(file)] for file in files]
    put(folder / "class_names.txt", b"airplane\nbird\n")
    monkeypatch.setattr(STL10, "train_list", lists["train"])
    monkeypatch.setattr(STL10, "test_list", lists["test"])
    out = tmp_path / "raw"
    out.mkdir()
    _, items = fetch("stl10", tmp_path, out)
    assert [(item.part, item.label) for item in items[3:5]] == [("train", "bird"), ("train", "")]
    assert [item.label for item in items[10:]] == ["bird", "airplane"]
    np.testing.assert_array_equal(np.load(out / "000000.npy")[4:10], stored["unlabeled"])


def test_imagenet_takes_its_validation_folder_for_the_test_set(tmp_path):
    for name in ("train/n01440764/a.JPEG", "train/n01443537/b.JPEG", "val/n01440764/c.JPEG"):
        put(tmp_path / name, name.encode())
    torch.save(({"n01440764": ("tench",), "n01443537": ("goldfish",)}, ["n01440764"]), tmp_path / "meta.bin")
    found, items = fetch("imagenet", tmp_path)
    assert [(item.path, item.label, item.part) for item in items] == [
        ("train/n01440764/a.JPEG", "n01440764", "train"),
        ("train/n01443537/b.JPEG", "n01443537", "train"),
        ("val/n01440764/c.JPEG", "n01440764", "test"),
    ]
    assert found.classes == ["n01440764", "n01443537"]


def test_imagenet_as_kaggle_packs_it_takes_the_validation_labels_from_its_table(tmp_path):
    for name in ("train/n01440764/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG"):
        put(tmp_path / "ILSVRC/Data/CLS-LOC" / name, name.encode())
    with pytest.raises(MocoError, match=r"images without folders of classes; put Kaggle's LOC_val_solution\.csv into"):
        fetch("imagenet", tmp_path)
    put(
        tmp_path / "LOC_val_solution.csv",
        b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8 \n",
    )
    found, items = fetch("imagenet", tmp_path)
    assert [(item.label, item.part) for item in items] == [("n01440764", "train"), ("n01440764", "test")]
    assert items[1].path == "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG"
    assert found.classes == ["n01440764"]


def test_a_public_set_that_cannot_be_downloaded_is_one_line_naming_the_folder(tmp_path):
    with pytest.raises(MocoError, match=r"imagenet: not complete in .*ILSVRC2012_devkit.*put its archives there"):
        fetch("imagenet", tmp_path)


def test_arrays_that_do_not_fit_the_disk_are_refused_before_anything_is_written(fashion, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**4))
    with pytest.raises(MocoError, match=r"fetching the images needs about 64\.\d MB, 10\.0 kB are free"):
        fetch("fashion-mnist", "unused", tmp_path)
    assert not (tmp_path / "000000.npy").exists()
