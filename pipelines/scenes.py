"""Stage scenes: a small annotated set, composed of Fashion-MNIST items (data/scenes)."""

import time
from pathlib import Path

from moco import tracking
from moco.files import write_json
from moco.transfer.config import PARAMS, TransferParams, load_transfer_params
from moco.transfer.scenes.build import build_scenes
from pipelines import stage

SCENES = Path("data/scenes")


def scenes(params: TransferParams) -> None:
    """Run the stage: data/scenes, and outputs/transfer/scenes.json."""
    file = stage.outputs("transfer") / "scenes.json"
    start = time.monotonic()
    with stage.alone("scenes", SCENES, "python -m pipelines.scenes"):
        if params.scenes is None:  # the tasks are on other data
            SCENES.mkdir(parents=True, exist_ok=True)
            write_json(file, {})
            return
        with tracking.stage_run("scenes", params.scenes.model_dump()) as tracked:
            counts = build_scenes(SCENES, params.scenes)
            write_json(file, counts)
            tracked.results(counts)
    total = sum(split["scenes"] for split in counts.values())
    print(f"{total} scenes in {SCENES}, {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    stage.main(scenes, __doc__, load_transfer_params, PARAMS)
