"""Stage shard: the images of data/raw/manifest.csv become WebDataset tars in data/shards."""

import time

from moco import tracking
from moco.config import SPLITS, Params
from moco.files import file_sha256, readable, write_json
from moco.shards.write import write_shards
from pipelines import stage


def shard(params: Params) -> None:
    """Run the stage: data/shards, outputs/shard/metrics.json and a short summary."""
    started = time.monotonic()
    with tracking.stage_run("shard", params.shard.model_dump()) as tracked:
        metrics = write_shards(stage.RAW, stage.SHARDS, stage.runs_folder(), params.shard)
        write_json(stage.outputs("shard") / "metrics.json", metrics)
        digest = tracking.dvc_digest(str(stage.RAW)) or file_sha256(stage.RAW / "manifest.csv")
        tracked.dataset("raw", digest, stage.RAW, "sharding")
        tracked.results(metrics)
    tars = sum(metrics[split]["shards"] for split in SPLITS)
    size = readable(sum(metrics[split]["bytes"] for split in SPLITS))
    print(f"{metrics['images']} images in {tars} shards ({size}), {time.monotonic() - started:.1f} s")
    if metrics["quarantined"]:
        print(f"{metrics['quarantined']} files left out; {stage.SHARDS}/quarantine.jsonl gives their reasons")


if __name__ == "__main__":
    stage.main(shard, __doc__)
