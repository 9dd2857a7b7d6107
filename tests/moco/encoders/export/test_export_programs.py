"""Programs that hold their normalization: torch.export's and ONNX."""

import json

import pytest
import torch
from torch import nn

from moco.devices import compute_in
from moco.encoders.export import onnx_file
from moco.encoders.export.run import export
from moco.encoders.kinds import network_of
from moco.errors import MocoError

SMALL_STEM = {"kind": "resnet", "name": "thin", "stem": "small-stride2"}
NETWORKS = [SMALL_STEM, "timm:vit_tiny_patch16_224"]


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1))


@pytest.mark.parametrize("name", [*NETWORKS, f"module:{__name__}:small"])
def test_a_program_takes_bytes_in_any_batch_and_describes_itself(source_of, tmp_path, images, name):
    if "timm" in str(name):
        pytest.importorskip("timm")
    source = source_of(network_of(name), mean=(0.1, 0.2, 0.3))
    file = tmp_path / "encoder.pt2"
    compute_in("fp32", torch.device("cpu"))  # as in a process that has trained
    export("pt2", source, file)
    about = {"encoder.json": ""}
    program = torch.export.load(file, extra_files=about).module()
    wanted = source.encoder.embed(images)
    for part in (slice(0, 6), slice(2, 3), slice(0, 5)):
        assert torch.allclose(program(images[part]), wanted[part], atol=1e-5)
    values = json.loads(about["encoder.json"])
    assert (values["mean"], values["eval_crop_ratio"], values["image_size"]) == ([0.1, 0.2, 0.3], 0.875, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_onnx_file_is_one_and_gives_the_same_features(source_of, tmp_path, images, name):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if "timm" in str(name):
        pytest.importorskip("timm")
    source = source_of(network_of(name), mean=(0.1, 0.2, 0.3))
    said = export("onnx", source, tmp_path / "encoder.onnx")
    assert "loaded back, largest difference" in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "encoder.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"))
    wanted = source.encoder.embed(images).numpy()
    for part in (slice(0, 6), slice(2, 3), slice(0, 5)):
        (found,) = session.run(None, {"images": images[part].numpy()})
        assert abs(found - wanted[part]).max() < 1e-4 * abs(wanted).max()
    about = {entry.key: entry.value for entry in onnx.load(tmp_path / "encoder.onnx").metadata_props}
    assert (about["mean"], about["eval_crop_ratio"], about["image_size"]) == ("0.1, 0.2, 0.3", "0.875", "32")
    assert json.loads(about["encoder"])["encoder"] == source.spec.values()["encoder"]


def test_without_the_packages_onnx_is_one_line_and_without_the_runtime_it_is_said(source_of, tmp_path, monkeypatch):
    source = source_of(network_of(SMALL_STEM))
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(MocoError, match=r"needs the package onnx and onnxscript; install it with `pip install"):
        export("onnx", source, tmp_path / "encoder.onnx")
    monkeypatch.setattr(onnx_file, "write", lambda source, path: path.write_bytes(b"\x08"))
    monkeypatch.setattr(
        onnx_file, "TARGET", onnx_file.Target((".onnx",), onnx_file.write, onnx_file.read, onnx_file.how)
    )
    (said, _) = export("onnx", source, tmp_path / "encoder.onnx")
    assert "not compared with the source, for onnxruntime is not installed" in said
