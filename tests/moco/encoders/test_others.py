"""Networks of timm, torchvision and a person's own, as encoders."""

import sys

import pytest
import torch
from torch import nn

from moco.encoders.build import build_encoder, measured, size_of
from moco.encoders.frozen import EncoderSpec, load_encoder, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.split_batch_norm import norms_in_groups
from moco.encoders.stages import stages_of
from moco.errors import MocoError
from moco.momentum_contrast import Encoder

OWN = """
import torch
from torch import nn

class Wide(nn.Module):  # gives N x 6 x 1 x 1
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1))
    def forward(self, x):
        return self.body(x)

def small(image_size):
    assert image_size in (None, 16)
    return nn.Sequential(Wide(), nn.Flatten())

def map_of_one():
    return Wide()

def map_of_many():
    return nn.Conv2d(3, 4, 3)

class Mixing(nn.Module):
    def forward(self, x):
        x = x.flatten(1)
        return x - x.mean(0)

mixing, number, nothing = Mixing, lambda: 3, None

def broken():
    raise KeyError("weights")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of a person's own in the folder that commands run in."""
    (tmp_path / "my_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("my_networks", None)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "side", "norms"),
    [
        ("timm:convnext_atto", 32, 0),
        ("timm:efficientnet_b0", 32, 49),
        ("timm:regnety_002", 32, 44),
        ("timm:mobilenetv3_small_050", 32, 34),
        ("timm:vit_tiny_patch16_224", 32, 0),
        ("timm:resnet10t", 32, 14),
        ("torchvision:mobilenet_v3_small", 32, 34),
        ("torchvision:regnet_y_400mf", 32, 53),
        ("torchvision:vit_b_16", 32, 0),
    ],
)
def test_a_network_gives_features_and_takes_gradient(name, side, norms):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    backbone = build_encoder(name, bn_group_size=2, image_size=side)
    assert norms_in_groups(backbone) == (norms, norms)
    encoder = Encoder(backbone, nn.Linear(backbone.feature_dim, 8))
    out = encoder(torch.randn(4, 3, side, side))
    assert out.shape == (4, 8)
    out.square().sum().backward()
    assert next(backbone.parameters()).grad is not None
    assert size_of(name)[1] == measured(network_of(name), side).feature_dim == backbone.feature_dim


def test_weights_are_named_as_in_their_library_and_come_back(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    network = network_of("torchvision:mobilenet_v3_small")
    backbone = build_encoder(network)
    theirs = torchvision.models.mobilenet_v3_small().state_dict()
    assert backbone.state_dict().keys() == theirs.keys() - {"classifier.3.weight", "classifier.3.bias"}
    spec = EncoderSpec(network, 32, 1.0, IMAGENET_MEAN, IMAGENET_STD, backbone.feature_dim, "abc")
    save_encoder(tmp_path, backbone, spec)
    loaded = load_encoder(tmp_path)
    assert loaded.spec == spec
    assert all(torch.equal(value, loaded.backbone.state_dict()[name]) for name, value in backbone.state_dict().items())


def test_a_network_of_your_own_is_found_in_this_folder(own):
    for function, features in (("small", 6), ("map_of_one", 6)):
        network = network_of(f"module:my_networks:{function}")
        assert measured(network, 16).feature_dim == features
        backbone = build_encoder(network, bn_group_size=2)
        assert norms_in_groups(backbone) == (1, 1)
        assert Encoder(backbone, nn.Identity())(torch.randn(4, 3, 16, 16)).shape == (4, features)


def test_parts_of_a_network_keep_their_first_weights(own):
    network = network_of({"kind": "module", "name": "my_networks:map_of_one", "freeze": ["body.0"]})
    trained = [name for name, parameter in build_encoder(network).named_parameters() if parameter.requires_grad]
    assert trained == ["body.1.weight", "body.1.bias"]
    with pytest.raises(MocoError, match=r"encoder.freeze = stem: .* has no such part; its parts are body"):
        build_encoder(network.model_copy(update={"freeze": ("stem",)}))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("timm:resnet51", r"timm:resnet51 is no network of the timm installed here; did you mean"),
        ("torchvision:convnext_tinny", r"did you mean convnext_tiny"),
        ("torchvision:squeezenet1_0", "no linear classifier to take off"),
        ("module:nowhere:net", "there is no module nowhere; name a file of this folder"),
        ("module:my_networks:huge", "my_networks has no huge"),
        ("module:my_networks:number", "gives a int, not a torch.nn.Module"),
        ("module:my_networks:broken", r"cannot be made for images of 16 pixels \(KeyError: 'weights'\)"),
        ("module:my_networks:map_of_many", r"gives 2x4x14x14 for 2 images, not features N x D"),
        ("module:my_networks:mixing", "features depend on the other images"),
        ("module:my networks", "is not package.file:function"),
        ("keras:resnet", "choose one of resnet, timm, torchvision, module"),
        ("torchvision:vit_b_16", "refuses images of image_size = 8 pixels|cannot be made for images of 8"),
    ],
)
def test_what_is_no_encoder_is_one_line(own, name, problem):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(MocoError, match=problem) as error:
        measured(network_of(name), 8 if "vit" in name else 16)
    assert "\n" not in str(error.value)


ANY_SIZE = {"kind": "timm", "name": "swin_tiny_patch4_window7_224", "options": {"strict_img_size": False}}


@pytest.mark.parametrize("name", ["timm:convnext_atto", "timm:efficientnet_b0", ANY_SIZE])
def test_stages_of_timm_are_as_coarse_and_wide_as_they_state(name):
    pytest.importorskip("timm")
    backbone = build_encoder(name, image_size=64).eval()
    stages = stages_of(backbone, 4)
    assert stages.strides == [4, 8, 16, 32]
    found = stages(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in found] == [
        (channels, 64 // stride, 64 // stride) for channels, stride in zip(stages.channels, stages.strides, strict=True)
    ]
    assert len(stages_of(backbone, 3)(torch.randn(1, 3, 64, 64))) == 3


def test_networks_without_stages_say_so():
    pytest.importorskip("timm")
    with pytest.raises(MocoError, match="VisionTransformer hands out no stages"):
        stages_of(build_encoder("timm:vit_tiny_patch16_224", image_size=32), 4)
