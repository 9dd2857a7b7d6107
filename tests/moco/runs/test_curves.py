"""Curves on disk: each step once, in order, and readable after a crash."""

import math

import pytest

from moco.errors import MocoError
from moco.runs.curves import Curve, Tail, numbers, read_rows


def test_reopening_a_curve_drops_rows_whose_steps_run_again_and_a_row_cut_short(tmp_path):
    path = tmp_path / "curve.csv"
    curve = Curve(path, ["step", "loss"], upto=0)
    assert curve.last() is None
    for step in (10, 20, 30):
        curve.add({"step": step, "loss": step / 7})
    assert curve.last() == {"step": "30", "loss": repr(30 / 7)}
    with path.open("a") as file:
        file.write("40")  # a crash within a line
    Curve(path, ["step", "loss"], upto=20).add({"step": 30, "loss": 1.5})
    assert [row["step"] for row in read_rows(path)] == ["10", "20", "30"]
    assert float(read_rows(path)[0]["loss"]) == 10 / 7
    assert path.read_bytes().count(b"\r") == 0


def test_a_missing_file_has_no_rows_unless_columns_are_asked_for(tmp_path):
    assert read_rows(tmp_path / "none.csv") == []
    with pytest.raises(MocoError, match=r"none.csv: no such file; run that stage first"):
        read_rows(tmp_path / "none.csv", ["step"])


def test_a_missing_column_is_named(tmp_path):
    Curve(tmp_path / "curve.csv", ["step", "loss"], upto=0).add({"step": 1, "loss": 2.0})
    assert read_rows(tmp_path / "curve.csv", ["step", "loss"]) == [{"step": "1", "loss": "2.0"}]
    with pytest.raises(MocoError, match=r"curve.csv: lacks the column top1"):
        read_rows(tmp_path / "curve.csv", ["step", "top1"])
    (tmp_path / "empty.csv").touch()
    with pytest.raises(MocoError, match="lacks the column step"):
        read_rows(tmp_path / "empty.csv", ["step"])


def test_cells_become_numbers_and_an_empty_one_is_nan():
    found = numbers({"step": "3", "loss": "0.25", "knn": ""})
    assert (found["step"], found["loss"]) == (3.0, 0.25)
    assert math.isnan(found["knn"])


def test_a_tail_reads_each_row_once_and_all_of_a_file_that_began_again(tmp_path):
    tail = Tail(tmp_path / "curves.csv")
    assert tail.rows() == []
    curve = Curve(tmp_path / "curves.csv", ["step", "loss"], upto=0)
    assert tail.rows() == []
    curve.add({"step": 1, "loss": 0.5})
    curve.add({"step": 2, "loss": 0.25})
    assert tail.rows() == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25"}]
    with curve.path.open("a") as file:
        file.write("3,0.1")  # not whole yet
    assert tail.rows() == []
    with curve.path.open("a") as file:
        file.write("25\n")
    assert tail.rows() == [{"step": "3", "loss": "0.125"}]
    assert tail.begun_again == 0
    Curve(curve.path, ["step", "loss"], upto=1)
    assert tail.rows() == [{"step": "1", "loss": "0.5"}]
    assert tail.begun_again == 1
