"""Part 3: the host never waits for the GPU within a step, the loader's batches included."""

from contextlib import closing
from pathlib import Path

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.record import Record
from benchmarks.gpu.ring import Drawn
from benchmarks.gpu.sides import KINDS, parts_of, small_case
from benchmarks.gpu.training import Training
from moco.images.loader import steps

FIRST, STEPS = 3, 5
"""Steps that make what is kept, such as workspaces, and all steps."""


def waiting(record: Record, chip: Chip, scratch: Path) -> None:
    """Take whole steps in which each wait of the host is an error."""
    for kind in KINDS:
        settings = small_case(kind, chip.gpu)
        drawn = Drawn(settings.dictionary.about.views, settings.global_batch, settings.image_size)
        for part in parts_of(settings):
            for precision in ("fp32", "bf16"):
                chosen = settings.model_copy(update={"precision": precision})
                training = Training(chosen, chip.device, part=part)
                name = f"{kind}, {precision}, {'whole' if part is None else 'in parts'}"
                with closing(steps(drawn, 0, STEPS, 1, chip.device)) as batches:
                    for _ in range(FIRST):
                        training.step(next(batches))
                    try:
                        with chip.host_may_not_wait(), chip.norms_at_once():
                            for views in batches:
                                training.step(views)
                    except RuntimeError as error:
                        record.failed.append(f"{name}: {str(error).splitlines()[0]}")
                record.add(name, training.done)
