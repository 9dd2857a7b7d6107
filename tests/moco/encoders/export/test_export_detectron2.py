"""detectron2's pickle beside the official converter, stated here again."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from moco.encoders.export.run import export
from moco.encoders.export.source import read_source
from moco.encoders.heads import projection_head


def official_converter(state: dict) -> dict:
    """Rename as the official converter does, from the official file."""
    found = {}
    for name, value in state.items():
        if not name.startswith("module.encoder_q."):
            continue
        name = name.replace("module.encoder_q.", "")
        if "layer" not in name:
            name = "stem." + name
        for t in (1, 2, 3, 4):
            name = name.replace(f"layer{t}", f"res{t + 1}")
        for t in (1, 2, 3):
            name = name.replace(f"bn{t}", f"conv{t}.norm")
        found[name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = value.numpy()
    return found


def test_names_and_arrays_are_the_official_converters(run, tmp_path):
    source = read_source(run[0])
    said = export("detectron2", source, tmp_path / "moco.pkl")
    assert said[0].endswith("largest difference of features 0")
    assert "MODEL.RESNETS.DEPTH 18" in said[1] and "STRIDE_IN_1X1 False" in said[1]
    export("official", source, tmp_path / "moco.pth.tar")
    wanted = official_converter(torch.load(tmp_path / "moco.pth.tar", weights_only=True)["state_dict"])
    found = pickle.loads((tmp_path / "moco.pkl").read_bytes())
    assert (found.pop("__author__"), found.pop("matching_heuristics"), *found) == ("MOCO", True, "model")
    assert found["model"].keys() == wanted.keys()
    for name, value in found["model"].items():
        assert isinstance(value, np.ndarray) and value.dtype == wanted[name].dtype
        assert np.array_equal(value, wanted[name])
    assert found["model"]["res2.0.conv1.norm.num_batches_tracked"].shape == ()


@pytest.mark.parametrize(("head", "keys"), [(None, 318), ("linear", 320), ("mlp", 322)])
def test_a_resnet50_has_the_known_number_of_keys(source_of, tmp_path, head, keys):
    source = source_of("resnet50")
    if head:
        layers = projection_head(head, 2048, 8).state_dict()
        source = replace(
            source, checkpoint={"model": {f"encoder_q.head.{name}": value for name, value in layers.items()}}
        )
    export("detectron2", source, tmp_path / "moco.pkl")
    model = pickle.loads((tmp_path / "moco.pkl").read_bytes())["model"]
    assert len(model) == keys
    assert {"stem.conv1.weight", "stem.conv1.norm.weight", "res5.2.conv3.norm.bias", "res2.0.shortcut.weight"} <= set(
        model
    )
    assert ("stem.fc.2.bias" in model, "stem.fc.bias" in model) == (head == "mlp", head == "linear")
