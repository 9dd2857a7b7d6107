"""Batch norms of others, of every kind, over groups."""

import pytest
import torch
from torch import nn

from moco.encoders.batch_norm import GroupBatchNorm2d, micro_batches
from moco.encoders.split_batch_norm import norms_in_groups, split_batch_norm
from moco.errors import MocoError

IMAGES = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0))
PLAIN = [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"eps": 0.1, "momentum": 0.3}]


def test_a_foreign_network_is_split_with_its_weights_and_statistics():
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.resnet18(num_classes=4)
    network(torch.randn(4, 3, 32, 32))  # moves the statistics
    images = torch.randn(6, 3, 32, 32)
    before = network.eval()(images)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    split = split_batch_norm(network, group_size=3)
    assert torch.equal(split.eval()(images), before)
    assert not any(type(module) is nn.BatchNorm2d for module in split.modules())
    whole = torchvision.models.resnet18(num_classes=4)
    whole.load_state_dict(kept)
    apart = torch.cat([whole.train()(part) for part in images.split(3)])
    assert torch.allclose(split.train()(images), apart, atol=1e-4)


@pytest.mark.parametrize("options", PLAIN, ids=str)
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (6, 4)), (nn.BatchNorm1d, (6, 4, 7)), (nn.BatchNorm2d, (6, 4, 5, 5)),
                        (nn.BatchNorm3d, (6, 4, 2, 3, 3))],
)  # fmt: skip
def test_a_group_is_normalized_as_by_the_norm_itself(kind, shape, options):
    """Statistics move as they do with one group: the mean of the groups' stands for a batch's."""
    torch.manual_seed(0)
    norm, images = kind(4, **options), torch.randn(*shape)
    norm(torch.randn(*shape))  # has seen a batch before
    one, other, split = (type(norm)(4, **options) for _ in range(3))
    for copied in (one, other, split):
        copied.load_state_dict(norm.state_dict())
    split = split_batch_norm(split, 3)
    assert torch.allclose(split(images), torch.cat([one(images[:3]), other(images[3:])]), atol=1e-5)
    if one.track_running_stats:
        for name in ("running_mean", "running_var"):
            expected = (getattr(one, name) + getattr(other, name)) / 2
            assert torch.allclose(getattr(split, name), expected, atol=1e-6)
        assert split.num_batches_tracked == one.num_batches_tracked == 2
        alone = nn.functional.batch_norm(
            images, split.running_mean, split.running_var, split.weight, split.bias, eps=split.eps
        )
        assert torch.allclose(split.eval()(images), alone, atol=1e-5)


def test_parts_of_a_batch_move_a_cumulative_mean_as_the_whole_does():
    whole, parts = (split_batch_norm(nn.BatchNorm2d(4, momentum=None), 2) for _ in range(2))
    for batch in (IMAGES, 3 * IMAGES + 1):
        whole(batch)
        for part in micro_batches(parts, 6, 2):
            parts(batch[part])
    assert torch.allclose(whole.running_mean, parts.running_mean, atol=1e-6)
    assert torch.allclose(whole.running_var, parts.running_var, atol=1e-5)
    assert whole.num_batches_tracked == parts.num_batches_tracked == 2


def test_a_norm_of_timm_keeps_its_activation():
    timm = pytest.importorskip("timm")
    network = timm.create_model("efficientnet_b0", num_classes=0).double().train()
    images = torch.randn(4, 3, 64, 64).double()
    total = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.manual_seed(0)
    halves = [network(half) for half in images.split(2)]
    network = split_batch_norm(network, 2)
    assert norms_in_groups(network) == (total, total)
    torch.manual_seed(0)
    assert torch.allclose(network(images), torch.cat(halves), atol=1e-4)


class Centered(nn.BatchNorm2d):
    """Computes as torch does."""


class Doubled(nn.BatchNorm2d):
    """Does not."""

    def forward(self, input):
        return 2 * super().forward(input)


def test_subclasses_that_compute_as_torchs_are_split_and_others_refused_by_name():
    network = nn.Sequential(Centered(4), nn.Sequential(nn.SyncBatchNorm(4), nn.LayerNorm(5), nn.InstanceNorm2d(4)))
    assert norms_in_groups(network) == (0, 2)
    assert norms_in_groups(split_batch_norm(network, 2)) == (2, 2)
    for refused in (Doubled(4), nn.LazyBatchNorm2d()):
        network = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(refused))
        with pytest.raises(MocoError, match=rf"1\.0 is a {type(refused).__name__}, whose statistics cannot be split"):
            split_batch_norm(network, 2)
        assert type(network[0]) is nn.BatchNorm2d


def test_a_norm_keeps_its_precision_mode_and_frozen_parameters():
    norm = nn.BatchNorm2d(4).double().eval().requires_grad_(False)
    split = split_batch_norm(norm, 2)
    assert isinstance(split, GroupBatchNorm2d)
    assert (split.weight.dtype, split.training, split.weight.requires_grad) == (torch.float64, False, False)
    assert split_batch_norm(split, 3).group_size == 3  # another size, on the same norm
