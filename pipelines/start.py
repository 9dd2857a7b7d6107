"""Fetch the model that `pretrain.init` names into data/start/model, where DVC sees it change.

No stage of the graph: a model of the registry may be another one tomorrow, and a stage that ran
each time would never be up to date. The Prefect flow comes here before its stages.
"""

import shutil
import tempfile
from pathlib import Path

from moco import tracking
from moco.config import Params
from moco.encoders.init import CHAMPION, FETCHED, Champion, Model
from moco.errors import MocoError
from moco.files import whole_folder, write_json
from moco.images.index import open_split
from moco.runs.folder import training_hash
from pipelines import stage
from pipelines.versions import Version, find


def start(params: Params, as_in: str | None = None) -> None:
    """Fetch the model, if the settings name one; print what the run will begin with.

    Args:
        params: all of params.yaml.
        as_in: a version (`moco versions`): fetch what its run began with, which may have been
            another champion than today's; the stages then find everything as it was.

    Raises:
        MocoError: the registry has no such model, or there is no such version.
    """
    if as_in is not None:
        _restore(find(Path.cwd(), as_in))
        return
    init = params.pretrain.init
    if not isinstance(init, Model | Champion):
        print(f"start: pretrain.init.kind is {init.kind}: nothing to fetch")
        return
    uri = init.uri if isinstance(init, Model) else CHAMPION
    with tempfile.TemporaryDirectory(prefix="moco-") as name:
        about = tracking.download_encoder(uri, Path(name))
        if about is None and isinstance(init, Model):
            raise MocoError(f"pretrain.init.uri = {uri}: the registry has no such model; `mlflow ui` lists them")
        if about is None:
            shutil.rmtree(FETCHED, ignore_errors=True)
            print("start: there is no champion yet; the run begins with weights drawn by the seed")
            return
        if isinstance(init, Champion) and _made_here(params, about["training_hash"]):
            print(f"start: {uri} is what these images and settings made; {FETCHED} stays what that run began with")
            return
        _place(Path(name), about)
    version = f", version {about['version']}" if about["version"] else ""
    print(f"start: {uri}{version} is in {FETCHED}")


def _made_here(params: Params, training: str) -> bool:
    """Whether training with what is here now would make the champion once more.

    Else a run with nothing new would begin with its own result, again and again.
    """
    if not stage.SHARDS.is_dir():
        return False
    try:
        return training_hash(params.pretrain, open_split(stage.SHARDS, "train").data_hash) == training
    except MocoError:  # no readable shards: the stages say so
        return False


def _restore(version: Version) -> None:
    origin = version.start
    if origin is None:
        shutil.rmtree(FETCHED, ignore_errors=True)
        print(f"start: {version.name} began with no registered model")
        return
    model = origin["uri"].removeprefix("models:/").partition("@")[0].partition("/")[0]
    uri = f"models:/{model}/{origin['version']}" if origin["uri"].startswith("models:/") else origin["uri"]
    with tempfile.TemporaryDirectory(prefix="moco-") as name:
        about = tracking.download_encoder(uri, Path(name))
        if about is None or about["training_hash"] != origin["training_hash"]:
            raise MocoError(
                f"{version.name}: began with {uri} (training {origin['training_hash']}), which the registry does not have;"
                " name the registry that has it in MLFLOW_TRACKING_URI"
            )
        _place(Path(name), origin)
    print(f"start: {uri} is in {FETCHED}, as in {version.name}")


def _place(encoder: Path, origin: dict[str, str]) -> None:
    """Put a downloaded encoder where DVC looks, with a note of where it is from."""
    FETCHED.parent.mkdir(parents=True, exist_ok=True)
    if FETCHED.is_symlink():  # of a worktree, to the workspace's
        FETCHED.unlink()
    with whole_folder(FETCHED) as part:
        for file in encoder.iterdir():
            shutil.copyfile(file, part / file.name)
        write_json(part / "origin.json", origin)


if __name__ == "__main__":
    stage.main(start, __doc__)
