"""The layouts: how each program names its encoders, heads and queues.

Names are those of `Keys.values`: without `module.`, `state_dict.` and their like.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from moco.encoders.files.keys import Keys
from moco.encoders.stem import Stem


@dataclass(frozen=True)
class Layout:
    """Where one program keeps what.

    Attributes:
        name: of the program.
        backbone: prefix of the encoder that is read.
        seen: whether a file is of this program, beside having something at `backbone`.
        head: prefixes of the projection head; the first that is there counts.
        key_backbone: prefixes of the key encoder (momentum encoder).
        key_head: prefixes of its head.
        predictor: prefixes of the predictor behind the head.
        queue: name of the queue.
        pointer: name of its pointer.
        filled: name of the number of its real keys, where a queue begins without any.
        order: of the queue: keys in columns (dim x K), in rows (K x dim), or in columns for each of
            two views (2 x dim x K).
        ignored: prefixes of what is no loss to leave out.
        small_stem: what a 3x3 first convolution is in this program; None: names do not tell.
        variants: whether networks with other arithmetic have the same names here.
    """

    name: str
    backbone: str
    seen: Callable[[Keys], bool] = lambda keys: True
    head: tuple[str, ...] = ()
    key_backbone: tuple[str, ...] = ()
    key_head: tuple[str, ...] = ()
    predictor: tuple[str, ...] = ()
    queue: str = "queue"
    pointer: str = "queue_ptr"
    filled: str | None = None
    order: Literal["columns", "rows", "pairs"] = "columns"
    ignored: tuple[str, ...] = ()
    small_stem: Stem | None = None
    variants: bool = False


def beside(*prefixes: str, root: str | None = None) -> Callable[[Keys], bool]:
    """Tell a program by any of these prefixes, and by an outermost name of the file."""
    return lambda keys: keys.has(*prefixes) and (root is None or root in keys.roots)


def _lightly_train(side: str, network: str) -> Layout:
    prefix = f"{side}embedding_model.wrapped_model."
    return Layout(
        "lightly-train", f"{prefix}{network}.", ignored=("lightly_train.",), head=(f"{side}projection_head.",)
    )


SOLO_STEM = Stem(3, 1, 2, pool=False)
_SOLO = Layout(
    "solo-learn",
    "backbone.",
    beside("momentum_backbone."),
    head=("projector.",),
    key_backbone=("momentum_backbone.",),
    key_head=("momentum_projector.",),
    predictor=("predictor.",),
    order="pairs",
    small_stem=SOLO_STEM,
)
_OLD_SOLO = replace(_SOLO, backbone="encoder.", key_backbone=("momentum_encoder.",))  # as in version 1.0.2
LAYOUTS = (
    Layout(
        "checkpoint of this project",
        "encoder_q.backbone.",
        beside("encoder_q.head."),
        head=("encoder_q.head.",),
        key_backbone=("dictionary.encoder_k.backbone.",),
        key_head=("dictionary.encoder_k.head.",),
        predictor=("encoder_q.predictor.",),
        queue="dictionary.keys",
        pointer="dictionary.pointer",
        filled="dictionary.filled",
        order="rows",
        ignored=("running_statistics",),
    ),
    Layout(
        "mmselfsup",
        "encoder_q.0.",
        beside("encoder_q.1."),
        head=("encoder_q.1.mlp.",),
        key_backbone=("encoder_k.0.",),
        key_head=("encoder_k.1.mlp.",),
        ignored=("backbone.", "neck.", "encoder_k.steps"),
        variants=True,
    ),
    Layout(
        "mmselfsup or mmpretrain",
        "backbone.",
        beside("neck.", "encoder_k.0.", "head.fc.", "data_preprocessor."),
        head=("neck.mlp.", "neck.fc."),
        key_backbone=("encoder_k.0.",),
        key_head=("encoder_k.1.mlp.", "encoder_k.1.fc."),
        ignored=("encoder_k.steps", "data_preprocessor."),
        variants=True,
    ),
    Layout(
        "official MoCo",
        "encoder_q.",
        head=("encoder_q.fc.",),
        key_backbone=("encoder_k.",),
        key_head=("encoder_k.fc.",),
    ),
    Layout(
        "official MoCo v3",
        "base_encoder.",
        head=("base_encoder.fc.", "base_encoder.head."),
        key_backbone=("momentum_encoder.",),
        key_head=("momentum_encoder.fc.", "momentum_encoder.head."),
        predictor=("predictor.",),
    ),
    *(_lightly_train(side, network) for side in ("teacher_", "", "student_") for network in ("_features", "_model")),
    _SOLO,
    replace(_SOLO, seen=beside("projector.", "classifier.", root="pytorch-lightning_version")),
    replace(_OLD_SOLO, seen=beside("momentum_projector.", "momentum_classifier.")),
    replace(_OLD_SOLO, seen=beside("projector.", "classifier.", root="pytorch-lightning_version")),
    Layout("Barlow Twins or VICReg", "backbone.", beside("projector."), head=("projector.",)),
    Layout(
        "lightly",
        "backbone.",
        beside("projection_head."),
        head=("projection_head.layers.",),
        key_backbone=("backbone_momentum.",),
        key_head=("projection_head_momentum.layers.",),
        predictor=("prediction_head.layers.",),
        queue="criterion.memory_bank.bank",
        pointer="criterion.memory_bank.bank_ptr",
        order="rows",
    ),
    Layout("lightly (teacher and student)", "teacher_backbone.", beside("student_backbone."), head=("teacher_head.",)),
    Layout("VISSL", "trunk._feature_blocks.", head=("heads.",), ignored=("trunk._feature_blocks.num_batches_tracked",)),
    Layout("VISSL", "_feature_blocks."),
    Layout("DINO", "teacher.backbone.", head=("teacher.head.",)),
    Layout("DINO", "teacher.", beside("student.")),
    Layout("BYOL", "online_backbone.", key_backbone=("target_backbone.",)),
    Layout(
        "BYOL",
        "online_network.encoder.",
        head=("online_network.projector.",),
        key_backbone=("target_network.encoder.",),
        key_head=("target_network.projector.",),
        predictor=("predictor.",),
    ),
    Layout("BYOL", "online_encoder.", key_backbone=("target_encoder.",), predictor=("online_predictor.",)),
    Layout("SimSiam", "encoder.", beside("predictor."), head=("encoder.fc.",), predictor=("predictor.",)),
    Layout("SwAV", "", beside("prototypes."), head=("projection_head.",)),
)
