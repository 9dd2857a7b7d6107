"""A network with its normalization, as a program of its own: bytes in, features out."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from moco.encoders.encode import features_of
from moco.encoders.export.source import Source
from moco.encoders.normalize import scale_and_shift
from moco.errors import MocoError, first_line


class Deployed(nn.Module):
    """Encode images, uint8 N x 3 x S x S, as float32 N x D; each independent of the others."""

    scale: Tensor
    shift: Tensor

    def __init__(self, source: Source) -> None:
        super().__init__()
        # a file of torch.export holds tensors as they lie in memory: in the order that all expect
        self.backbone = copy.deepcopy(source.encoder.backbone).to(memory_format=torch.contiguous_format)
        scale, shift = scale_and_shift(source.spec.mean, source.spec.std)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        return features_of(self.backbone, torch.addcmul(self.shift, images.float(), self.scale))


def traced(source: Source) -> Any:
    """Trace a network for images of its size and batches of any.

    Raises:
        MocoError: torch.export cannot follow it.
    """
    size = source.spec.image_size
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    try:
        batch = {0: torch.export.Dim("N", min=1)}
        return torch.export.export(Deployed(source).eval(), (images,), dynamic_shapes={"images": batch})
    except MocoError:
        raise
    except Exception as error:  # of the tracer, which names its own rules
        reason = first_line(error)[:160]
        raise MocoError(
            f"{source.path}: torch.export cannot follow {source.label} ({reason}); take --to safetensors"
        ) from None
