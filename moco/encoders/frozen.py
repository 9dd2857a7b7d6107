"""A trained encoder and its files: encoder.safetensors and encoder.json."""

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.devices import full_precision
from moco.encoders.build import Backbone, build_encoder
from moco.encoders.encode import features_of
from moco.encoders.kinds import Network, network_of
from moco.encoders.normalize import normalize
from moco.errors import MocoError, first_line
from moco.files import write_bytes, write_json


@dataclass(frozen=True)
class EncoderSpec:
    """What a person must know to use the weights: encoder.json.

    Attributes:
        network: which it is; in the file as `encoder: {kind, name, …}`.
        image_size: side of the images it was trained on, pixels.
        eval_crop_ratio: share of the short side that the center view keeps.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
        feature_dim: D.
        training_hash: names the settings and data that made it; "random" for an untrained one.
    """

    network: Network
    image_size: int
    eval_crop_ratio: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    feature_dim: int
    training_hash: str

    def values(self) -> dict[str, Any]:
        """Give the description as the file has it."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        return {"encoder": self.network.model_dump(mode="json"), **own}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "EncoderSpec":
        """Read a description; those of earlier versions name a ResNet by `architecture` and `stem`.

        Raises:
            MocoError: it names no known network.
            KeyError, TypeError: a value is missing or unknown.
        """
        rest = dict(values)
        if "architecture" in rest:
            rest["encoder"] = {"kind": "resnet", "name": rest.pop("architecture"), "stem": rest.pop("stem")}
        network = network_of(rest.pop("encoder"))
        return cls(network, **{**rest, "mean": tuple(rest["mean"]), "std": tuple(rest["std"])})

    def build(self) -> Backbone:
        """Build the network with fresh weights, drawn from torch's generator."""
        return build_encoder(self.network, image_size=self.image_size)


class FrozenEncoder:
    """A backbone in evaluation mode with what it needs to see an image as it did in training.

    Args:
        backbone: its weights.
        spec: its description.
        devices: where to encode, each with a copy of the weights; none: where the backbone is.
    """

    def __init__(self, backbone: nn.Module, spec: EncoderSpec, devices: Sequence[torch.device] = ()) -> None:
        self.backbone = backbone.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.devices = tuple(devices) or (next(backbone.parameters()).device,)
        self.backbone.to(self.devices[0])
        copies = (copy.deepcopy(self.backbone).to(device) for device in self.devices[1:])
        self._turns = itertools.cycle(zip(self.devices, (self.backbone, *copies), strict=True))
        self.spec = spec

    @torch.inference_mode()
    def launch(self, images: Tensor) -> Tensor:
        """Encode images of the encoder's own size on the next of the devices, each in its turn.

        On CUDA the call returns before the features are there: `.cpu()` waits for them, so that one
        process keeps several devices busy. The images are copied before it returns.

        It computes in float32, TF32 off: bfloat16 and TF32 round to 8 and 11 bits, which moves
        features by more than 1e-4 of their size, and figures would depend on the device.

        Args:
            images: uint8, N x 3 x S x S, on the CPU.

        Returns:
            float32, N x D, on the device that encoded them; each independent of the other images.

        Raises:
            ValueError: the images are no bytes.
        """
        if images.dtype != torch.uint8:
            raise ValueError(f"images are {images.dtype} and not uint8 of 0 to 255; give them as they were decoded")
        device, backbone = next(self._turns)
        with full_precision():
            x = normalize(images.to(device), self.spec.mean, self.spec.std)
            return features_of(backbone, x.contiguous(memory_format=torch.channels_last)).float()

    def embed(self, images: Tensor) -> Tensor:
        """Encode images as `launch` does, and wait: float32, N x D, on the CPU."""
        return self.launch(images).cpu()


def save_encoder(folder: Path | str, backbone: nn.Module, spec: EncoderSpec) -> None:
    """Write encoder.safetensors and encoder.json; the same bytes for the same weights."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "encoder.safetensors", weights_file(backbone, spec))
    write_json(folder / "encoder.json", spec.values())


def weights_file(backbone: nn.Module, spec: EncoderSpec) -> bytes:
    """Give encoder.safetensors: weights and description, so that it can be passed on alone."""
    from safetensors.torch import save  # `save_file` would make it readable by its owner only

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    return _with_metadata(save(weights), {"format": "pt", "encoder": json.dumps(spec.values(), sort_keys=True)})


def _with_metadata(data: bytes, metadata: dict[str, str]) -> bytes:
    """Add metadata to a safetensors file's bytes; the library writes it in a random order."""
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(data[8:length])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format's alignment
    return len(header).to_bytes(8, "little") + header + data[length:]


def load_encoder(folder: Path | str, devices: Sequence[torch.device] = ()) -> FrozenEncoder:
    """Read an encoder folder, or its one file that describes itself.

    Args:
        folder: with both files; or a file that `save_encoder` wrote, `encoder.safetensors`.
        devices: where to encode; none: on the CPU.

    Raises:
        MocoError: a file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        if folder.suffix == ".safetensors" and not folder.is_dir():
            file = folder
            with safe_open(file, "pt") as opened:
                text = (opened.metadata() or {}).get("encoder")
            if text is None:
                raise ValueError("its metadata has no description `encoder`; name the folder that has encoder.json")
        else:
            file = folder / "encoder.safetensors"
            text = (folder / "encoder.json").read_text(encoding="utf-8")
        spec = EncoderSpec.of(json.loads(text))
        weights = load_file(file)
        backbone = spec.build()
        _fill(backbone, weights, spec.network)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MocoError(
            f"{error.filename or folder}: no encoder there; pretrain one (`dvc repro pretrain`) or name another folder"
        ) from None
    except (ValueError, TypeError, KeyError, SafetensorError, RuntimeError) as error:
        raise MocoError(
            f"{folder}: not a readable encoder ({first_line(error)}); restore it with `dvc checkout`"
        ) from None
    return FrozenEncoder(backbone, spec, devices)


def _fill(backbone: nn.Module, weights: dict[str, Tensor], network: Network) -> None:
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()[:160]
        raise ValueError(f"its weights are not of {network.label}: {first}") from None


def random_encoder(spec: EncoderSpec, seed: int, devices: Sequence[torch.device] = ()) -> FrozenEncoder:
    """Make the same architecture with untrained weights, the baseline of every result.

    Args:
        spec: says which.
        seed: of the weights.
        devices: where to encode; none: on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = spec.build()
    return FrozenEncoder(backbone, replace(spec, training_hash="random"), devices)
