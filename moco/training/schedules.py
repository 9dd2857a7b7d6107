"""The learning rate and the momentum over time."""

import math

from moco.config import Pretrain
from moco.dictionary.kinds import Kind


def learning_rate(settings: Pretrain, step: int, total_steps: int) -> float:
    """Give the rate of a step.

    The base is lr_per_256 x global_batch / 256 (the linear scaling rule). Cosine: half a period
    from the base to 0 (MoCo v2). Steps: a tenth after each milestone, a share of training (v1: 0.6
    and 0.8). With a warm-up the rate first rises to the base in a straight line (MoCo v3), and the
    cosine begins at its end.

    Args:
        settings: of the run.
        step: 0 … total_steps - 1.
        total_steps: of the run.
    """
    base = settings.lr_per_256 * settings.global_batch / 256
    warm_up = min(total_steps - 1.0, settings.warmup_epochs * total_steps / settings.epochs)
    if step < warm_up:
        return base * (step + 1) / (warm_up + 1)
    if settings.schedule == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total_steps - warm_up)))
    return base * 0.1 ** sum(step >= share * total_steps for share in settings.milestones)


def momentum(dictionary: Kind, step: int, total_steps: int) -> float:
    """Give m of a step: constant, or half a cosine up to 1 (BYOL, Grill et al. 2020, section 3.3).

    Args:
        dictionary: settings of a mechanism with a momentum encoder.
        step: 0 … total_steps - 1.
        total_steps: of the run.
    """
    m: float = dictionary.momentum  # type: ignore[attr-defined]
    if dictionary.momentum_schedule == "constant":  # type: ignore[attr-defined]
        return m
    return 1 - (1 - m) * 0.5 * (1 + math.cos(math.pi * step / total_steps))
