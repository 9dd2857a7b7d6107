"""A default DVC remote that answers, that does not, and that is lost on the way."""

import shutil
from collections.abc import Iterator

import pytest
from s3_store import KEYS, NOBODY, keep_on_s3, s3_server
from small_pipeline import Pipeline

from flows import remotes

CLOSED = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


def without_credentials(pipeline: Pipeline) -> Pipeline:
    kept = {name: value for name, value in pipeline.env.items() if not name.startswith("AWS_")}
    return Pipeline(pipeline.folder, kept | NOBODY)


def test_only_a_default_remote_counts(alone: Pipeline) -> None:
    assert remotes.look(alone.folder, alone.env) is None
    alone.dvc("remote", "add", "store", str(alone.folder.parent / "store"))
    assert remotes.look(alone.folder, alone.env) is None
    alone.dvc("remote", "default", "store")
    found = remotes.look(alone.folder, alone.env)
    assert found is not None and found.name == "store" and found.usable


def test_why_a_remote_does_not_answer_is_one_line(alone: Pipeline, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_on_s3(alone.dvc, s3)
    found = remotes.look(alone.folder, alone.env | KEYS)
    assert found is not None and found.usable and found.url == "s3://store/moco"
    found = remotes.look(alone.folder, without_credentials(alone).env)
    assert found is not None and found.reason == "Unable to locate credentials"
    keep_on_s3(alone.dvc, CLOSED)
    monkeypatch.setattr(remotes, "LOOK_SECONDS", 2.0)
    found = remotes.look(alone.folder, alone.env | KEYS)
    assert found is not None and found.reason == "no answer within 2 s"


def test_without_credentials_everything_that_needs_no_remote_runs(served: Pipeline, s3: str) -> None:
    keep_on_s3(served.dvc, s3)
    poor = without_credentials(served)
    done = poor.flow()
    assert done.stderr.count("Running stage") == 5
    (line,) = [line for line in done.stderr.splitlines() if "not pushed" in line or "Unable" in line]
    assert "DVC remote store (s3://store/moco): Unable to locate credentials" in line
    assert "outputs of fetch, pretrain, " in line
    assert "were not pushed; later: `dvc push --run-cache`" in line
    assert "Running stage" not in poor.flow().stderr  # nor does an unchanged run fail
    Pipeline(served.folder, served.env | KEYS).dvc("push", "--run-cache")  # as it says
    shutil.rmtree(served.folder / "data/inbox")
    done = poor.flow(check=False)
    assert done.returncode == 1
    assert "(DVC remote store, s3://store/moco, could not be asked for it: Unable to locate credentials)" in done.stderr


def test_a_remote_that_is_lost_on_the_way_stops_nothing(served: Pipeline) -> None:
    store = served.folder.parent / "store"
    served.dvc("remote", "add", "--default", "store", str(store))
    served.change("pretrain", cmd=f"echo weights > encoder && rm -rf {store} && touch {store}")
    done = served.flow()
    assert done.stderr.count("Running stage") == 5
    (line,) = [line for line in done.stderr.splitlines() if "not pushed" in line]
    assert f"DVC remote store ({store}): " in line
    assert "outputs of pretrain, " in line


def test_how_outputs_were_made_is_pushed_and_another_clone_restores_them(served: Pipeline) -> None:
    store = served.folder.parent / "store"
    served.dvc("remote", "add", "--default", "store", str(store))
    served.commit()
    served.flow()
    assert any((store / "runs").rglob("*"))
    other = Pipeline(served.folder.parent / "other", served.env)
    served.git("clone", "--quiet", str(served.folder), str(other.folder))  # without dvc.lock
    shutil.copytree(served.folder / "data/inbox", other.folder / "data/inbox", dirs_exist_ok=True)
    other.dvc("fetch", "--run-cache")
    assert "Running stage" not in other.dvc("repro", "--pull")
    assert (other.folder / "encoder").exists()
