"""Stage scenes: a small set for detection and segmentation, composed of Fashion-MNIST items (data/scenes)."""

import argparse
import time
from pathlib import Path

from moco import tracking
from moco.transfer.params import PARAMS, TransferParams, load_transfer_params
from moco.transfer.scenes.build import build_scenes
from pipelines import stage

SCENES = Path("data/scenes")


def scenes(params: TransferParams) -> None:
    """Run the stage: data/scenes, and outputs/transfer/scenes.json."""
    if params.scenes is None:  # the tasks are on other data
        SCENES.mkdir(parents=True, exist_ok=True)
        stage.write_json(stage.outputs("transfer") / "scenes.json", {})
        return
    start = time.monotonic()
    with tracking.stage_run("scenes", params.scenes.model_dump()) as tracked:
        counts = build_scenes(SCENES, params.scenes)
        stage.write_json(stage.outputs("transfer") / "scenes.json", counts)
        tracked.results(counts)
    total = sum(split["scenes"] for split in counts.values())
    print(f"{total} scenes in {SCENES}, {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    arguments = stage.with_parameters(argparse.ArgumentParser(description=__doc__), str(PARAMS)).parse_args()
    with stage.errors_in_one_line():
        scenes(load_transfer_params(arguments.params, arguments.set))
