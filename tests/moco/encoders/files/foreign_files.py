"""Files in the layouts of other programs, built as those programs write them."""

import argparse
import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from moco.encoders.resnet import ResNet
from moco.encoders.stem import Stem

State = Mapping[str, Tensor]
SOLO = Stem(3, 1, 2, pool=False)
D, C, K = 256, 8, 16
"""Features of `thin`, length and number of keys."""


def uneven(network: nn.Module) -> nn.Module:
    """Give every number of a network its own value, those of batch norms too."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if "var" in name else 0.0))
    return network.eval()


def thin(stem: str | Stem = "imagenet") -> nn.Module:
    """A ResNet with torchvision's names, small."""
    return uneven(ResNet("thin", stem))


def resnet18() -> nn.Module:
    """torchvision's, without its classifier."""
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()
    return uneven(network)


def under(prefix: str, state: State, scale: float = 1.0) -> dict[str, Tensor]:
    """A state dict behind a prefix; scaled, it is another encoder's."""
    return {f"{prefix}{name}": value * scale if value.is_floating_point() else value for name, value in state.items()}


def mlp(prefix: str, features: int = D) -> dict[str, Tensor]:
    """The two layers of v2's head."""
    head = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, C))
    return under(prefix, head.state_dict())


def mlp_with_norms(prefix: str, widths: tuple[int, ...]) -> dict[str, Tensor]:
    """A head of v3: no bias, batch norms, the last without scale."""
    layers: list[nn.Module] = []
    for number in range(len(widths) - 1):
        last = number == len(widths) - 2
        layers += [
            nn.Linear(widths[number], widths[number + 1], bias=False),
            nn.BatchNorm1d(widths[number + 1], affine=not last),
        ]
        layers += [] if last else [nn.ReLU()]
    return under(prefix, nn.Sequential(*layers).state_dict())


def queue(prefix: str = "") -> dict[str, Tensor]:
    """A queue as the official code has it, keys in columns."""
    return {f"{prefix}queue": torch.randn(C, K), f"{prefix}queue_ptr": torch.tensor([4])}


def official(state: State) -> dict[str, Any]:
    """A file of main_moco.py: v2's head."""
    weights = OrderedDict(under("module.encoder_q.", state) | mlp("module.encoder_q.fc."))
    weights |= under("module.encoder_k.", state, 0.5) | mlp("module.encoder_k.fc.") | queue("module.")
    return {"epoch": 200, "arch": "resnet50", "state_dict": weights, "optimizer": {"state": {}, "param_groups": []}}


def official_linear(state: State) -> dict[str, Any]:
    """A released file of v1: one layer, no optimizer."""
    weights = under("module.encoder_q.", state) | under("module.encoder_q.fc.", nn.Linear(D, C).state_dict())
    return {"epoch": 200, "arch": "resnet50", "state_dict": weights}


def official_v3(state: State) -> dict[str, Any]:
    """A file of moco-v3's main_moco.py."""
    weights = under("module.base_encoder.", state) | mlp_with_norms("module.base_encoder.fc.", (D, 32, C))
    weights |= under("module.momentum_encoder.", state, 0.5) | mlp_with_norms("module.momentum_encoder.fc.", (D, 32, C))
    weights |= mlp_with_norms("module.predictor.", (C, 32, C))
    return {
        "epoch": 100,
        "arch": "resnet50",
        "state_dict": weights,
        "optimizer": {"state": {0: {"mu": torch.ones(2)}}, "param_groups": [{"params": [0]}]},
    }


def solo_learn(state: State) -> dict[str, Any]:
    """A checkpoint of solo-learn's MoCo v2+, with a classifier beside it."""
    weights = under("backbone.", state) | under("classifier.", nn.Linear(D, 10).state_dict()) | mlp("projector.")
    weights |= under("momentum_backbone.", state, 0.5) | mlp("momentum_projector.")
    weights |= {"queue": torch.randn(2, C, K), "queue_ptr": torch.tensor([4])}
    return {"epoch": 399, "global_step": 7, "pytorch-lightning_version": "2.1.2", "state_dict": weights}


