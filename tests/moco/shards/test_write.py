"""Shards: the same bytes for any number of processes and after any interruption."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image
from small_material import rows_of

from moco.config import SPLITS, Fetch, Shard
from moco.errors import MocoError
from moco.images.decode import decode
from moco.images.index import open_split
from moco.shards import index
from moco.shards import write as shards
from moco.shards.index import verify
from moco.shards.write import write_shards
from moco.sources.forget import forget
from moco.sources.manifest import read_manifest
from moco.sources.open import open_source
from moco.sources.places import read_places
from moco.sources.source import Arrays
from moco.sources.take_in import take_in

SETTINGS = Shard(
    samples_per_shard=8,
    merge_below=None,
    megabytes_per_shard=256,
    max_side=None,
    jpeg_quality=92,
    max_bad_fraction=0.05,
)


def fetched(path, raw, source=None, **changes):
    """A manifest of the images below `path`, in `raw`."""
    shares = {"labels": "folders", "val_fraction": 0.2, "test_fraction": 0.2, "split_seed": 0} | changes
    settings = Fetch(source="folder", path=str(path), **shares)
    take_in(source or open_source(settings), settings, raw)
    return raw


def picture(seed):
    """Smooth noise, so that every format keeps it small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((20, 16), Image.Resampling.BILINEAR)


@pytest.fixture
def photos(tmp_path):
    """60 images of two classes, as JPEG, PNG and WebP."""
    for i in range(60):
        file = tmp_path / "photos" / ("cat" if i % 2 else "dog") / f"{i:03d}.{('jpg', 'png', 'webp')[i % 3]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(file)
    return tmp_path / "photos"


def shard(raw, tmp_path, name="shards", processes=1, **changes):
    settings = SETTINGS.model_copy(update=changes)
    metrics = write_shards(raw, tmp_path / name, tmp_path / "runs", settings, processes)
    return tmp_path / name, metrics


