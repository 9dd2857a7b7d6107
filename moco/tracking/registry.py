"""The encoder as a registered MLflow model, and the alias that points at the best one."""

import importlib.metadata
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.features.intervals import beyond_chance
from moco.files import file_sha256
from moco.tracking.connection import (
    again,
    connect,
    database_lock,
    describe,
    enabled,
    import_mlflow,
    is_passing,
    public_uri,
    tell,
)
from moco.tracking.runs import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from pandas import DataFrame

MODEL_NAME = "moco-encoder"
CHAMPION = "champion"

# What moco.encoders and the reading of images import; the package itself travels inside the model.
REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "opencv-python-headless",
    "pillow",
    "pydantic",
    "pyyaml",
    "safetensors",
)

LIBRARIES = {"timm": ("timm",)}
"""What further kinds of networks import."""


def log_encoder(run: TrackedRun, encoder_folder: Path | str, example_images: Sequence[NDArray[np.uint8]]) -> str | None:
    """Log an encoder folder as a model of the run; the same weights are logged once a run.

    The model is a `pyfunc` that takes files of images (a column `image` of bytes), brings each to
    the encoder's center view (short side resized, center cropped to `image_size`), and returns
    float32 features N x D, each independent of the other images. It carries the code of `moco`, so
    that the project need not be installed. The same model has the flavors pytorch and onnx
    (`moco.tracking.flavors`).

    Args:
        run: the run that made the encoder.
        encoder_folder: encoder.safetensors and encoder.json.
        example_images: uint8, H x W x 3; the first becomes the model's input example.

    Returns:
        The model's URI, or None when tracking is off or out of reach.
    """
    if run.id is None or not _registering():
        return None
    folder = Path(encoder_folder)
    try:
        mlflow = import_mlflow()
        client, experiment = connect()
        weights = file_sha256(folder / "encoder.safetensors")
        for model in client.search_logged_models([experiment], f"tags.weights = '{weights}'"):
            if model.source_run_id == run.id and str(model.status) == "READY":
                return model.model_uri
        mlflow.set_experiment(experiment_id=experiment)  # else the model lands in the experiment "Default"
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec

        from moco.encoders.export.source import read_source
        from moco.tracking import flavors, serving

        source = read_source(folder)
        spec = source.spec
        info = Model.log(
            artifact_path=None,
            name="encoder",
            flavor=flavors,
            run_id=run.id,
            source=source,
            loader_module="moco.tracking.serving",
            data_path=str(folder),
            code_paths=[str(Path(__file__).parents[1]), *([str(own)] if (own := spec.network.source) else [])],
            signature=ModelSignature(
                inputs=Schema([ColSpec("binary", serving.COLUMN)]),  # pixels as JSON are 50 times as long
                outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, spec.feature_dim))]),
            ),
            input_example=_example(example_images[0]),
            pip_requirements=[
                f"{name}=={_public_version(name)}" for name in (*REQUIREMENTS, *LIBRARIES.get(spec.network.kind, ()))
            ],
            metadata={"training_hash": spec.training_hash, "image_size": spec.image_size},
            tags={"weights": weights, "training_hash": spec.training_hash},
        )
        return str(info.model_uri)
    except Exception as error:
        tell(error, f"the encoder is not logged; {again('pretrain')}")
        return None


def register_encoder(
    model_uri: str | None, training_hash: str, metrics: Mapping[str, float | None], validation_hash: str
) -> str | None:
    """Register a logged encoder as a version of `MODEL_NAME`; a retry finds its version.

    Args:
        model_uri: what `log_encoder` gave; None does nothing.
        training_hash: names the settings and data that made the encoder.
        metrics: its figures on the validation data; None is left out.
        validation_hash: names the validation data.

    Returns:
        The version, or None when tracking is off or out of reach.
    """
    if model_uri is None or not enabled() or not _registering():
        return None
    try:
        mlflow = import_mlflow()
        client, _ = connect()
        weights = client.get_logged_model(model_uri.rsplit("/", 1)[-1]).tags["weights"]
        same = f"name = '{MODEL_NAME}' and tags.training_hash = '{training_hash}' and tags.weights = '{weights}'"
        with database_lock():
            versions = [int(entry.version) for entry in client.search_model_versions(same)]
            if not versions:
                tags = {"training_hash": training_hash, "weights": weights}
                versions = [int(mlflow.register_model(model_uri, MODEL_NAME, tags=tags).version)]
        version = str(min(versions))
        for name, value in metrics.items():
            if _is_number(value):
                client.set_model_version_tag(
                    MODEL_NAME, version, _measurement(name, validation_hash), str(float(value))
                )
        return version
    except Exception as error:
        tell(error, f"the encoder is not registered; {again('linear')}")
        return None


