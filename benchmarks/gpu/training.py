"""The steps of moco.training.loop on one device, without curves and checkpoints."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from moco.config import Pretrain
from moco.devices import compute_in
from moco.dictionary.info_nce import Contrast
from moco.dictionary.protocol import Batch, Encode
from moco.dictionary.shuffle_bn import Shuffle, positions_of_slots
from moco.images.plan import EpochPlan
from moco.processes import Processes
from moco.training.loop import accumulate
from moco.training.setup import build, optimizer_of, set_rates

TOTAL = 1000
"""Steps of the run that the steps are taken from."""


class Training:
    """A run in memory.

    Args:
        settings: of the run.
        device: where it computes.
        dtype: of the weights; in another one than float32, views come normalized.
        layout: of the encoders' memory.
        part: images that are encoded together; None: all.
        images: of the training set.
    """

    def __init__(
        self,
        settings: Pretrain,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.channels_last,
        part: int | None = None,
        images: int = 4096,
    ) -> None:
        torch.backends.cudnn.benchmark = True  # as the loop does
        self.settings, self.part = settings, part
        self.processes = Processes(0, 1, device)
        self.precision = compute_in(settings.precision, device)
        self.model = build(settings, images).to(device, dtype)
        self.model.to(memory_format=layout)
        self.optimizer = optimizer_of(self.model, settings)
        rates = self.optimizer.param_groups[0]
        if isinstance(rates["lr"], Tensor):  # SGD's kernel reads float32 beside weights of float64 too
            rates["lr"] = rates["lr"].float()
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")
        self.plan = EpochPlan(images, settings.global_batch, settings.seed)
        self.done, self.shuffle = 0, self.shuffle_of(0)
        self.encode_queries: Encode = self.model.encoder_q

    def shuffle_of(self, step: int) -> Shuffle:
        """Prepare a step's shuffle."""
        positions = positions_of_slots(self.settings.seed, step, self.settings.global_batch)
        return Shuffle.of(positions, self.processes)

    def step(self, views: Tensor | Sequence[Tensor]) -> Contrast:
        """Take a step on views as of `Batch`."""
        set_rates(self.model, self.optimizer, self.settings, self.done, TOTAL)
        self.optimizer.zero_grad()
        contrast = self.compute(views, self.shuffle)
        self.done += 1
        self.shuffle = self.shuffle_of(self.done)
        return contrast

    def compute(self, views: Tensor | Sequence[Tensor], shuffle: Shuffle) -> Contrast:
        """Do what a step computes: all but its rates and its shuffle, which are fixed before."""
        numbers = partial(self.plan.batch, self.done)
        batch = Batch(views, numbers, shuffle, self.done, self.processes, self.part)
        contrast, _ = accumulate(self.model, batch, self.encode_queries, self.autocast)
        self.optimizer.step()
        return contrast


def views_of(settings: Pretrain, step: int = 0) -> Tensor:
    """Draw views, uint8 V x N x 3 x S x S, channels-last in memory as the loader makes them.

    Large patches of color with some noise, for an encoder hardly tells images of mere noise apart.
    """
    shape = settings.dictionary.about.views, settings.global_batch, settings.image_size
    drawn = np.random.default_rng(step).random((shape[0] * shape[1], 3, 4, 4), np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(drawn), (shape[2], shape[2]), mode="bilinear")
    noise = torch.rand(smooth.shape, generator=torch.Generator().manual_seed(step))
    images = (255 * (0.9 * smooth + 0.1 * noise)).to(torch.uint8)
    return images.contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
