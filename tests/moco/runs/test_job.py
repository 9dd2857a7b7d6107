"""A run's folder as an order, and what a process leaves in it."""

import json

import pytest
from small_material import ROOT

from moco.config import load_params
from moco.errors import MocoError
from moco.runs.job import ERROR, JOB, Job, error_left, leave_error, read_job, write_job
from moco.worker import PATIENCE, refuse_endless_restarts


@pytest.fixture
def job() -> Job:
    return Job(load_params(ROOT / "params.yaml").pretrain, "data/shards")


def test_an_order_comes_back_as_it_was_given(job, tmp_path):
    write_job(tmp_path / "run", job)
    assert read_job(tmp_path / "run") == job


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no such file"),
        ("shards: x\n", "'pretrain' is missing"),
        ("shards: x\npretrain: {K: 1}\n", "K is no known key"),
    ],
)
def test_a_missing_or_changed_order_is_one_line(tmp_path, text, told):
    if text:
        (tmp_path / JOB).write_text(text)
    with pytest.raises(MocoError, match=told) as error:
        read_job(tmp_path)
    assert "\n" not in str(error.value)


def test_the_first_reason_stays_until_the_next_start(job, tmp_path):
    assert error_left(tmp_path) is None
    assert leave_error(tmp_path, MocoError("the first"))
    assert leave_error(tmp_path, MocoError("a consequence"))
    assert error_left(tmp_path) == "the first"
    assert [path.name for path in tmp_path.iterdir()] == [ERROR]
    write_job(tmp_path, job)
    assert error_left(tmp_path) is None


def test_a_reason_that_cannot_be_left_is_told(tmp_path):
    assert not leave_error(tmp_path / "missing", MocoError("lost"))


def test_starts_from_the_same_step_are_counted_and_progress_forgives(tmp_path):
    for restarts in range(PATIENCE):
        refuse_endless_restarts(tmp_path, restarts)
    (tmp_path / "step-000000007.pt").touch()
    for restarts in range(PATIENCE, 2 * PATIENCE):
        refuse_endless_restarts(tmp_path, restarts)
    with pytest.raises(MocoError, match=f"failed {PATIENCE} times after step 7"):
        refuse_endless_restarts(tmp_path, 2 * PATIENCE)
    refuse_endless_restarts(tmp_path, 0)  # a person has started it again
    (record,) = tmp_path.glob("starts.*.json")
    assert json.loads(record.read_text()) == {"began": [7]}
