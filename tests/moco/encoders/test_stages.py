"""The stages that detectors and segmenters take from a network."""

import pytest
import torch

from moco.encoders.resnet import ResNet
from moco.encoders.start import fingerprint


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
