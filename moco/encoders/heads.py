"""What stands between features and contrastive vectors, in training only."""

from itertools import pairwise

from torch import nn

from moco.encoders.batch_norm import GroupBatchNorm1d


def projection_head(kind: str, feature_dim: int, dim: int, bn_group_size: int | None = None) -> nn.Module:
    """Make the head between features and contrastive vectors.

    Args:
        kind: "linear" (MoCo v1), "mlp", a hidden layer as wide as the features and ReLU (MoCo v2),
            or "mlp-bn", two such layers and batch norm after each of the three (MoCo v3, section
            3).
        feature_dim: D, length of the input.
        dim: length of the output (128 in the paper).
        bn_group_size: as of the `ResNet` before it.
    """
    if kind == "linear":
        return nn.Linear(feature_dim, dim)
    if kind == "mlp-bn":
        return _mlp_with_norms([feature_dim, feature_dim, feature_dim, dim], bn_group_size)
    return nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(inplace=True), nn.Linear(feature_dim, dim))


def prediction_head(dim: int, hidden: int, bn_group_size: int | None = None) -> nn.Module:
    """Make what follows the query's projection: N x dim to N x dim (MoCo v3, section 3)."""
    return _mlp_with_norms([dim, hidden, dim], bn_group_size)


def _mlp_with_norms(widths: list[int], bn_group_size: int | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), GroupBatchNorm1d(after, bn_group_size)]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers[:-1])
