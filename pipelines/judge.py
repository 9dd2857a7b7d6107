"""What decides whether two images are alike: an encoder, or small copies."""

from pathlib import Path

from moco.cluster.machine import load_machine
from moco.devices import compute_devices
from moco.duplicates.likeness import Copies, Features, Judge
from moco.encoders.anyones import Stated, encoder_of


def judge_of(encoder: Path | None) -> Judge:
    """Make what decides; errors as of `encoder_of`."""
    if encoder is None:
        return Copies()
    frozen, about = encoder_of(encoder, Stated(), compute_devices(load_machine().device))
    if about:
        print(f"{encoder}: {about}", flush=True)
    return Features(frozen, str(encoder))
