"""Projection and prediction heads."""

import torch
from torch import nn

from moco.encoders.batch_norm import GroupBatchNorm1d
from moco.encoders.heads import prediction_head, projection_head


def test_the_linear_head_is_one_layer_and_the_mlp_two():
    assert projection_head("linear", 512, 128)(torch.randn(2, 512)).shape == (2, 128)
    mlp = projection_head("mlp", 512, 128)
    assert [tuple(p.shape) for p in mlp.parameters()] == [(512, 512), (512,), (128, 512), (128,)]


def test_the_third_version_has_three_layers_with_batch_norm_after_each_and_a_predictor_of_two():
    layers = list(projection_head("mlp-bn", 512, 128, bn_group_size=4))
    kinds = [nn.Linear, GroupBatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in layers] == [*kinds, *kinds, *kinds[:2]]
    assert projection_head("mlp-bn", 512, 128, 4)(torch.randn(8, 512)).shape == (8, 128)
    predictor = prediction_head(128, 512, bn_group_size=4)
    assert [type(layer) for layer in predictor] == [*kinds, *kinds[:2]]
    assert predictor(torch.randn(8, 128)).shape == (8, 128)
