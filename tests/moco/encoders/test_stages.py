"""The stages that detectors and segmenters take from a network."""

import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor

from moco.encoders.build import build_encoder
from moco.encoders.resnet import ResNet
from moco.encoders.stages import stages_of
from moco.encoders.start import fingerprint
from moco.errors import MocoError


@pytest.mark.parametrize("stem", ["imagenet", "small", "small-stride2"])
@pytest.mark.parametrize("architecture", ["thin", "resnet18", "resnet50"])
def test_stages_are_the_networks_own_with_the_strides_and_channels_they_state(architecture, stem):
    network = ResNet(architecture, stem)
    stages = network.stages(4).eval()
    images = torch.randn(1, 3, 64, 64)
    features = stages(images)
    assert [tuple(f.shape) for f in features] == [
        (1, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(stages.channels, stages.strides, strict=True)
    ]
    assert torch.equal(features[-1].mean(dim=(2, 3)), network.eval()(images))
    assert len(network.stages(3)(images)) == 3


def test_stages_are_a_copy():
    network = ResNet("thin", "small")
    before = fingerprint(network)
    with torch.no_grad():
        network.stages(4).conv1.weight.zero_()
    assert fingerprint(network) == before


TORCHVISION = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "regnet_y_400mf": ["trunk_output.block1", "trunk_output.block2", "trunk_output.block3", "trunk_output.block4"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "mobilenet_v3_small": ["features.1", "features.3", "features.8", "features.12"],
    "mobilenet_v2": ["features.3", "features.6", "features.13", "features.18"],
    "efficientnet_b0": ["features.2", "features.3", "features.5", "features.8"],
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_stages_of_torchvision_are_its_own_maps_in_a_copy(name):
    network = build_encoder(f"torchvision:{name}", image_size=64).eval()
    before, images = fingerprint(network), torch.randn(2, 3, 64, 96)
    stages, first = stages_of(network, 4), stages_of(network, 3)
    with torch.inference_mode():
        wanted = create_feature_extractor(network, TORCHVISION[name])(images)
        for found, (map_, channels, stride) in zip(
            stages(images), zip(wanted.values(), stages.channels, stages.strides, strict=True), strict=True
        ):
            torch.testing.assert_close(found, map_)
            assert found.shape == (2, channels, 64 // stride, 96 // stride)
        assert len(first(images)) == 3
        for parameter in stages.parameters():
            parameter.zero_()
    assert fingerprint(network) == before


@pytest.mark.parametrize(
    "name", ["timm:resnet18", "timm:convnext_atto", "timm:regnety_002", "timm:hrnet_w18_small", "torchvision:vgg11_bn"]
)
def test_stages_of_a_library_round_up_for_any_size_and_train_whole(name):
    stages = stages_of(build_encoder(name, image_size=64), 4)
    assert stages.training
    features = stages(torch.randn(2, 3, 72, 89))
    assert [tuple(f.shape) for f in features] == [
        (2, channels, -(-72 // stride), -(-89 // stride))
        for channels, stride in zip(stages.channels, stages.strides, strict=True)
    ]
    sum(f.square().sum() for f in features).backward()
    assert [name for name, p in stages.named_parameters() if p.requires_grad and p.grad is None] == []


def test_what_stands_behind_the_stages_asks_for_no_gradient():
    options = {"kind": "timm", "name": "swin_tiny_patch4_window7_224", "options": {"strict_img_size": False}}
    stages = stages_of(build_encoder(options, image_size=64), 4)
    sum(f.square().sum() for f in stages(torch.randn(1, 3, 64, 96))).backward()
    still = [name for name, p in stages.named_parameters() if not p.requires_grad]
    assert still == ["network.norm.weight", "network.norm.bias"]
    assert [name for name, p in stages.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:test_vit", "a VisionTransformer hands out no stages"),
        ("torchvision:shufflenet_v2_x0_5", "a ShuffleNetV2 hands out no stages"),
        ("timm:swin_tiny_patch4_window7_224", "a SwinTransformer cannot give stages of images of any size"),
    ],
)
def test_a_network_without_stages_of_any_size_is_refused_in_one_line(name, said):
    network = build_encoder(name, image_size=32)
    with pytest.raises(MocoError, match=said) as caught:
        stages_of(network, 4)
    assert "\n" not in str(caught.value)
    assert "take a ResNet or a convolutional network of timm" in str(caught.value)
