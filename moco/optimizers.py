"""The optimizers as settings, and the way to build each, which imports torch."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from moco.errors import MocoError
from moco.settings import Settings

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Share = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0, le=10)]


class AnOptimizer(Settings):
    """The settings of an optimizer, and the way to build it."""

    rate_on_gpu: ClassVar[bool] = True
    """Whether the rate may be a tensor there, which a captured or compiled step reads."""

    kind: str
    weight_decay: Strength

    def build(self, parameters: "Iterable[nn.Parameter]", on_gpu: bool) -> "Optimizer":
        """Make the optimizer of what takes gradient; its rate is set at each step."""
        raise NotImplementedError


class SGD(AnOptimizer):
    """Stochastic gradient descent with momentum (MoCo v1 and v2)."""

    kind: Literal["sgd"]
    momentum: Share = Field(description="Momentum of SGD.")
    weight_decay: Strength = Field(description="Weight decay, on all parameters.")

    def build(self, parameters: "Iterable[nn.Parameter]", on_gpu: bool) -> "Optimizer":
        import torch

        trained = [parameter for parameter in parameters if parameter.requires_grad]
        # fused, it copies what is channels-last on a CPU, and is slower
        return torch.optim.SGD(
            trained, _rate(trained, on_gpu), momentum=self.momentum, weight_decay=self.weight_decay, fused=on_gpu
        )


class AdamW(AnOptimizer):
    """Adam with decoupled weight decay (MoCo v3, for vision transformers)."""

    kind: Literal["adamw"]
    beta1: Share = Field(description="Decay of the gradient's mean.")
    beta2: Share = Field(description="Decay of the squared gradient's mean.")
    weight_decay: Strength = Field(description="Weight decay; biases and norms, which are vectors, have none.")

    def build(self, parameters: "Iterable[nn.Parameter]", on_gpu: bool) -> "Optimizer":
        import torch

        groups = _vectors_apart(parameters, self.weight_decay)
        rate = _rate(groups[0]["params"], on_gpu)
        return torch.optim.AdamW(groups, rate, betas=(self.beta1, self.beta2), fused=on_gpu)


class LARS(AnOptimizer):
    """Layer-wise rates (You et al. 2017; MoCo v3, for ResNets in large batches), from timm."""

    rate_on_gpu = False

    kind: Literal["lars"]
    momentum: Share = Field(description="Momentum of SGD.")
    trust_coefficient: Annotated[float, Field(gt=0, le=10)] = Field(
        description="A layer's rate is the rate times this times the length of its weights over that of its gradient."
    )
    weight_decay: Strength = Field(
        description="Weight decay; biases and norms, which are vectors, have neither this nor a rate of their own."
    )

    def build(self, parameters: "Iterable[nn.Parameter]", on_gpu: bool) -> "Optimizer":
        try:
            from timm.optim import Lars
        except ModuleNotFoundError:
            raise MocoError(
                "pretrain.optimizer.kind = lars needs the package timm; install it with `pip install timm`"
            ) from None
        groups = _vectors_apart(parameters, self.weight_decay)
        made: Optimizer = Lars(groups, lr=0.0, momentum=self.momentum, trust_coeff=self.trust_coefficient)
        return made


AnyOptimizer = Annotated[SGD | AdamW | LARS, Field(discriminator="kind")]
"""`pretrain.optimizer`: how weights follow gradients."""


def _rate(trained: "list[nn.Parameter]", on_gpu: bool) -> Any:
    return trained[0].new_zeros(()) if on_gpu else 0.0


def _vectors_apart(parameters: "Iterable[nn.Parameter]", weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.dim() > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
