"""The networks as settings: which there are, how each is named and built.

Nothing here imports torch: the schema and the command line read these descriptions. A new family is
a class here, and a module beside this one that builds it; nothing else names it.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, field_validator

from moco.encoders.architectures import ARCHITECTURES
from moco.encoders.stem import stem_of
from moco.errors import MocoError
from moco.settings import Settings, describe

if TYPE_CHECKING:
    from torch import nn


def _stem(text: str) -> str:
    try:
        return str(stem_of(text))
    except MocoError as error:
        raise ValueError(str(error)) from None


StemText = Annotated[str, AfterValidator(_stem)]
"""A name of first layers, or their values."""
Options = dict[str, bool | int | float | str]
_FREEZE = "Parts that keep their first weights, such as patch_embed: names of modules of the network."


class Network(Settings):
    """The settings of a network, and the way to build it."""

    home: ClassVar[str]
    """Module beside this one whose `build` makes it."""

    kind: str
    name: str

    @property
    def label(self) -> str:
        """Its name among all networks."""
        return f"{self.kind}:{self.name}"

    @property
    def words(self) -> str:
        """Its name with what else tells it from others."""
        return self.label

    @property
    def source(self) -> Path | None:
        """The file or package of a person's own that it comes from; None: a library's."""
        return None

    def build(self, image_size: int | None = None) -> "nn.Module":
        """Make the network with fresh weights, without its classifier: images to features.

        Args:
            image_size: side of the images in pixels, for networks that are made for one size.

        Raises:
            MocoError: there is no such network.
        """
        network: nn.Module = importlib.import_module(f"moco.encoders.{self.home}").build(self, image_size)
        return network


class ResNet(Network):
    """A ResNet of the paper's family."""

    home = "resnet"

    kind: Literal["resnet"]
    name: str = Field(description="Architecture: thin, resnet18, resnet34, resnet50, … (`moco encoders` lists them).")
    stem: StemText = Field(
        description="First layers. imagenet: 7x7 stride 2 and max-pooling. small: 3x3 stride 1, for images up to about"
        " 64 pixels. small-stride2: 3x3 stride 2, a quarter of the work, for the same on a CPU. Others by their values: 3x3-stride1-padding2-nopool."
    )

    @property
    def label(self) -> str:
        return self.name

    @property
    def words(self) -> str:
        return f"{self.name} with stem {self.stem}"

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in ARCHITECTURES:
            raise ValueError(f"{name!r} is no known ResNet; choose one of {', '.join(ARCHITECTURES)}")
        return name


class Timm(Network):
    """A network of the library timm, which has to be installed."""

    home = "others"

    kind: Literal["timm"]
    name: str = Field(min_length=1, description="As timm.list_models() has it: convnext_tiny, vit_small_patch16_224, …")
    options: Options = Field(
        {}, description="Passed to timm.create_model, such as {patch_size: 4, drop_path_rate: 0.1}."
    )
    freeze: tuple[str, ...] = Field((), strict=False, description=_FREEZE)


class Torchvision(Network):
    """A classifier of torchvision."""

    home = "others"

    kind: Literal["torchvision"]
    name: str = Field(min_length=1, description="As torchvision.models.list_models() has it: regnet_y_400mf, …")
    options: Options = Field({}, description="Passed to the model's builder.")
    freeze: tuple[str, ...] = Field((), strict=False, description=_FREEZE)


class Own(Network):
    """A network of your own."""

    home = "others"

    kind: Literal["module"]
    name: str = Field(
        description="package.file:function. The function takes nothing, or image_size, and gives an nn.Module from"
        " normalized images N x 3 x S x S to features N x D."
    )
    freeze: tuple[str, ...] = Field((), strict=False, description=_FREEZE)

    @field_validator("name")
    @classmethod
    def _names_a_function(cls, name: str) -> str:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
            raise ValueError(f"{name!r} is not package.file:function, such as networks:small")
        return name

    @property
    def source(self) -> Path | None:
        look_here()
        package, _, _ = self.name.partition(":")[0].partition(".")
        found = importlib.util.find_spec(package)
        if found is None or not found.origin:
            return None
        path = Path(found.origin)
        return path.parent if path.name == "__init__.py" else path


def look_here() -> None:
    """Let modules of this folder be imported; an installed command does not look there."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)


AnyNetwork = Annotated[ResNet | Timm | Torchvision | Own, Field(discriminator="kind")]
"""`pretrain.encoder`: the network that is trained."""
_ANY: TypeAdapter[Network] = TypeAdapter(AnyNetwork)


def network_of(values: str | Mapping[str, Any] | Network, stem: str = "imagenet") -> Network:
    """Read which network is meant.

    Args:
        values: settings, or a label: `resnet50`, `timm:NAME`, `torchvision:NAME` or
            `module:package.file:function`.
        stem: of a ResNet that is named by its label.

    Raises:
        MocoError: there is no such kind, or no such ResNet.
    """
    if isinstance(values, Network):
        return values
    if isinstance(values, str):
        kind, colon, name = values.partition(":")
        values = {"kind": kind, "name": name} if colon else {"kind": "resnet", "name": values, "stem": stem}
    try:
        return _ANY.validate_python(values)
    except ValidationError as error:
        raise MocoError(f"encoder: {describe(error, values)}") from None
