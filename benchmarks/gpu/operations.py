"""Count the operations of a ResNet-50 step: `python -m benchmarks.gpu.operations`.

Counted on a CPU, on small images, with batch norms that take all groups at once, as on a GPU: the
number depends on neither. Views and allocations start none. Some operations are several kernels.
"""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.training import Training, views_of
from benchmarks.step import case

FREE = (
    *("alias", "as_strided", "detach", "expand", "lift_fresh", "permute", "select", "slice", "split", "squeeze", "t"),
    *("transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "empty", "empty_like", "new_empty"),
    *("_record_function_enter_new", "_record_function_exit"),
)
"""Operations that start no kernel."""


class Counted(TorchDispatchMode):
    """A context that counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operation, and do it."""
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operations(groups: int) -> int:
    """Count the operations of the second step, whose batch has this many batch-norm groups."""
    settings = case("resnet50", 32, 16, 64).model_copy(update={"bn_group_size": 16 // groups})
    chip = Chip.of("cpu")
    training, views = Training(settings, chip.device), views_of(settings)
    training.optimizer.param_groups[0]["fused"] = True  # as on a GPU
    training.step(views)
    with Counted() as counted, chip.norms_at_once():
        training.optimizer.zero_grad()
        training.compute(views, training.shuffle)
    return sum(count for name, count in counted.names.items() if name not in FREE)


if __name__ == "__main__":
    for groups in (1, 8):
        print(f"ResNet-50, {groups} batch-norm group(s): {operations(groups):,} operations a step")
