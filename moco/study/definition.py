"""A study's file: `studies/NAME.yaml`, one comparison of the paper at two sizes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moco import presets
from moco.config import Params, Seed
from moco.encoders.architectures import ARCHITECTURES
from moco.encoders.kinds import Network
from moco.errors import MocoError
from moco.settings import Settings, validate
from moco.yaml_files import read_yaml

FOLDER = Path("studies")
SECTIONS = tuple(section for section in Params.model_fields if section not in ("check", "report"))
"""Of params.yaml: those that a study may set."""
SCALES = ("laptop", "paper")

Scale = Literal["laptop", "paper"]
X = int | float | str
Known = Literal["published", "second-hand", "from memory"]
ORDERED = ("log2", "log10", "linear", "parameters")


class Axis(Settings):
    """What the runs differ in."""

    label: str = Field(min_length=1, description="With unit, if any.")
    kind: Literal["log2", "log10", "linear", "categories", "parameters"] = Field(
        description="categories: in the order of the file. parameters: `x` names the encoder, whose parameters are counted."
    )


class GridPoint(Settings):
    """One setting, run once for each seed."""

    series: str = Field(min_length=1, description="The line or group it belongs to.")
    x: X = Field(description="Its place on the axis.")
    set: dict[str, Any] = Field({}, description="SECTION.KEY of params.yaml -> value.")


class Grid(Settings):
    """The runs of a study at one size."""

    stated: str = Field(min_length=1, description="What this grid is for and how long it takes, in a sentence.")
    preset: Literal["small", "cifar", "v1", "v2"] | None = Field(None, description="Recipe that the runs begin with.")
    own_views: bool = Field(
        False, description="Keep the views of params.yaml, which belong to the images; else the recipe's."
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(description="Each point is run with each.")
    set: dict[str, Any] = Field({}, description="What all runs have in common: SECTION.KEY -> value.")
    runs: Annotated[list[GridPoint], Field(min_length=1)] = Field(description="The points.")

    @model_validator(mode="after")
    def _each_point_once(self) -> "Grid":
        keys = [(slug(point.series), slug(point.x)) for point in self.runs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"there are two runs {'-'.join(key)}; give one another series or x")
        for point in self.runs:
            for name in [*self.set, *point.set]:
                section, dot, _ = name.partition(".")
                if not dot or section not in SECTIONS:
                    raise ValueError(f"{name} is not SECTION.KEY; a study sets keys of {', '.join(SECTIONS)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds} holds one twice; name each once")
        return self


class Published(Settings):
    """What others measured, shown beside our numbers."""

    of: str = Field(min_length=1, description="Data, encoder, measure.")
    series: str = Field(min_length=1, description="Our series beside which it is shown.")
    known: Known = Field(description="published: read in the paper itself; the others are shown with this mark.")
    values: dict[X, float | str] = Field(description="x -> percent, or a word such as `fails`.")


class Study(Settings):
    """One comparison."""

    title: str = Field(min_length=1)
    question: str = Field(min_length=1, description="What the runs are to answer.")
    source: str = Field(min_length=1, description="Paper and figure, table or section.")
    axis: Axis
    metric: Literal["linear_top1", "linear_top5", "knn_top1"] = Field(description="Of the encoder, on the test split.")
    curves: bool = Field(False, description="Whether pretext accuracy and kNN over the epochs are part of the answer.")
    scales: dict[Scale, Grid] = Field(min_length=1)
    published: list[Published] = Field([])
    published_text: str | None = Field(None, description="What the paper says in words, where it has no numbers.")

    @model_validator(mode="after")
    def _places_are_on_the_axis(self) -> "Study":
        for x in [
            *(point.x for grid in self.scales.values() for point in grid.runs),
            *(x for entry in self.published for x in entry.values),
        ]:
            if self.axis.kind == "parameters":
                if x not in ARCHITECTURES:
                    raise ValueError(
                        f"x = {x!r} is not an encoder, and a parameters axis has no place for it; choose one of {', '.join(ARCHITECTURES)}"
                    )
            elif self.axis.kind != "categories" and (isinstance(x, str) or (self.axis.kind != "linear" and x <= 0)):
                raise ValueError(f"x = {x!r} has no place on a {self.axis.kind} axis")
        points = [(entry.series, x) for entry in self.published for x in entry.values]
        for series, x in points:
            if points.count((series, x)) > 1:
                raise ValueError(f"published has two figures of {series} at {x!r}; keep one")
        return self


@dataclass(frozen=True)
class Variant:
    """One run of a study: a point of its grid with a seed.

    Attributes:
        study: its study's name.
        scale: its grid.
        series: as in the study's file.
        x: as in the study's file.
        seed: of pretraining; it chooses the images too, where only a share of them is used.
        changes: `section.key` -> value, instead of those of params.yaml.
    """

    study: str
    scale: Scale
    series: str
    x: X
    seed: int
    changes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name it STUDY-SCALE-SERIES-X-sSEED, as the DVC experiment is named."""
        return f"{self.study}-{self.scale}-{slug(self.series)}-{slug(self.x)}-s{self.seed}"

    @property
    def point(self) -> tuple[str, X]:
        """Say what runs of several seeds have in common."""
        return self.series, self.x

    def params(self, path: Path) -> Params:
        """Read a parameter file's values with the run's changes.

        Raises:
            MocoError: they are not allowed; the line names the run.
        """
        overrides = [f"{key}={json.dumps(value)}" for key, value in self.changes.items()]
        origin = f"{FOLDER / self.study}.yaml, run {self.name}"
        return validate(read_yaml(path), str(path), Params, overrides, by=origin)


