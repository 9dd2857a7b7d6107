"""A trained encoder and its files: encoder.safetensors and encoder.json."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.encoders.build import build_encoder
from moco.encoders.normalize import normalize
from moco.encoders.resnet import ResNet
from moco.errors import MocoError
from moco.files import write_bytes, write_json


@dataclass(frozen=True)
class EncoderSpec:
    """What a person must know to use the weights: encoder.json.

    Attributes:
        architecture: key of `ARCHITECTURES`.
        stem: "imagenet", "small" or "small-stride2".
        image_size: side of the images it was trained on, pixels.
        eval_crop_ratio: share of the short side that the center view keeps.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
        feature_dim: D.
        training_hash: names the settings and data that made it; "random" for an untrained one.
    """

    architecture: str
    stem: str
    image_size: int
    eval_crop_ratio: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    feature_dim: int
    training_hash: str


class FrozenEncoder:
    """A backbone in evaluation mode with what it needs to see an image as it did in training."""

    def __init__(self, backbone: ResNet, spec: EncoderSpec) -> None:
        self.backbone = backbone.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.spec = spec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """Features of images of the encoder's own size, each independent of the others.

        Args:
            images: uint8, N x 3 x S x S.

        Returns:
            float32, N x D, on the CPU.
        """
        x = normalize(images.to(self.device, non_blocking=True), self.spec.mean, self.spec.std)
        return self.backbone(x.contiguous(memory_format=torch.channels_last)).float().cpu()


def save_encoder(folder: Path | str, backbone: nn.Module, spec: EncoderSpec) -> None:
    """Write encoder.safetensors and encoder.json; the same bytes for the same weights."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    # save_file would make it readable by its owner alone
    write_bytes(folder / "encoder.safetensors", save(weights, metadata={"format": "pt"}))
    write_json(folder / "encoder.json", asdict(spec))


def load_encoder(folder: Path | str, device: torch.device | str = "cpu") -> FrozenEncoder:
    """Read an encoder folder.

    Raises:
        MocoError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        values = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        spec = EncoderSpec(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
        weights = load_file(folder / "encoder.safetensors")
        backbone = build_encoder(spec.architecture, spec.stem)
        backbone.load_state_dict(weights)
    except FileNotFoundError as error:
        raise MocoError(
            f"{error.filename or folder}: no encoder there; pretrain one (`dvc repro pretrain`) or name another folder"
        ) from None
    except (ValueError, TypeError, KeyError, SafetensorError, RuntimeError) as error:
        raise MocoError(
            f"{folder}: not a readable encoder ({str(error).splitlines()[0]}); restore it with `dvc checkout`"
        ) from None
    return FrozenEncoder(backbone.to(device), spec)


def random_encoder(spec: EncoderSpec, seed: int) -> FrozenEncoder:
    """Make the same architecture with untrained weights, the baseline of every result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_encoder(spec.architecture, spec.stem)
    return FrozenEncoder(backbone, EncoderSpec(**{**asdict(spec), "training_hash": "random"}))
