"""The recipes of the official code, lightly and webdataset, made of torchvision's and their parts.

What matters for time is kept as the official code has it: Pillow and float32 in the loader, a queue
of C x K that is cloned at every step, a momentum update parameter by parameter, cross-entropy on
concatenated logits.
"""

import copy
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.images.decode import Pixels

Views = Callable[[Image.Image], Any]


class PilBlur:
    """Pillow's Gaussian blur of a radius drawn uniformly."""

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur an image."""
        return image.filter(ImageFilter.GaussianBlur(random.uniform(self.least, self.most)))


class TwoCrops:
    """The same random transform of an image twice: query and key."""

    def __init__(self, transform: Views) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> list[Tensor]:
        """Draw two views of an image."""
        return [self.transform(image), self.transform(image)]


def moco_v2(size: int, as_uint8: bool = False) -> TwoCrops:
    """Make MoCo v2's augmentation on Pillow images, ending in float32 as the official code does."""
    end = (
        [transforms.PILToTensor()]
        if as_uint8
        else [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    return TwoCrops(
        transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomGrayscale(0.2),
                transforms.RandomApply([PilBlur(0.1, 2.0)], p=0.5),
                transforms.RandomHorizontalFlip(),
                *end,
            ]
        )
    )


def moco_v2_on_tensors(size: int) -> TwoCrops:
    """Make the same by torchvision v2 on uint8 tensors.

    Its blur needs a kernel of one size, here 13.
    """
    return TwoCrops(
        v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
    )


def read_pil(path: str) -> Image.Image:
    """As ImageFolder reads an image."""
    with Path(path).open("rb") as file:
        return Image.open(file).convert("RGB")


def read_tensor(path: str) -> Tensor:
    """torchvision's own decoder, uint8 3 x H x W."""
    return torchvision.io.decode_image(path, mode="RGB")


def folder_loader(
    folder: Path,
    views: Callable[[Any], Any],
    batch: int,
    workers: int,
    read: Callable[[str], Any] = read_pil,
    epochs: int = 1,
) -> DataLoader[Any]:
    """Make the official ImageFolder and DataLoader; for several epochs workers start once."""
    images = torchvision.datasets.ImageFolder(str(folder), views, loader=read)
    order = RandomSampler(images, num_samples=epochs * len(images))
    return DataLoader(images, batch, sampler=order, num_workers=workers, drop_last=True)


def repainted(image: Pixels, view: NDArray[np.void], size: int) -> Pixels:
    """Paint a view from the parameters that ours drew, by Pillow and (colors) torchvision.

    Pillow's hue has 256 steps, so that torchvision's two paths themselves differ at 41 to 47 dB.
    """
    top, left, height, width = (int(view[name]) for name in ("top", "left", "height", "width"))
    whole = Image.fromarray(image).resize(
        (size, size), Image.Resampling.BILINEAR, (left, top, left + width, top + height)
    )
    tensor = torch.from_numpy(np.array(whole)).permute(2, 0, 1)
    jitters = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    if view["order"][0] >= 0:
        for operation in view["order"]:
            tensor = jitters[operation](tensor, float(view["factors"][operation]))
    if view["grayscale"]:
        tensor = TF.rgb_to_grayscale(tensor, 3)
    painted = Image.fromarray(tensor.permute(1, 2, 0).numpy())
    if view["sigma"]:
        painted = painted.filter(ImageFilter.GaussianBlur(float(view["sigma"])))
    return np.asarray(painted)[:, ::-1] if view["flip"] else np.asarray(painted)


def resnet(name: str, dim: int) -> nn.Module:
    """torchvision's ResNet with MoCo v2's head of two layers."""
    encoder = getattr(torchvision.models, name)(num_classes=dim)
    width = encoder.fc.in_features
    encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
    return encoder


