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
from pipelines import stage


def start(params: Params) -> None:
    """Fetch the model, if the settings name one; print what the run will begin with."""
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
        FETCHED.parent.mkdir(parents=True, exist_ok=True)
        if FETCHED.is_symlink():  # of a worktree, to the workspace's
            FETCHED.unlink()
        with whole_folder(FETCHED) as part:
            for file in Path(name).iterdir():
                shutil.copyfile(file, part / file.name)
            write_json(part / "origin.json", about)
    version = f", version {about['version']}" if about["version"] else ""
    print(f"start: {uri}{version} is in {FETCHED}")


if __name__ == "__main__":
    stage.main(start, __doc__)
