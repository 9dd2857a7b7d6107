"""A file of weights as we use it, whoever wrote it."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from moco.encoders.kinds import Network
from moco.encoders.stem import Stem


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds, in our names.

    Attributes:
        path: of the file.
        size: of the file, bytes.
        layout: the program that wrote it, as far as names tell: "official MoCo", …
        backbone: float32, of a ResNet by torchvision's names, of any other network by the names of
            its own library, without wrappers.
        architecture: key of `ARCHITECTURES`; None: no ResNet of ours.
        network: which it is, by its weights or by what the file says; None: neither tells. A module
            of a person's own is told by that person alone, for its code would be run.
        stem: a name in `STEMS`, or what is no name; None: no ResNet of ours.
        stem_known: whether the file, its layout or the caller says so.
        head: the projection head as `moco.encoders.heads` names its layers ("0.weight", …; "weight"
            of a single layer), or as they are; {}: none.
        predictor: what follows the head of the query encoder, likewise.
        key_backbone: the key encoder's backbone; {}: none.
        key_head: its head.
        queue: K x C float32, a key each row; None: none.
        pointer: row that the next key overwrites.
        filled: the queue's real keys, which are its first ones; all K unless the file says.
        optimizer: momentum buffers of SGD or LARS by our names: "backbone.conv1.weight",
            "head.0.weight", …; {}: none, or of an unknown order.
        optimizer_kind: "sgd", "lars", "adam" or "another"; empty: the file has no optimizer's
            state.
        epoch: as the file says.
        mean: per-channel mean of values in [0, 1], where the file says.
        std: per-channel deviation of values in [0, 1], where the file says.
        image_size: side of the images it was trained on, pixels, where the file says.
        eval_crop_ratio: share of the short side that the center view keeps, where the file says.
        difference: why a ResNet is none of ours; empty otherwise.
        unused: every key that went nowhere.
        notes: sentences on what was converted or chosen.
        cannot_tell: sentences on what names do not tell.
    """

    path: Path
    size: int
    layout: str
    backbone: dict[str, Tensor]
    architecture: str | None
    network: Network | None
    stem: str | Stem | None
    stem_known: bool
    head: dict[str, Tensor]
    predictor: dict[str, Tensor]
    key_backbone: dict[str, Tensor]
    key_head: dict[str, Tensor]
    queue: Tensor | None
    pointer: int | None
    filled: int
    optimizer: dict[str, Tensor]
    optimizer_kind: str
    epoch: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    image_size: int | None
    eval_crop_ratio: float | None
    difference: str
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    cannot_tell: tuple[str, ...]
