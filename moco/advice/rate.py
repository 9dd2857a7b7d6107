"""How many images a second a recipe trains on this machine, by a short measurement."""

import time
from statistics import median
from typing import Any

import torch

from moco.config import Pretrain
from moco.devices import compute_devices, compute_in
from moco.training.setup import build, optimizer_of

STEPS, SECONDS = 5, 20.0


def images_a_second(section: dict[str, Any], device: str = "auto") -> float:
    """Measure steps on random images, in one process of the first device.

    Reading images and painting views go beside the steps, and are not in it. A GPU alone may take
    more images than this host's cores can paint.

    Args:
        section: `pretrain` of params.yaml.
        device: as in machine.yaml.

    Returns:
        Images a second: of each, both views.
    """
    settings = Pretrain.model_validate(section)
    where = compute_devices(device)[0]
    model = build(settings, 1024).to(where)
    optimizer = optimizer_of(model, settings)
    size = (settings.global_batch, 3, settings.image_size, settings.image_size)
    views = [torch.randint(0, 256, size, dtype=torch.uint8, device=where) for _ in range(2)]
    autocast = torch.autocast(where.type, torch.bfloat16, enabled=compute_in(settings.precision, where) == "bf16")
    seconds: list[float] = []
    end = time.monotonic() + SECONDS
    while len(seconds) < STEPS + 1 and (len(seconds) < 2 or time.monotonic() < end):
        begin = time.monotonic()
        with autocast:
            contrast = model(*views)
        contrast.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        seconds.append(time.monotonic() - begin)
    return settings.global_batch / median(seconds[1:])  # the first one prepares
