"""Stage shard: data/shards with its metrics, from what fetch left."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from moco.config import load_params
from moco.errors import MocoError
from moco.images.index import open_split
from moco.shards.index import verify
from pipelines.fetch import fetch
from pipelines.shard import shard

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def params(tmp_path, monkeypatch):
    """The working folder holds 30 images and a broken one below data/inbox."""
    shutil.copy(PARAMS, tmp_path)
    for i in range(30):
        file = tmp_path / "data/inbox" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 2 * i, 3 * i)).save(file)
    (tmp_path / "data/inbox/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "elsewhere"))
    return load_params(overrides=["fetch.source=folder", "pretrain.global_batch=16", "pretrain.bn_group_size=8"])


def test_it_writes_shards_metrics_and_a_summary(params, capsys):
    fetch(params)
    shard(params)
    metrics = json.loads(Path("outputs/shard/metrics.json").read_text())
    assert (metrics["images"], metrics["quarantined"]) == (30, 1)
    for split in ("train", "val", "test"):
        assert len(open_split("data/shards", split)) == metrics[split]["images"]
    assert verify("data/shards") == []
    said = capsys.readouterr().out
    assert "shard  100% · " in said
    assert "images/s" in said
    assert "MB/s" in said
    assert "1 files left out; data/shards/quarantine.jsonl gives their reasons" in said


def test_its_tracked_outputs_are_the_same_again(params):
    fetch(params)
    shard(params)
    names = ["outputs/shard/metrics.json", *(str(path) for path in Path("data/shards").iterdir())]
    before = {name: Path(name).read_bytes() for name in names}
    shard(params)
    assert {name: Path(name).read_bytes() for name in names} == before


def test_fewer_images_than_a_batch_are_refused_before_anything_is_packed(params):
    fetch(params)
    few = params.model_copy(update={"pretrain": params.pretrain.model_copy(update={"images_fraction": 0.5})})
    with pytest.raises(MocoError, match=r"global_batch = 16 is more than the 1[23] training images; lower it"):
        shard(few)
    assert not Path("data/shards").exists()


def test_without_fetch_it_names_the_command_to_run(params):
    with pytest.raises(MocoError, match=r"data/raw/manifest\.json: no such file; run `dvc repro fetch` first"):
        shard(params)