def names(folder: Path = FOLDER) -> list[str]:
    """List the studies there are, by name."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_study(name: str, folder: Path = FOLDER) -> Study:
    """Read studies/NAME.yaml.

    Raises:
        MocoError: there is no such file, or a key or value in it is not allowed; one line.
    """
    path = folder / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(names(folder)) or "none"
        raise MocoError(f"{path}: no such study; there are: {known}")
    return validate(read_yaml(path), str(path), Study)


def variants(name: str, study: Study, scale: Scale, seeds: list[int] | None = None) -> list[Variant]:
    """List the runs of a grid: every point with the first seed, then every point with the second.

    Args:
        name: of the study.
        study: its file.
        scale: which grid.
        seeds: instead of the grid's own.

    Raises:
        MocoError: the study has no such grid.
    """
    if scale not in study.scales:
        raise MocoError(f"{FOLDER / name}.yaml: has no scale {scale}; choose one of {', '.join(study.scales)}")
    grid = study.scales[scale]
    common = {**_recipe(grid), **grid.set}
    return [
        Variant(name, scale, point.series, point.x, seed, {**_beside(common, point.set), "pretrain.seed": seed})
        for seed in dict.fromkeys(seeds or grid.seeds)
        for point in grid.runs
    ]


def _beside(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Put a point's values over the common ones; of a section that it replaces, nothing stays."""
    return {
        key: value for key, value in common.items() if not key.startswith(tuple(f"{whole}." for whole in own))
    } | own


def place(kind: str, x: X, encoder: str | Network) -> float | None:
    """Place a run on a numbered axis; None: its axis has names only.

    Args:
        kind: of the axis.
        x: of the run.
        encoder: what is counted where the axis is its size.

    Returns:
        For `parameters`, millions of parameters of the backbone.
    """
    if kind == "parameters":
        from moco.encoders.build import size_of

        return size_of(encoder)[0] / 1e6
    return None if kind == "categories" else float(x)


def slug(text: X) -> str:
    """Make a part of a name: letters, digits, points and hyphens."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(text)).strip("-.").lower()


def _recipe(grid: Grid) -> dict[str, Any]:
    """Read a preset's pretrain section as SECTION.KEY -> value."""
    if grid.preset is None:
        return {}
    found: dict[str, Any] = read_yaml(presets.FOLDER / f"{grid.preset}.yaml")["pretrain"]
    views = found.pop("views")
    return {f"pretrain.{key}": value for key, value in found.items()} | (
        {} if grid.own_views else {f"pretrain.views.{key}": value for key, value in views.items()}
    )
