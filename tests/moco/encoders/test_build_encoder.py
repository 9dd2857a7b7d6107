"""The one builder of encoders, and a network without batch norm in a run's hands."""

import pytest
import torch
from torch import nn

from moco.encoders.architectures import ARCHITECTURES
from moco.encoders.batch_norm import averaged_running_statistics, set_running_statistics
from moco.encoders.build import build_encoder, shapes_of, size_of
from moco.errors import MocoError
from moco.processes import Processes


def test_every_name_builds_a_network_that_tells_its_size_and_shapes():
    for name in ARCHITECTURES:
        with torch.device("meta"):
            network = build_encoder(name, "small")
            assert network(torch.empty(2, 3, 16, 16)).shape == (2, network.feature_dim)
        parameters, features = size_of(name, "small")
        assert (sum(p.numel() for p in network.parameters()), network.feature_dim) == (parameters, features)
        assert shapes_of(name, "small") == {key: tuple(value.shape) for key, value in network.state_dict().items()}


def test_an_unknown_name_is_one_line_with_the_known_ones():
    with pytest.raises(MocoError, match=r"encoder: name: 'resnet51' is no known ResNet; choose one of thin, resnet18"):
        build_encoder("resnet51")


def test_a_network_without_batch_norm_has_no_statistics_to_average():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with averaged_running_statistics(network, Processes(0, 1, torch.device("cpu"))) as statistics:
        assert statistics.shape == (1, 0)
    set_running_statistics(network, statistics[0])
