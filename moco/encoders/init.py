"""What first weights come from, as settings. Nothing here imports torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from moco.settings import Settings

FETCHED = Path("data/start/model")
"""Where `moco start` puts a registered encoder; DVC watches the folder above."""
CHAMPION = "models:/moco-encoder@champion"


class Init(Settings):
    """Where a run's first weights come from."""

    kind: str

    @property
    def place(self) -> Path | None:
        """The file or folder that holds them; None: none does."""
        return None


class Random(Init):
    """Drawn by the seed."""

    kind: Literal["random"]


class File(Init):
    """A file or an encoder's folder, of any program that `moco inspect` knows."""

    kind: Literal["file"]
    path: str = Field(min_length=1, description="A file that `moco inspect` can read, or an encoder's folder.")
    parts: Literal["backbone", "all"] = Field(
        "backbone",
        description="backbone: the network alone. all: also head, key encoder, queue and the optimizer's momentum, where"
        " the file has them and they fit.",
    )

    @property
    def place(self) -> Path:
        return Path(self.path)


class Model(Init):
    """A model of the MLflow registry; `moco start` fetches it."""

    kind: Literal["model"]
    uri: str = Field(
        pattern=r"^(models|runs):/\S+$", description="models:/NAME/VERSION, models:/NAME@ALIAS or runs:/…."
    )

    @property
    def place(self) -> Path:
        return FETCHED


class Champion(Init):
    """The best encoder so far; `moco start` fetches it. Before there is one: drawn by the seed."""

    kind: Literal["champion"]

    @property
    def place(self) -> Path | None:
        return FETCHED if FETCHED.exists() else None


class Published(Init):
    """The weights that timm or torchvision publishes for the network, downloaded by the library."""

    kind: Literal["published"]


AnyInit = Annotated[Random | File | Model | Champion | Published, Field(discriminator="kind")]
"""`pretrain.init`: what the first weights are."""
NONE = Random(kind="random")
