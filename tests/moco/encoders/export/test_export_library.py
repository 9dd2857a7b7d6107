"""State dicts of torchvision's and timm's networks, loaded by the line that the command says."""

import re

import pytest
import torch
import torchvision

from moco.encoders.export.run import export
from moco.encoders.kinds import network_of
from moco.encoders.normalize import normalize
from moco.errors import MocoError


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("resnet18", "torchvision"),
        ("resnet18", "timm"),
        ("timm:resnet18", "torchvision"),
        ("timm:convnext_atto", "timm"),
        ("timm:vit_tiny_patch16_224", "timm"),
        ("torchvision:resnet18", "timm"),
        ("torchvision:mobilenet_v3_small", "torchvision"),
    ],
)
def test_the_library_loads_the_weights_by_the_line_that_is_said(source_of, tmp_path, images, name, target):
    names = {"torch": torch, "torchvision": torchvision}
    if "timm" in (target, name.partition(":")[0]):
        names["timm"] = pytest.importorskip("timm")
    source = source_of(name)
    said = export(target, source, tmp_path / "weights.pth")
    assert said[0].endswith("largest difference of features 0")
    exec(said[1].removeprefix("load it: "), names)
    with torch.inference_mode():
        found = names["model"].eval()(normalize(images))
    assert torch.allclose(found, source.encoder.embed(images), atol=1e-5)


OPTIONS = {"kind": "timm", "name": "resnet18", "options": {"output_stride": 8}}


@pytest.mark.parametrize(
    ("name", "target", "problem"),
    [
        ("thin", "torchvision", "a ResNet called thin"),
        ({"kind": "resnet", "name": "resnet18", "stem": "small"}, "torchvision", "a ResNet with the stem small"),
        (
            {"kind": "resnet", "name": "resnet18", "stem": "small-stride2"},
            "timm",
            "a ResNet with the stem small-stride2",
        ),
        ("torchvision:mobilenet_v3_small", "timm", "torchvision:mobilenet_v3_small"),
        ("timm:convnext_atto", "torchvision", "timm:convnext_atto"),
        (OPTIONS, "torchvision", "timm:resnet18"),
        ("thin", "official", "a ResNet called thin"),
        ({"kind": "resnet", "name": "resnet18", "stem": "small"}, "official", "a ResNet with the stem small"),
        ("resnext50_32x8d", "official", "resnext50_32x8d"),
        ("thin", "detectron2", "a ResNet called thin"),
        ("timm:convnext_atto", "detectron2", "timm:convnext_atto"),
    ],
)
def test_what_a_target_does_not_know_is_refused_by_its_name(source_of, tmp_path, name, target, problem):
    network = network_of(name)
    if "timm" in (target, network.kind):
        pytest.importorskip("timm")
    source = source_of(network)
    suffix = ".pkl" if target == "detectron2" else ".pth"
    with pytest.raises(MocoError, match=rf"has no place for {re.escape(problem)}; take --to onnx, pt2") as error:
        export(target, source, tmp_path / f"weights{suffix}")
    assert str(error.value).startswith(str(source.path)) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
