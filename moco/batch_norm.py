"""Batch normalisation over groups of a batch.

In the paper each GPU normalises with the statistics of its own images (section 3.3, "Shuffling BN").
Here the number of images that share statistics is a setting, so that one process, or any number of them
that hold whole groups, computes what the paper's GPUs compute.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GroupBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of consecutive groups of `group_size` images.

    The running statistics move once a call, by the mean of the groups' statistics. They are linear in
    those, so averaging them over processes gives what one process with all groups would hold. Parameters
    and state are named as in `nn.BatchNorm2d`.

    Args:
        num_features: C, channels.
        group_size: images a group; None: the whole batch is one group.
    """

    def __init__(self, num_features: int, group_size: int | None = None) -> None:
        super().__init__(num_features)
        self.group_size = group_size

    def forward(self, input: Tensor) -> Tensor:
        """Normalise N x C x H x W; in training N must be a multiple of `group_size`.

        Raises:
            ValueError: in training, a batch that does not divide into groups.
        """
        if not self.training or self.group_size is None or input.shape[0] == self.group_size:
            return super().forward(input)
        groups, rest = divmod(input.shape[0], self.group_size)
        if rest:
            raise ValueError(
                f"a batch of {input.shape[0]} images does not divide into groups of {self.group_size}"
            )
        assert (
            self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        )
        means = self.running_mean.new_zeros(groups, self.num_features)
        variances = torch.ones_like(means)
        # momentum 1 makes each row of the scratch the group's own statistics
        normalised = [
            F.batch_norm(
                part, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
            )
            for part, mean, variance in zip(input.split(self.group_size), means, variances, strict=True)
        ]
        with torch.no_grad():
            self.running_mean.lerp_(means.mean(dim=0), self.momentum or 0.0)
            self.running_var.lerp_(variances.mean(dim=0), self.momentum or 0.0)
            self.num_batches_tracked.add_(1)
        return torch.cat(normalised)
