"""`moco status` says what works, how far it is, and how it stands."""

import fcntl

from small_material import ROOT

from moco.advice.status import status
from moco.config import load_params
from moco.runs.folder import FINISHED
from moco.runs.job import Job, write_job


def training(runs, name="pretrain-1"):
    folder = runs / name
    write_job(folder, Job(load_params(ROOT / "params.yaml").pretrain, "data/shards"))
    (folder / "curves.csv").write_text("step,epoch,loss,chance\n20,0.5,5.5,8.3\n40,1.0,5.25,8.3\n")
    (folder / "speed.csv").write_text("step,images_per_second,waiting_share\n40,128,0.01\n")
    (folder / "readings.csv").write_text("epoch,knn_top1\n1,0.75\n")
    (folder / "step-000000040.pt").write_bytes(b"x")
    return folder


def test_a_run_under_way_tells_step_time_left_and_its_last_figures(tmp_path):
    training(tmp_path)
    with (tmp_path / "pretrain-1.lock").open("w") as file, (tmp_path / "shard-0a1b.lock").open("w") as other:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 7 on here")
        other.flush()
        said = list(status(tmp_path))
    assert said[0] == "shard: works now (process 7 on here)"
    assert said[1] == "pretrain-1: trains now, step 40 of 200, epoch 1.0 of 5, about 3 min left at 128 images/s"
    assert said[2].startswith("  loss 5.250 (chance 8.30), kNN 75.0% after epoch 1, last checkpoint ")


def test_a_run_that_ended_is_finished_or_resumes(tmp_path):
    folder = training(tmp_path)
    assert "stopped; the same command resumes, step 40 of 200" in next(iter(status(tmp_path)))
    (folder / FINISHED).touch()
    assert "finished, step 40 of 200" in next(iter(status(tmp_path)))


def test_where_nothing_ran_it_says_so(tmp_path):
    assert list(status(tmp_path)) == [f"{tmp_path}: nothing works here, and nothing was trained yet"]
