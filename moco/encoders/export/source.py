"""What is exported: an encoder's folder, or a run's checkpoint."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moco.encoders.build import build_encoder
from moco.encoders.frozen import EncoderSpec, FrozenEncoder, load_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.errors import MocoError, first_line

BACKBONE = "encoder_q.backbone."


@dataclass(frozen=True)
class Source:
    """An encoder, and what its run holds beside it.

    Attributes:
        path: the folder or file.
        encoder: on the CPU.
        checkpoint: of a run: model, optimizer, epoch, settings; None: an encoder alone.
    """

    path: Path
    encoder: FrozenEncoder
    checkpoint: Mapping[str, Any] | None = None

    @property
    def spec(self) -> EncoderSpec:
        """Its description."""
        return self.encoder.spec

    @property
    def label(self) -> str:
        """Name its network for a person, the stem where it is not the usual one."""
        network = self.spec.network
        return network.words if getattr(network, "stem", "imagenet") != "imagenet" else network.label

    @property
    def weights(self) -> dict[str, Tensor]:
        """The backbone's state dict, contiguous."""
        return {name: value.contiguous() for name, value in self.encoder.backbone.state_dict().items()}

    @property
    def size(self) -> int:
        """Count the bytes of all weights, and of a checkpoint's."""
        model = self.weights if self.checkpoint is None else self.checkpoint["model"]
        return sum(value.nbytes for value in model.values()) * (1 if self.checkpoint is None else 2)


def read_source(path: Path) -> Source:
    """Read an encoder's folder, its one file of weights, or a checkpoint `step-*.pt` of a run.

    Raises:
        MocoError: it is none of them, or damaged.
    """
    if path.is_dir() or path.suffix == ".safetensors":
        return Source(path, load_encoder(path))
    checkpoint = _load(path)
    try:
        model, settings = checkpoint["model"], checkpoint["settings"]
        network = network_of(settings["encoder"], settings.get("stem", "imagenet"))
        size = int(settings["image_size"])
        backbone = build_encoder(network, image_size=size)
        backbone.load_state_dict(
            {name.removeprefix(BACKBONE): value for name, value in model.items() if name.startswith(BACKBONE)}
        )
        run = path.absolute().parent.name
        spec = EncoderSpec(
            network,
            size,
            float(settings["eval_crop_ratio"]),
            tuple(checkpoint.get("mean", IMAGENET_MEAN)),
            tuple(checkpoint.get("std", IMAGENET_STD)),
            backbone.feature_dim,
            run.removeprefix("pretrain-") if run.startswith("pretrain-") else "unknown",
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)[:120]}"
        raise MocoError(
            f"{path}: is no checkpoint of a run ({reason}); name an encoder's folder, or a step-*.pt of runs/pretrain-*"
        ) from None
    return Source(path, FrozenEncoder(backbone, spec), checkpoint)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MocoError(
            f"{path}: {error.strerror or error}; name an encoder's folder, a run's checkpoint, or `champion`"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise MocoError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); name an encoder's folder, or a step-*.pt of"
            " runs/pretrain-*"
        ) from None
    if not isinstance(loaded, Mapping):
        raise MocoError(
            f"{path}: holds a {type(loaded).__name__}, not a run's checkpoint; name a step-*.pt of runs/pretrain-*"
        )
    return loaded