def old_solo_learn(state: State) -> dict[str, Any]:
    """A checkpoint of solo-learn 1.0, which called the network `encoder`."""
    made = solo_learn(state)
    made["state_dict"] = {name.replace("backbone.", "encoder."): value for name, value in made["state_dict"].items()}
    return made


def mmselfsup(state: State) -> dict[str, Any]:
    """An epoch file of mmengine: the query encoder twice, and a history of its own class."""
    weights = under("backbone.", state) | mlp("neck.mlp.")
    twice = {f"encoder_q.0.{n.removeprefix('backbone.')}": v for n, v in weights.items() if n.startswith("backbone.")}
    twice |= {f"encoder_q.1.{n.removeprefix('neck.')}": v for n, v in weights.items() if n.startswith("neck.")}
    weights |= twice | under("encoder_k.module.0.", state, 0.5) | mlp("encoder_k.module.1.mlp.") | queue()
    weights |= {"encoder_k.steps": torch.tensor(3)}
    return {"meta": {"epoch": 12, "iter": 9}, "state_dict": weights, "message_hub": {"loss": History()}}


def mmpretrain(state: State) -> dict[str, Any]:
    """A file as mmpretrain publishes it."""
    weights = under("backbone.", state) | mlp("neck.mlp.")
    return {
        "meta": {},
        "state_dict": weights | under("encoder_k.module.0.", state, 0.5) | mlp("encoder_k.module.1.mlp."),
    }


def vissl(state: State) -> dict[str, Any]:
    """A checkpoint of VISSL."""
    model = {"trunk": under("_feature_blocks.", state), "heads": mlp("0.clf.")}
    return {"phase_idx": 9, "classy_state_dict": {"base_model": {"model": model, "meta": {}}, "loss": queue()}}


def dino(state: State) -> dict[str, Any]:
    """A full checkpoint of DINO."""
    student = under("module.backbone.", state, 0.5) | mlp("module.head.mlp.")
    teacher = under("backbone.", state) | mlp("head.mlp.")
    return {
        "student": student,
        "teacher": teacher,
        "epoch": 100,
        "args": argparse.Namespace(arch="resnet50"),
        "dino_loss": {"center": torch.ones(1, 4)},
    }


def swav(state: State) -> dict[str, Any]:
    """A checkpoint of SwAV."""
    weights = under("module.", state) | mlp("module.projection_head.") | {"module.prototypes.weight": torch.ones(3, C)}
    return {"epoch": 400, "state_dict": weights, "amp": {"loss_scaler0": {"loss_scale": 1.0}}}


def byol(state: State) -> dict[str, Any]:
    """A checkpoint of BYOL."""
    return {"online_backbone": under("module.", state), "target_backbone": under("module.", state, 0.5)}


def barlow_twins(state: State) -> dict[str, Any]:
    """A full checkpoint of Barlow Twins."""
    norm = under("module.bn.", nn.BatchNorm1d(C, affine=False).state_dict())
    return {"epoch": 9, "model": under("module.backbone.", state) | mlp("module.projector.") | norm}


def simsiam(state: State) -> dict[str, Any]:
    """A checkpoint of SimSiam."""
    weights = under("module.encoder.", state) | mlp_with_norms("module.encoder.fc.", (D, D, D, C))
    return {"epoch": 99, "state_dict": weights | mlp_with_norms("module.predictor.", (C, 4, C))}


def lightly_train(state: State) -> dict[str, Any]:
    """A last.ckpt of lightly-train: whole modules beside the weights."""
    models = {"model": History(), "embedding_model": History()}
    about = {"version": "0.18", "models": models, "normalize_args": {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}}
    weights = under("teacher_embedding_model.wrapped_model._features.", state)
    weights |= under("student_embedding_model.wrapped_model._features.", state, 0.5)
    return {"epoch": 5, "state_dict": weights, "lightly_train": about}


class History:
    """A class of another program, with a state."""

    def __init__(self) -> None:
        self.values = [torch.ones(2)]


def detectron2(state: State) -> dict[str, Any]:
    """What the official converter makes: arrays, with the head and the counters kept."""
    model = {}
    for name, value in (state | mlp("fc.")).items():
        if "layer" not in name:
            name = f"stem.{name}"
        for number in range(1, 5):
            name = name.replace(f"layer{number}", f"res{number + 1}")
        for number in range(1, 4):
            name = name.replace(f"bn{number}", f"conv{number}.norm")
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        model[name] = value.numpy()
    return {"model": model, "__author__": "MOCO", "matching_heuristics": True}


