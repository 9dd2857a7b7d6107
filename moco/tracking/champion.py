"""The aliases that point at the best registered encoder, and at the one before it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from moco.errors import MocoError
from moco.features.intervals import beyond_chance
from moco.tracking.connection import again, connect, enabled, import_mlflow, is_passing, public_uri, tell
from moco.tracking.registry import MODEL_NAME, download_encoder, is_number, measurement

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS = "champion", "previous"


def promote(
    version: str | None,
    metric: str,
    value: float | None,
    images: int,
    validation_hash: str,
    reevaluate: Callable[[Path], float | None],
    flaw: str | None = None,
) -> str:
    """Move the alias `champion` to a version that is better by more than chance on the same data.

    A champion without a figure on this data is first evaluated on it. Without a champion the
    version becomes the champion, with or without a figure. The one before has the alias `previous`.
    What was decided is the version's tag `promotion`.

    Args:
        version: what `register_encoder` gave; None does nothing.
        metric: an accuracy in [0, 1].
        value: the version's figure; None for data without labels.
        images: how many it was measured on.
        validation_hash: names the validation data the figure was measured on.
        reevaluate: gives the figure of the encoder in a folder (encoder.safetensors and
            encoder.json) on the same data.
        flaw: why this version must not be the champion, whatever its figure.

    Returns:
        One line that says what was done and why.
    """
    if version is None or not enabled():
        return f"{CHAMPION}: not decided, nothing is registered"
    try:
        client, _ = connect()
        champion = _champion(client)
        if champion is not None and str(champion.version) == version:
            return f"{CHAMPION}: version {version} is the champion already"
        is_better, line = _decide(client, champion, version, metric, value, images, validation_hash, reevaluate, flaw)
        if is_better:
            if champion is not None:
                client.set_registered_model_alias(MODEL_NAME, PREVIOUS, str(champion.version))
            client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
        client.set_model_version_tag(MODEL_NAME, version, "promotion", line)
        return line
    except Exception as error:
        tell(error, f"the champion is not decided; {again('linear')}")
        return f"{CHAMPION}: not decided, see the line above"


def _decide(
    client: "MlflowClient",
    champion: "ModelVersion | None",
    version: str,
    metric: str,
    value: float | None,
    images: int,
    validation_hash: str,
    reevaluate: Callable[[Path], float | None],
    flaw: str | None,
) -> tuple[bool, str]:
    """Tell whether a version becomes the champion, and why, one line; arguments as of `promote`."""
    if flaw:
        there = "there is none" if champion is None else f"stays version {champion.version}"
        return False, f"{CHAMPION}: {there}, version {version} is left out: {flaw}"
    if champion is None:
        return True, f"{CHAMPION}: is now version {version}, there was none before"
    stays = f"{CHAMPION}: stays version {champion.version}"
    if not is_number(value):
        return False, f"{stays}, version {version} has no {metric}"
    try:
        best = _figure(client, champion, metric, validation_hash, reevaluate)
    except Exception as error:
        return False, f"{stays}, it could not be evaluated on the new data ({error})"
    figures = f"{metric} {value:.4f} against {best:.4f} on the same {images} validation images"
    if beyond_chance(value, best, images):
        return True, f"{CHAMPION}: is now version {version}, {figures} for version {champion.version}"
    chance = ", which chance may make" if value > best else ""
    return False, f"{stays}, version {version} has {figures}{chance}"


@contextmanager
def champion_folder() -> Iterator[Path]:
    """Hold a copy of the champion's encoder folder for as long as the context lasts.

    Raises:
        MocoError: tracking is off or out of reach, or there is no champion.
    """
    if not enabled():
        raise MocoError(
            f"{CHAMPION}: is in the MLflow registry, which is off (MOCO_TRACKING) or not installed; name a folder"
        )
    with TemporaryDirectory() as folder:
        if download_encoder(f"models:/{MODEL_NAME}@{CHAMPION}", Path(folder)) is None:
            raise MocoError(
                f"{CHAMPION}: no such encoder in the registry of {public_uri()}; `dvc repro linear` registers one, or"
                " name a folder"
            )
        yield Path(folder)


def _champion(client: "MlflowClient") -> "ModelVersion | None":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(MODEL_NAME, CHAMPION)
    except MlflowException as error:
        if is_passing(error):
            raise
        return None


def _figure(
    client: "MlflowClient",
    champion: "ModelVersion",
    metric: str,
    validation_hash: str,
    reevaluate: Callable[[Path], float | None],
) -> float:
    known = champion.tags.get(measurement(metric, validation_hash))
    if known is not None:
        return float(known)
    model = import_mlflow().artifacts.download_artifacts(f"models:/{MODEL_NAME}/{champion.version}")
    value = reevaluate(next(Path(model).glob("data/*/encoder.json")).parent)
    if not is_number(value):
        raise ValueError(f"{metric} of version {champion.version} on this validation data is {value}")
    client.set_model_version_tag(MODEL_NAME, champion.version, measurement(metric, validation_hash), str(float(value)))
    return float(value)
