"""Run one pretraining of a folder with a job: `python -m benchmarks.quality_sides ours FOLDER`.

Both leave curves.csv (step, loss, learning_rate), speed.csv (step, images_per_second) and their
last weights there.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.official import LightlyMoCo, TwoCrops
from moco.cluster.agent import run_agent
from moco.cluster.machine import load_machine
from moco.config import Pretrain, Views
from moco.dictionary.momentum_queue import MomentumQueue
from moco.images.index import ShardSet, open_split
from moco.images.subset import subset
from moco.optimizers import SGD
from moco.runs.checkpoints import load_newest
from moco.runs.curves import Curve
from moco.runs.job import read_job
from moco.training.setup import build
from moco.worker import train

LAST = "lightly.pt"
"""Weights that lightly's side leaves: those of the backbone, and how many numbers were trained."""


def training_images(settings: Pretrain, shards: Path | str) -> ShardSet:
    """Give the images that both sides learn from."""
    return subset(open_split(shards, "train"), settings.images, settings.images_fraction, settings.seed)


def pixels_of(shards: Path | str) -> Path:
    """Where the training images of some shards are kept decoded, uint8 N x H x W x 3."""
    return Path(f"{shards}.npy")


def ours(folder: Path) -> None:
    """Train as the stage pretrain does, on as many processes as machine and groups allow."""
    settings, machine = read_job(folder).settings, load_machine()
    processes = machine.training_processes(settings.global_batch // settings.bn_group_size)
    if processes == 1:
        train(folder)
    else:
        run_agent(folder, processes)


def our_weights(folder: Path) -> tuple[dict[str, Tensor], int, int]:
    """State of the backbone after the last step, numbers trained, steps done."""
    job, state = read_job(folder), load_newest(folder)
    assert state is not None
    model = build(job.settings, 0)
    model.load_state_dict(state["model"])
    return model.encoder_q.backbone.state_dict(), trained(model.encoder_q), int(state["step"])


def lightly_weights(folder: Path) -> tuple[dict[str, Tensor], int, int]:
    """Load the same of lightly's side."""
    left = torch.load(folder / LAST, weights_only=True)
    return left["backbone"], left["trained"], left["steps"]


def trained(model: torch.nn.Module) -> int:
    """How many numbers a model trains."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class Pictures(Dataset[list[Tensor]]):
    """Views of images that are in memory, as torchvision's data sets of small images hold them.

    Args:
        pixels: uint8 N x H x W x 3.
        views: of one image, in normalized float32.
    """

    def __init__(self, pixels: NDArray[np.uint8], views: TwoCrops) -> None:
        self.pixels, self.views = pixels, views

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> list[Tensor]:
        return self.views(Image.fromarray(self.pixels[i]))


def lightly_views(views: Views, size: int) -> TwoCrops:
    """lightly's MoCo v2 transform with the distributions of ours."""
    from lightly.transforms import MoCoV2Transform

    transform: TwoCrops = MoCoV2Transform(
        input_size=size,
        cj_prob=views.jitter_p,
        cj_strength=1.0,
        cj_bright=views.brightness,
        cj_contrast=views.contrast,
        cj_sat=views.saturation,
        cj_hue=views.hue,
        min_scale=views.crop_scale_min,
        random_gray_scale=views.grayscale_p,
        gaussian_blur=views.blur_p,
        sigmas=(views.blur_sigma_min, views.blur_sigma_max),
        hf_prob=views.flip_p,
    )
    return transform


def lightly_model(settings: Pretrain) -> LightlyMoCo:
    """Make lightly's model with the weights and keys that ours begins with."""
    ours = build(settings, 0)
    assert isinstance(ours.dictionary, MomentumQueue)
    encoder, keys = ours.encoder_q, ours.dictionary.keys
    return LightlyMoCo(encoder.backbone, encoder.head, keys, ours.dictionary.momentum, settings.temperature)


def lightly(folder: Path, workers: int) -> None:
    """Run lightly's loop as documented, in float32, from the weights and keys that ours has.

    Nothing shuffles the keys: with batch norm over the whole batch it would change nothing. Workers
    live through all epochs, which is in lightly's favor.

    Args:
        folder: of the run; receives the figures and the weights.
        workers: of the DataLoader.
    """
    job = read_job(folder)
    settings = job.settings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen, pixels = training_images(settings, job.shards).chosen, np.load(pixels_of(job.shards), "r")
    model = lightly_model(settings).to(device)
    torch.manual_seed(settings.seed)
    data = DataLoader(
        Pictures(
            np.array(pixels if chosen is None else pixels[chosen]), lightly_views(settings.views, settings.image_size)
        ),
        settings.global_batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    assert isinstance(settings.optimizer, SGD)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=settings.lr_per_256 * settings.global_batch / 256,
        momentum=settings.optimizer.momentum,
        weight_decay=settings.optimizer.weight_decay,
    )
    total = settings.epochs * len(data)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    curves = Curve(folder / "curves.csv", ["step", "loss", "learning_rate"], upto=0)
    speed = Curve(folder / "speed.csv", ["step", "images_per_second"], upto=0)
    losses: list[Tensor] = []
    began, done, images = time.monotonic(), 0, 0
    for _ in range(settings.epochs):
        for images_q, images_k in data:
            loss = model(images_q.to(device, non_blocking=True), images_k.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            rate = optimizer.param_groups[0]["lr"]
            schedule.step()
            done, images = done + 1, images + len(images_q)
            if done % settings.log_every_steps == 0 or done == total:
                curves.add({"step": done, "loss": float(torch.stack(losses).mean()), "learning_rate": rate})
                speed.add({"step": done, "images_per_second": images / (time.monotonic() - began)})
                losses, began, images = [], time.monotonic(), 0
    torch.save({"backbone": model.backbone.state_dict(), "trained": trained(model), "steps": done}, folder / LAST)


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        ours(Path(sys.argv[2]))
    else:
        lightly(Path(sys.argv[2]), int(sys.argv[3]))
