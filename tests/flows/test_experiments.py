"""DVC's experiments with this project's parameters: queued, side by side, pushed and pulled."""

import time

import pytest
from small_pipeline import Pipeline

from moco.config import load_params


@pytest.mark.slow
def test_experiments_are_queued_run_side_by_side_pushed_and_pulled(alone: Pipeline) -> None:
    top = alone.folder.parent
    alone.dvc("remote", "add", "--default", "store", str(top / "store"))
    alone.run("git", "init", "--quiet", "--bare", str(top / "origin"))
    alone.git("remote", "add", "origin", str(top / "origin"))
    meet = "touch {here}/$$; for i in $(seq 100); do [ $(ls {here} | wc -l) -ge 2 ] && break; sleep 0.1; done"
    (top / "met").mkdir()
    alone.dvc("repro", "--quiet")
    alone.dvc("push", "--quiet")
    alone.change("linear", cmd=f"test -f encoder || exit 1; {meet.format(here=top / 'met')}; echo '{{}}' > linear.json")
    alone.commit()
    alone.git("push", "--quiet", "origin", "HEAD:refs/heads/main")
    for name, rate in (("slow", 0.1), ("fast", 1.0)):
        change = ["--set-param", f"linear.learning_rates=[{rate}]", "--name", name]
        alone.dvc("exp", "run", "--queue", *change, "--pull", "--downstream", "linear")  # git holds no image for fetch
    alone.dvc("queue", "start", "--jobs", "2")
    deadline = time.monotonic() + 240
    while (status := alone.dvc("queue", "status")).count("Success") < 2:
        assert "Failed" not in status and time.monotonic() < deadline, status
        time.sleep(1)
    assert len(list((top / "met").iterdir())) == 2
    alone.dvc("exp", "push", "origin", "slow", "fast")
    other = Pipeline(top / "other", alone.env)
    alone.git("clone", "--quiet", "--branch", "main", str(top / "origin"), str(other.folder))
    other.dvc("exp", "pull", "origin", "fast")
    other.dvc("exp", "apply", "fast")
    assert load_params(other.folder / "params.yaml").linear.learning_rates == [1.0]
    assert (other.folder / "outputs/report/report.html").exists()
