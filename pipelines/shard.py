"""Stage shard: the images of data/raw become WebDataset tars in data/shards."""

import json
import re
import time
from collections import Counter

from moco import tracking
from moco.cluster.machine import load_machine
from moco.config import SPLITS, Params
from moco.files import file_sha256, readable, write_json
from moco.shards.write import write_shards
from moco.sources.manifest import MANIFEST, read_manifest
from moco.text import printable
from pipelines import stage
from pipelines.cache import restore

SAID, LONGEST = 3, 100
"""Reasons for leaving files out that are printed, and characters of each."""


def shard(params: Params) -> None:
    """Run the stage: data/shards, outputs/shard/metrics.json and a short summary."""
    started = time.monotonic()
    manifest = read_manifest(stage.RAW)
    stage.check_enough(params.pretrain, manifest.splits["train"], manifest.other_files)
    with stage.alone("shard"), tracking.stage_run("shard", params.shard.model_dump()) as tracked:
        restore(stage.SHARDS)
        engine = load_machine().elsewhere
        metrics = write_shards(stage.RAW, stage.SHARDS, stage.runs_folder(), params.shard, engine=engine)
        write_json(stage.outputs("shard") / "metrics.json", metrics)
        digest = tracking.dvc_digest(str(stage.RAW)) or file_sha256(stage.RAW / MANIFEST)
        tracked.dataset("raw", digest, stage.RAW, "sharding")
        tracked.results(metrics)
    tars = sum(metrics[split]["shards"] for split in SPLITS)
    size = readable(sum(metrics[split]["bytes"] for split in SPLITS))
    print(f"{metrics['images']} images in {tars} shards ({size}), {time.monotonic() - started:.1f} s")
    if metrics["quarantined"]:
        print(f"{metrics['quarantined']} files left out; {stage.SHARDS}/quarantine.jsonl gives their reasons")
        print(printable("most: " + "; ".join(f"{reason} ({count})" for reason, count in _reasons().most_common(SAID))))


def _reasons() -> Counter[str]:
    """Count the reasons why files were left out, without the figures of each."""
    lines = (stage.SHARDS / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return Counter(re.sub(r"\d+", "…", json.loads(line)["reason"])[:LONGEST] for line in lines)


if __name__ == "__main__":
    stage.main(shard, __doc__)
