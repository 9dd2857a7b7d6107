import json

import numpy as np
import pytest
from piece_engines import Here
from small_material import write_arrays, write_gray_numbers

from moco.errors import MocoError
from moco.survey import run
from moco.survey.run import survey


def test_every_image_is_measured_in_the_order_of_the_splits(tmp_path):
    shards = write_gray_numbers(tmp_path)
    found = survey(shards, tmp_path / "kept", "check")
    assert len(found) == found.measured == 40
    numbers = np.rint(found.records["mean"] * 255).astype(int)
    assert sorted(numbers) == list(range(40))
    start = found.starts()["val"]
    assert found.place(start) == ("val", 0)
    assert found.key(start) == found.splits["val"].key(0)
    assert [found.key(number) for number in (0, 1)] == [found.splits["train"].key(i) for i in (0, 1)]
    assert (np.bincount(found.split_of, minlength=3) == [len(images) for images in found.splits.values()]).all()


def test_processes_find_what_one_finds(tmp_path, monkeypatch):
    shards = write_gray_numbers(tmp_path)
    alone = survey(shards, tmp_path / "kept", "check").records
    monkeypatch.setattr(run, "TASK", 4)
    monkeypatch.setattr(run, "cores", lambda: 2)
    assert (survey(shards, tmp_path / "others", "check").records == alone).all()


def test_a_second_survey_measures_only_the_tars_that_are_new(tmp_path):
    shards, kept = write_gray_numbers(tmp_path), tmp_path / "kept"
    first = survey(shards, kept, "check")
    again = survey(shards, kept, "check")
    assert again.measured == 0
    assert (again.records == first.records).all()
    next(kept.glob("*.npy")).unlink()
    assert 0 < survey(shards, kept, "check").measured < 40


def test_a_damaged_record_is_measured_again(tmp_path):
    shards, kept = write_gray_numbers(tmp_path), tmp_path / "kept"
    first = survey(shards, kept, "check")
    next(kept.glob("*.npy")).write_bytes(b"damaged")
    assert (survey(shards, kept, "check").records == first.records).all()


def test_records_of_tars_that_are_long_gone_are_removed(tmp_path, monkeypatch):
    images = np.arange(10 * 64, dtype=np.uint8).reshape(10, 8, 8)
    shards, kept = write_arrays(tmp_path, [(images, None, "train")], [], 100, val_fraction=0), tmp_path / "kept"
    kept.mkdir()
    (kept / "old.npy").write_bytes(b"")
    survey(shards, kept, "check")
    assert (kept / "old.npy").exists()
    monkeypatch.setattr(run, "FORGOTTEN", -1.0)
    survey(shards, kept, "check")
    assert not list(kept.glob("*.npy"))


def test_a_missing_tar_is_named(tmp_path):
    shards = write_gray_numbers(tmp_path)
    tar = shards / json.loads((shards / "index.json").read_text())["splits"]["train"]["shards"][0]["file"]
    tar.unlink()
    with pytest.raises(MocoError, match=tar.name):
        survey(shards, tmp_path / "kept", "check")


def test_other_hosts_measure_the_same_and_keep_it_tar_by_tar(tmp_path):
    shards = write_gray_numbers(tmp_path)
    alone = survey(shards, tmp_path / "alone", "check").records
    with pytest.raises(KeyboardInterrupt):
        survey(shards, tmp_path / "kept", "check", Here(stop_after=2))
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 2
    engine = Here()
    found = survey(shards, tmp_path / "kept", "check", engine)
    assert found.records.tobytes() == alone.tobytes()
    assert engine.done == len(list((tmp_path / "alone").glob("*.npy"))) - 2
    again = Here()
    assert survey(shards, tmp_path / "kept", "check", again).measured == 0
    assert again.done == 0
