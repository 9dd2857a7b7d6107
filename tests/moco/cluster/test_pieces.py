"""Pieces of work in a folder: each is done once, by whoever, and its result is read in order."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from piece_engines import Here

from moco.cluster.pieces import Pieces, do, main, share_of, spread
from moco.errors import MocoError


def squared(item):
    """Square a number; one of them cannot be."""
    if item == 13:
        raise MocoError("13: brings bad luck; take another number")
    if item == 14:
        raise OSError(28, os.strerror(28), "/full")
    return item * item


def test_results_come_in_the_order_of_the_items_whatever_is_finished_first(tmp_path, capsys):
    engine = Here([2, 0, 3, 1])
    assert list(spread(engine, "square", tmp_path / "work", squared, range(4))) == [0, 1, 4, 9]
    assert engine.closed
    assert list(tmp_path.iterdir()) == []
    assert "square  100% · 4 of 4 pieces" in capsys.readouterr().out
    unasked = Here()
    assert list(spread(unasked, "square", tmp_path / "work", squared, [])) == []
    assert not unasked.closed


def test_a_reader_that_stops_ends_the_work(tmp_path):
    engine = Here(range(4))
    results = spread(engine, "square", tmp_path / "work", squared, range(4))
    assert next(results) == 0
    results.close()
    assert engine.closed
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_driver_left_goes_and_late_workers_write_nowhere(tmp_path):
    leftover = spread(Here(range(4)), "square", tmp_path / "work", squared, range(4))
    next(leftover)
    (before,) = tmp_path.iterdir()
    (tmp_path / "works-fine").mkdir()
    assert list(spread(Here(range(3)), "square", tmp_path / "work", squared, range(3))) == [0, 1, 4]
    assert list(tmp_path.iterdir()) == [tmp_path / "works-fine"]
    with pytest.raises(OSError, match=r"\.pieces"):
        do(before, 3)


@pytest.mark.parametrize("world_size", [1, 2, 4, 9])
def test_any_number_of_processes_do_each_piece_once(tmp_path, world_size, monkeypatch):
    calls = tmp_path / "calls"

    class Array:
        def run(self, pieces):
            for rank in range(world_size):
                jobs = {"ID": rank // 3, "COUNT": 3} if world_size == 9 else {"ID": rank, "COUNT": world_size}
                for name, value in jobs.items():
                    monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
                if world_size == 9:
                    monkeypatch.setenv("SLURM_PROCID", str(rank % 3))
                    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
                monkeypatch.setattr(sys, "argv", ["", str(pieces.folder)])
                main()
                found = pieces.finished(set(range(pieces.count)) - seen)
                assert len(found) == len(range(rank, pieces.count, world_size))
                seen.update(found)
                yield from found

    seen = set()
    appended = [(str(calls), number) for number in range(7)]
    assert list(spread(Array(), "append", tmp_path / "work", append, appended)) == list(range(7))
    assert sorted(calls.read_text().split()) == [str(number) for number in range(7)]


def append(item):
    """Leave a trace of each call."""
    path, number = item
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    return number


def test_a_piece_that_is_done_is_not_done_again(tmp_path):
    results = spread(Here([0, 0]), "append", tmp_path / "work", append, [(str(tmp_path / "calls"), 0)])
    assert next(results) == 0
    results.close()
    assert (tmp_path / "calls").read_text() == "0\n"


def test_more_pieces_than_a_folder_holds_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("moco.cluster.pieces.IN_A_FOLDER", 3)
    found = []

    class Late(Here):
        def run(self, pieces):
            for number in range(pieces.count):
                do(pieces.folder, number)
            (pieces.folder / "done/000001/000000004.n1.7.part").touch()  # of a worker that was killed
            found.extend(pieces.finished({1, 4, 6}))
            yield from range(pieces.count)

    assert list(spread(Late([]), "square", tmp_path / "work", squared, range(7))) == [n * n for n in range(7)]
    assert found == [1, 4, 6]


def test_a_process_leaves_its_reason_for_the_driver(tmp_path):
    class Failing(Here):
        def run(self, pieces):
            assert pieces.failure() is None
            command = [sys.executable, "-m", "moco.cluster.pieces", str(pieces.folder)]
            paths = os.pathsep.join(str(Path(__file__).parents[above]) for above in (0, 2, 3))
            done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, cwd="/")
            assert done.returncode == 1
            assert pieces.failure() == "13: brings bad luck; take another number"
            yield from pieces.finished({0, 1})

    assert list(spread(Failing([]), "square", tmp_path / "work", squared, [1, 13])) == [1]
    results = spread(Here([0]), "square", tmp_path / "work", squared, [14])
    with pytest.raises(MocoError, match=r"/full: No space left on device; free some space"):
        next(results)


def test_shares_are_read_from_slurms_environment():
    assert share_of({}) == (0, 1)
    assert share_of({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}) == (3, 4)
    step = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    assert share_of(step | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}) == (7, 8)


def test_pieces_know_what_they_are_called(tmp_path):
    assert Pieces(tmp_path / "shards-1f-00ff.pieces", 1).name == "shards-1f"