def generated(network: nn.Module) -> nn.Module:
    """The same network spelled as lightly's ResNetGenerator does, `shortcut` for `downsample`."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if getattr(module, "downsample", None) is not None:
            module.add_module("shortcut", module.downsample)
            del module.downsample
    return network


@dataclass(frozen=True)
class Expected:
    """What must be found in a file, and how the file is made of a network's state dict."""

    layout: str
    make: Callable[[State], Any]
    stem: str | Stem = "imagenet"
    head: tuple[str, ...] = ("0.bias", "0.weight", "2.bias", "2.weight")
    unused: tuple[str, ...] = ()
    key: bool = False
    keys: int = 0
    epoch: int | None = None

    def write(self, path: Path, state: State) -> None:
        """Write the file as the program does."""
        content = self.make(state)
        path.write_bytes(pickle.dumps(content)) if self.layout == "detectron2's names" else torch.save(content, path)


V3 = (
    "0.weight",
    "1.bias",
    "1.num_batches_tracked",
    "1.running_mean",
    "1.running_var",
    "1.weight",
    "3.weight",
    "4.num_batches_tracked",
    "4.running_mean",
    "4.running_var",
)
LAYOUTS = {
    "official v2": Expected("official MoCo", official, key=True, keys=K, epoch=200),
    "official v1, released": Expected("official MoCo", official_linear, head=("bias", "weight"), epoch=200),
    "official v2, small images": Expected("official MoCo", official, stem="small", key=True, keys=K, epoch=200),
    "official v3": Expected("official MoCo v3", official_v3, head=V3, key=True, epoch=100, unused=("optimizer",)),
    "solo-learn": Expected("solo-learn", solo_learn, key=True, keys=2 * K, epoch=399, unused=("classifier.* (2)",)),
    "solo-learn, CIFAR": Expected(
        "solo-learn", solo_learn, SOLO, key=True, keys=2 * K, epoch=399, unused=("classifier.* (2)",)
    ),
    "solo-learn 1.0, CIFAR": Expected(
        "solo-learn", old_solo_learn, SOLO, key=True, keys=2 * K, epoch=399, unused=("classifier.* (2)",)
    ),
    "mmselfsup": Expected("mmselfsup", mmselfsup, key=True, keys=K, epoch=12),
    "mmpretrain": Expected("mmselfsup or mmpretrain", mmpretrain, key=True),
    "VISSL": Expected(
        "VISSL", vissl, head=("0.clf.0.bias", "0.clf.0.weight", "0.clf.2.bias", "0.clf.2.weight"), keys=K
    ),
    "DINO": Expected(
        "DINO",
        dino,
        head=("mlp.0.bias", "mlp.0.weight", "mlp.2.bias", "mlp.2.weight"),
        epoch=100,
        unused=("student.* (64)", "dino_loss.center"),
    ),
    "SwAV": Expected("SwAV", swav, epoch=400, unused=("prototypes.weight",)),
    "BYOL": Expected("BYOL", byol, head=(), key=True),
    "Barlow Twins": Expected("Barlow Twins or VICReg", barlow_twins, epoch=9, unused=("bn.* (3)",)),
    "SimSiam": Expected(
        "SimSiam",
        simsiam,
        head=(
            *V3[:-3],
            "4.bias",
            *V3[-3:],
            "4.weight",
            "6.weight",
            "7.num_batches_tracked",
            "7.running_mean",
            "7.running_var",
        ),
        epoch=99,
    ),
    "lightly-train": Expected(
        "lightly-train", lightly_train, head=(), epoch=5, unused=("student_embedding_model.* (60)",)
    ),
    "detectron2": Expected("detectron2's names", detectron2),
    "VISSL, converted": Expected("VISSL", lambda s: {"model_state_dict": under("_feature_blocks.", s)}, head=()),
    "DINO, teacher alone": Expected("DINO", lambda s: {"teacher": under("backbone.", s)}, head=()),
}
