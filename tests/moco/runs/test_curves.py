"""Curves on disk: each step once, in order, and readable after a crash."""

import math

import pytest

from moco.errors import MocoError
from moco.runs.curves import Curve, numbers, read_rows


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