def content(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_the_result_is_the_same_for_any_number_of_processes_and_from_run_to_run(photos, tmp_path):
    raw = fetched(photos, tmp_path / "raw")
    one, metrics = shard(raw, tmp_path, "one", processes=1)
    three, _ = shard(raw, tmp_path, "three", processes=3)
    assert content(one) == content(three)
    assert 8 <= len(list(one.glob("*.tar"))) == sum(metrics[split]["shards"] for split in SPLITS)
    assert metrics["val"]["bytes"] == sum(tar.stat().st_size for tar in one.glob("val-*.tar"))
    assert not list((tmp_path / "runs").iterdir())


def test_a_stock_webdataset_reads_the_shards(photos, tmp_path):
    wds = pytest.importorskip("webdataset")
    folder, _ = shard(fetched(photos, tmp_path / "raw"), tmp_path)
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    pairs = wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg;png;webp", "json")
    seen = {about["path"]: image for image, about in pairs}
    assert len(seen) == 60
    for path, image in seen.items():
        with Image.open(photos / path) as original:
            assert np.array_equal(image, original.convert("RGB"))


class TestGrowing:
    """A second run over a manifest that has changed."""

    @pytest.fixture
    def grown(self, photos, tmp_path):
        """Shards of 60 images, then of 45 more from elsewhere; one of them is bad."""
        raw = fetched(photos, tmp_path / "raw")
        folder, _ = shard(raw, tmp_path)
        for i in range(45):
            file = tmp_path / "more/cat" / f"{i:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(100 + i).save(file)
        (tmp_path / "more/cat/bad.png").write_bytes(b"no image")
        shares = {"labels": "folders", "val_fraction": 0.2, "test_fraction": 0.2, "split_seed": 0}
        settings = Fetch(source="folder", path=str(tmp_path / "more"), **shares)
        take_in(open_source(settings), settings, raw, read_manifest(raw), followed=False)
        return raw, folder, content(folder)

    def test_later_images_get_shards_of_their_own_and_a_part_of_the_index(self, grown, tmp_path):
        raw, folder, before = grown
        _, metrics = shard(raw, tmp_path)
        after = content(folder)
        assert {
            name: digest for name, digest in before.items() if name.endswith((".tar", ".npy"))
        }.items() <= after.items()
        assert (metrics["images"], metrics["quarantined"]) == (105, 1)
        train = open_split(folder, "train")
        assert len(train.parts) == 2
        assert [decode(train.read(i)).shape[2] for i in range(len(train))] == [3] * len(train)
        assert len({train.key(i) for i in range(len(train))}) == len(train) == metrics["train"]["images"]
        assert verify(folder) == []
        shard(raw, tmp_path)
        assert content(folder) == after, "nothing new changes nothing"

    def test_what_grew_and_shrank_is_what_is_written_at_once(self, grown, tmp_path):
        raw, folder, _ = grown
        shard(raw, tmp_path)
        rows = rows_of(raw)
        forget(raw, [rows[0].sha256, rows[-1].path, next(row.path for row in rows if row.path.endswith("bad.png"))])
        shutil.rmtree(tmp_path / "more")  # what stays needs no source
        for file in (tmp_path / "photos").rglob("*.png"):
            file.rename(file.with_suffix(".gone"))
        _, metrics = shard(raw, tmp_path)
        assert (metrics["images"], metrics["quarantined"]) == (103, 0)
        assert verify(folder) == []
        for file in (tmp_path / "photos").rglob("*.gone"):
            file.rename(file.with_suffix(".png"))
        for i in range(45):
            file = tmp_path / "more/cat" / f"{i:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(100 + i).save(file)
        at_once, _ = shard(raw, tmp_path, "at once")
        tars = {name: digest for name, digest in content(folder).items() if name.endswith(".tar")}
        assert tars == {name: digest for name, digest in content(at_once).items() if name.endswith(".tar")}
        assert open_split(at_once, "train").data_hash == open_split(folder, "train").data_hash

    def test_the_index_has_few_parts_however_often_images_come(self, photos, tmp_path, monkeypatch):
        monkeypatch.setattr(index, "MOST_PARTS", 2)
        raw = fetched(photos, tmp_path / "raw", val_fraction=0, test_fraction=0)
        parts = []
        for night in range(4):
            (tmp_path / f"n{night}").mkdir()
            picture(500 + night).save(tmp_path / f"n{night}/a.png")
            settings = Fetch(
                source="folder",
                path=str(tmp_path / f"n{night}"),
                labels="folders",
                val_fraction=0,
                test_fraction=0,
                split_seed=0,
            )
            take_in(open_source(settings), settings, raw, read_manifest(raw), followed=False)
            folder, _ = shard(raw, tmp_path)
            assert verify(folder) == []
            parts.append(len(open_split(folder, "train").parts))
        assert parts == [1, 2, 1, 2]

    def test_small_shards_of_many_nights_become_one_where_that_is_asked_for(self, photos, tmp_path):
        raw = fetched(photos, tmp_path / "raw", val_fraction=0, test_fraction=0)
        names, tars = [], []
        for night in range(5):
            for i in range(3):
                (tmp_path / f"n{night}").mkdir(exist_ok=True)
                picture(500 + 10 * night + i).save(tmp_path / f"n{night}/{i}.png")
            settings = Fetch(
                source="folder",
                path=str(tmp_path / f"n{night}"),
                labels="folders",
                val_fraction=0,
                test_fraction=0,
                split_seed=0,
            )
            take_in(open_source(settings), settings, raw, read_manifest(raw), followed=False)
            folder, _ = shard(raw, tmp_path, merge_below=4)
            assert verify(folder) == []
            names.append(sorted(path.name for path in folder.glob("*.tar"))[8:])
            tars.append(content(folder))
            if night < 4:
                shutil.rmtree(tmp_path / f"n{night}")  # merged without it
        assert names[1] == ["train-000008.tar", "train-000009.tar"]
        assert names[2] == ["train-000008-to-000010.tar"]
        assert names[4] == ["train-000008-to-000010.tar", "train-000011.tar", "train-000012.tar"]
        assert tars[4]["train-000008-to-000010.tar"] == tars[2]["train-000008-to-000010.tar"]
        with pytest.raises(MocoError, match=r"'0\.png': several images came with this path; name them by their keys"):
            forget(raw, ["0.png"])
        forget(raw, [rows_of(raw)[-9].sha256])
        folder, metrics = shard(raw, tmp_path, merge_below=4)
        assert (metrics["images"], len(open_split(folder, "train"))) == (74, 74)
        assert "train-000008-to-000010-7.tar" in content(folder)

    def test_files_that_moved_are_found_when_all_is_sharded_again(self, photos, tmp_path):
        raw = fetched(photos, tmp_path / "raw")
        folder, _ = shard(raw, tmp_path)
        before = content(folder)
        other, _ = shard(raw, tmp_path, "other", samples_per_shard=5)
        (photos / "cat/003.jpg").rename(photos / "cat/moved.jpg")
        (photos / "dog/000.jpg").rename(photos / "cat/000.jpg")  # with a label of its own, another image
        (photos / "cat/005.webp").rename(photos / "cat/moved.webp")
        (photos / "cat/005.webp").write_bytes((photos / "cat/007.png").read_bytes())  # something else has its name
        settings = read_manifest(raw).settings
        take_in(open_source(settings), settings, raw, read_manifest(raw))
        assert len(list(read_places(raw))) == 2
        shard(raw, tmp_path)
        kept = {name for name, digest in content(folder).items() if before.get(name) == digest}
        assert len([name for name in before.keys() - kept if name.endswith(".tar")]) == 1, "the tar of dog/000.jpg"
        again, metrics = shard(raw, tmp_path, "again", samples_per_shard=5)
        assert metrics["images"] == 60
        assert verify(again) == []
        same = {name for name, digest in content(other).items() if content(again).get(name) == digest}
        assert len([name for name in content(other).keys() - same if name.endswith(".tar")]) == 1

    def test_images_of_a_folder_that_was_emptied_are_found_where_they_came_from_again(self, grown, tmp_path):
        raw, folder, _ = grown
        (tmp_path / "more").rename(tmp_path / "restored")
        settings = read_manifest(raw).settings.model_copy(update={"path": str(tmp_path / "restored")})
        there = read_manifest(raw)
        manifest = take_in(open_source(settings), settings, raw, there, followed=False)
        assert (manifest.images, manifest.changes) == (there.images, there.changes)
        _, metrics = shard(raw, tmp_path)
        assert (metrics["images"], metrics["quarantined"]) == (105, 1)
        assert verify(folder) == []

    def test_images_that_go_while_the_tars_are_written_are_in_them_until_the_next_run(
        self, photos, tmp_path, monkeypatch
    ):
        raw = fetched(photos, tmp_path / "raw")
        look, row = shards._Job.look, rows_of(raw)[0]

        def forgotten_behind_it(job):
            pieces = look(job)
            forget(raw, [row.sha256])
            return pieces

        with monkeypatch.context() as context:
            context.setattr(shards._Job, "look", forgotten_behind_it)
            folder, metrics = shard(raw, tmp_path)
        assert metrics["images"] == 60
        assert verify(folder) == []
        assert shard(raw, tmp_path)[1]["images"] == 59

    def test_images_whose_source_is_gone_before_they_are_stored_are_named(self, grown, tmp_path):
        raw, folder, before = grown
        shutil.rmtree(tmp_path / "more")
        with pytest.raises(
            MocoError, match=r"more: not there, and 46 images came from it; bring them back, or get their"
        ):
            shard(raw, tmp_path)
        assert content(folder) == before


class TestBadFiles:
    @pytest.fixture
    def messy(self, photos):
        good = (photos / "cat/003.jpg").read_bytes()
        (photos / "cut.jpg").write_bytes(good[: len(good) // 2])
        (photos / "empty.png").write_bytes(b"")
        (photos / "words.jpg").write_text("not an image")
        (photos / "lost.jpg").symlink_to("nowhere")
        (photos / "notes.txt").write_text("a text among the images")
        return photos

    def test_they_are_listed_and_skipped_the_same_from_run_to_run(self, messy, tmp_path):
        raw = fetched(messy, tmp_path / "raw")
        one, metrics = shard(raw, tmp_path, "one", max_bad_fraction=0.1)
        two, _ = shard(raw, tmp_path, "two", processes=2, max_bad_fraction=0.1)
        listed = [json.loads(line) for line in (one / "quarantine.jsonl").read_text().splitlines()]
        assert [each["path"] for each in listed] == ["cut.jpg", "empty.png", "lost.jpg", "notes.txt", "words.jpg"]
        assert listed[1]["reason"] == "empty file"
        assert (metrics["images"], metrics["quarantined"]) == (60, 5)
        assert content(one) == content(two)

    def test_too_many_stop_the_stage_with_count_share_and_names(self, messy, tmp_path):
        with pytest.raises(MocoError) as error:
            shard(fetched(messy, tmp_path / "raw"), tmp_path, max_bad_fraction=0.05)
        line = str(error.value)
        assert line.startswith("4 of 64 images (6.2%) are unreadable, more than shard.max_bad_fraction = 0.05: ")
        assert "cut.jpg (not a readable image" in line
        assert "empty.png (empty file);" in line
        assert not (tmp_path / "shards").exists()

    def test_files_that_never_claimed_to_be_images_do_not_stop_the_stage(self, photos, tmp_path):
        for i in range(60):
            (photos / f"{i:03d}.txt").write_text(f"caption {i}")
        _, metrics = shard(fetched(photos, tmp_path / "raw"), tmp_path, max_bad_fraction=0.0)
        assert (metrics["images"], metrics["quarantined"]) == (60, 60)

    def test_a_folder_without_any_image_is_an_error(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in/a.jpg").write_text("text")
        raw = fetched(tmp_path / "in", tmp_path / "raw", val_fraction=0, test_fraction=0)
        with pytest.raises(MocoError, match="no image of the training split can be read"):
            shard(raw, tmp_path, max_bad_fraction=1.0)


class TestInterruption:
    def test_finished_shards_are_kept_and_damaged_ones_are_made_again(self, photos, tmp_path, monkeypatch, capsys):
        raw = fetched(photos, tmp_path / "raw")
        whole, _ = shard(raw, tmp_path, "whole")

        def disk_fills(*arguments):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as context:
            context.setattr(shards, "write_index", disk_fills)
            with pytest.raises(OSError, match="No space left"):
                shard(raw, tmp_path, "resumed")
        [work] = (tmp_path / "runs").glob("shards-*[!k]")
        tars = sorted((work / "shards").glob("train*.tar"))
        kept, cut = tars[0], tars[1]
        before = kept.stat().st_mtime_ns
        cut.write_bytes(cut.read_bytes()[:-1] + b"x")
        (work / "shards/train-000099.part.tar").write_bytes(b"half a shard")
        (work / "notes/val-000000.tar.json").unlink()
        moved = []
        monkeypatch.setattr(
            shards, "move_folder", lambda *paths: (moved.append(kept.stat().st_mtime_ns), shutil.move(*paths))
        )
        folder, _ = shard(raw, tmp_path, "resumed")
        assert content(folder) == content(whole)
        assert moved == [before]
        total = len(list(folder.glob("*.tar")))
        assert f"{total - 2} of {total} shards were finished by an earlier run" in capsys.readouterr().out

    def test_shards_of_other_rules_of_what_is_sound_are_not_continued(self, photos, tmp_path, monkeypatch, capsys):
        raw = fetched(photos, tmp_path / "raw")

        def stops(*arguments):
            raise MocoError("stopped")

        with monkeypatch.context() as context:
            context.setattr(shards, "write_index", stops)
            context.setattr(shards, "RULES", shards.RULES[:1])
            with pytest.raises(MocoError, match="stopped"):
                shard(raw, tmp_path, "first")
        shard(raw, tmp_path, "second")
        assert "finished by an earlier run" not in capsys.readouterr().out

    def test_a_full_disk_is_foreseen(self, photos, tmp_path, monkeypatch):
        raw = fetched(photos, tmp_path / "raw")
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
        with pytest.raises(MocoError, match="sharding the images needs about"):
            shard(raw, tmp_path)

    def start(self, raw, tmp_path, name):
        """Start sharding in a process; return it and its children once some shards are finished."""
        code = (
            "import sys; from pathlib import Path; from moco.config import Shard\nfrom pipelines import stage\n"
            "from moco.shards.write import write_shards\n"
            "raw, target, runs, settings = sys.argv[1:]\n"
            "with stage.errors_in_one_line():\n"
            "    write_shards(Path(raw), Path(target), Path(runs), Shard.model_validate_json(settings), 2)\n"
        )
        command = [sys.executable, "-c", code, raw, tmp_path / name, tmp_path / "runs", SETTINGS.model_dump_json()]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "runs").glob("shards-*/notes/*.json"))) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return process, psutil.Process(process.pid).children(recursive=True)

    @pytest.fixture(scope="class")
    def large(self, tmp_path_factory):
        images = np.random.default_rng(0).integers(0, 256, (1400, 256, 256), np.uint8)
        return fetched(
            "unused", tmp_path_factory.mktemp("large") / "raw", Arrays(lambda: [(images, None, "train")], [])
        )

    @pytest.fixture(scope="class")
    def unbroken(self, large):
        return content(shard(large, large.parent)[0])

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_a_stopped_run_leaves_no_process_and_the_next_one_ends_at_the_same_bytes(
        self, number, large, unbroken, tmp_path, capsys
    ):
        process, children = self.start(large, tmp_path, "stopped")
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
        assert not psutil.wait_procs(children, timeout=10)[1]
        assert not (tmp_path / "stopped").exists()
        if number != signal.SIGKILL:
            assert process.returncode == 130
            assert said.startswith("error: sharding stopped; ")
            assert said.count("\n") == 1
        resumed, _ = shard(large, tmp_path, "resumed")
        assert "finished by an earlier run and are kept" in capsys.readouterr().out
        assert content(resumed) == unbroken

    def test_a_killed_worker_is_one_clear_line(self, large, tmp_path):
        process, children = self.start(large, tmp_path, "stopped")
        workers = [child for child in children if child.children() == [] and "forkserver" in " ".join(child.cmdline())]
        os.kill(max(workers, key=lambda child: child.cpu_times().user).pid, signal.SIGKILL)
        said = process.communicate(timeout=20)[1]
        assert process.returncode == 1
        assert not psutil.wait_procs(children, timeout=10)[1]
        assert "error: a sharding process was ended, probably for lack of memory" in said

    def test_two_runs_at_once_do_not_share_a_work_folder(self, large, tmp_path):
        process, _ = self.start(large, tmp_path, "first")
        with pytest.raises(MocoError, match="another process is sharding these images"):
            shard(large, tmp_path, "second")
        process.communicate(timeout=60)
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_waits_until_a_process_is_started(number):
    before = signal.signal(number, signal.default_int_handler)
    done = []
    try:
        with pytest.raises(KeyboardInterrupt), shards.undisturbed():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append(True)
        assert done and signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