def download_encoder(uri: str, folder: Path) -> dict[str, str] | None:
    """Copy the encoder of a registered model into a folder.

    Args:
        uri: models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN/encoder.
        folder: is filled with encoder.safetensors and encoder.json.

    Returns:
        What the model is: uri, version, training_hash; None: the registry has none of that name.

    Raises:
        MocoError: tracking is off or out of reach, or the model holds no encoder of ours.
    """
    if not enabled():
        raise MocoError(
            f"{uri}: MLflow is not installed or tracking is off (MOCO_TRACKING); set pretrain.init.kind: file"
        )
    from mlflow.exceptions import MlflowException

    mlflow = import_mlflow()
    try:
        client, _ = connect()
        model = mlflow.models.get_model_info(uri)
        place = mlflow.artifacts.download_artifacts(uri)
    except MlflowException as error:
        if is_passing(error):
            raise MocoError(describe(error, True, "nothing was begun; run the same command once it answers")) from None
        return None
    found = next(Path(place).glob("data/*/encoder.json"), None)
    if found is None:
        raise MocoError(f"{uri}: holds no encoder of this project; name a model that stage pretrain registered")
    for name in ("encoder.json", "encoder.safetensors"):
        shutil.copyfile(found.with_name(name), folder / name)
    name, _, alias = uri.removeprefix("models:/").partition("@")
    version = client.get_model_version_by_alias(name, alias).version if alias else name.partition("/")[2]
    about = {"uri": uri, "version": str(version)}
    return about | {"training_hash": str((model.metadata or {}).get("training_hash"))}


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
    version becomes the champion, with or without a figure.

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
        if flaw:
            there = "there is none" if champion is None else f"stays version {champion.version}"
            return f"{CHAMPION}: {there}, version {version} is left out: {flaw}"
        if champion is None:
            reason = "there was none before"
        elif not _is_number(value):
            return f"{CHAMPION}: stays version {champion.version}, version {version} has no {metric}"
        else:
            try:
                best = _figure(client, champion, metric, validation_hash, reevaluate)
            except Exception as error:
                why = f"it could not be evaluated on the new data ({error})"
                return f"{CHAMPION}: stays version {champion.version}, {why}"
            figures = f"{metric} {value:.4f} against {best:.4f} on the same {images} validation images"
            if not beyond_chance(value, best, images):
                if value > best:
                    figures += ", which chance may make"
                return f"{CHAMPION}: stays version {champion.version}, version {version} has {figures}"
            reason = f"{figures} for version {champion.version}"
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
        line = f"{CHAMPION}: is now version {version}, {reason}"
        client.set_model_version_tag(MODEL_NAME, version, "promotion", line)
        return line
    except Exception as error:
        tell(error, f"the champion is not decided; {again('linear')}")
        return f"{CHAMPION}: not decided, see the line above"


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
    known = champion.tags.get(_measurement(metric, validation_hash))
    if known is not None:
        return float(known)
    model = import_mlflow().artifacts.download_artifacts(f"models:/{MODEL_NAME}/{champion.version}")
    value = reevaluate(next(Path(model).glob("data/*/encoder.json")).parent)
    if not _is_number(value):
        raise ValueError(f"{metric} of version {champion.version} on this validation data is {value}")
    client.set_model_version_tag(MODEL_NAME, champion.version, _measurement(metric, validation_hash), str(float(value)))
    return float(value)


def _example(image: NDArray[np.uint8]) -> "DataFrame":
    import cv2
    from pandas import DataFrame

    from moco.tracking.serving import COLUMN

    return DataFrame({COLUMN: [cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()]})


def _registering() -> bool:
    """Tell whether encoders are kept as models; those of a study are not."""
    switch = os.environ.get("MOCO_REGISTER", "on")
    if switch not in ("on", "off"):
        raise MocoError(f"environment MOCO_REGISTER={switch!r} is neither on nor off; set it to one of them")
    return switch == "on"


def _measurement(metric: str, validation_hash: str) -> str:
    return f"{metric} on {validation_hash}"


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _public_version(package: str) -> str:
    return importlib.metadata.version(package).split("+")[0]  # a build like 2.11.0+cpu is on no public index