class OfficialMoCo(nn.Module):
    """Query encoder, key encoder and queue as the official builder has them, for one process.

    Args:
        encoder: images to N x C.
        keys: C x K, what the queue begins with.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, encoder: nn.Module, keys: Tensor, momentum: float, temperature: float) -> None:
        super().__init__()
        self.encoder_q, self.encoder_k = encoder, copy.deepcopy(encoder).requires_grad_(False)
        self.momentum, self.temperature = momentum, temperature
        self.register_buffer("queue", keys)
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def keys_of(self, images: Tensor) -> Tensor:
        """Momentum update, then the keys of a shuffled batch, put back in order."""
        for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            k.data = k.data * self.momentum + q.data * (1.0 - self.momentum)
        shuffle = torch.randperm(len(images), device=images.device)
        keys = F.normalize(self.encoder_k(images[shuffle]), dim=1)
        return keys[torch.argsort(shuffle)]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest columns; K is a multiple of the batch."""
        start = int(self.pointer)
        self.queue[:, start : start + len(keys)] = keys.T
        self.pointer[0] = (start + len(keys)) % self.queue.shape[1]

    def forward(self, images_q: Tensor, images_k: Tensor) -> tuple[Tensor, Tensor]:
        """Logits N x (1+K) and labels."""
        q = F.normalize(self.encoder_q(images_q), dim=1)
        k = self.keys_of(images_k)
        positive = torch.einsum("nc,nc->n", q, k)[:, None]
        negative = torch.einsum("nc,ck->nk", q, self.queue.clone().detach())
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        self.enqueue(k)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)


def official_step(
    encoder: nn.Module, keys: Tensor, momentum: float, temperature: float, lr: float, bf16: bool
) -> tuple[Callable[[Tensor, Tensor], Tensor], list[nn.Parameter]]:
    """One step of the official loop on normalized float32 views, and the parameters it trains.

    Args:
        encoder: as `resnet` makes it.
        keys: K x C, what the queue begins with.
    """
    model = OfficialMoCo(copy.deepcopy(encoder), keys.T.contiguous(), momentum, temperature)
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)

    def train(images_q: Tensor, images_k: Tensor) -> Tensor:
        with torch.autocast(images_q.device.type, torch.bfloat16, enabled=bf16):
            logits, labels = model(images_q, images_k)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train, list(model.encoder_q.parameters())


class LightlyMoCo(nn.Module):
    """lightly's documented MoCo example as one module, for one process.

    Args:
        backbone: images to N x D.
        head: linear, ReLU, linear; its weights go into lightly's.
        keys: K x C, what the memory bank begins with.

    Raises:
        ImportError: lightly is not installed.
    """

    def __init__(self, backbone: nn.Module, head: Any, keys: Tensor, momentum: float, temperature: float) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad, update_momentum

        super().__init__()
        self.backbone = backbone
        self.head = MoCoProjectionHead(head[0].in_features, head[0].out_features, head[2].out_features)
        self.head.load_state_dict({f"layers.{name}": value for name, value in head.state_dict().items()})
        self.head.to(keys)
        self.backbone_k, self.head_k = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        deactivate_requires_grad(self.backbone_k)
        deactivate_requires_grad(self.head_k)
        self.criterion = NTXentLoss(temperature=temperature, memory_bank_size=tuple(keys.shape))
        self.criterion.memory_bank.bank = keys.clone()
        self.follow = partial(update_momentum, m=momentum)

    def forward(self, images_q: Tensor, images_k: Tensor) -> Tensor:
        """Compute the loss of two views, after the momentum update; the bank gets the keys."""
        self.follow(self.backbone, self.backbone_k)
        self.follow(self.head, self.head_k)
        query = self.head(self.backbone(images_q).flatten(start_dim=1))
        key = self.head_k(self.backbone_k(images_k).flatten(start_dim=1)).detach()
        loss: Tensor = self.criterion(query, key)
        return loss


def lightly_step(
    encoder: nn.Module, keys: Tensor, momentum: float, temperature: float, lr: float, bf16: bool
) -> tuple[Callable[[Tensor, Tensor], Tensor], list[nn.Parameter]]:
    """One step of lightly's documented MoCo example, and the parameters it trains.

    Args:
        encoder: as `resnet` makes it; its head's weights go into lightly's.
        keys: K x C, what the memory bank begins with.

    Raises:
        ImportError: lightly is not installed.
    """
    backbone = copy.deepcopy(encoder)
    head, backbone.fc = backbone.fc, nn.Identity()
    model = LightlyMoCo(backbone, head, keys, momentum, temperature)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-4)

    def train(images_q: Tensor, images_k: Tensor) -> Tensor:
        with torch.autocast(images_q.device.type, torch.bfloat16, enabled=bf16):
            loss = model(images_q, images_k)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train, parameters


def linear_epoch(
    encoder: nn.Module, classifier: nn.Linear, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]
) -> Iterator[int]:
    """Train an epoch of the official linear protocol, one rate; yield the size of each batch."""
    encoder.eval()
    for images, labels in loader:
        with torch.no_grad():
            features = encoder(images)
        loss = F.cross_entropy(classifier(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield len(images)
