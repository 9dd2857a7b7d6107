"""The encoder as a registered MLflow model, described for people."""

import importlib.metadata
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.files import file_sha256
from moco.tracking.connection import again, connect, database_lock, describe, enabled, import_mlflow, is_passing, tell
from moco.tracking.runs import TrackedRun

if TYPE_CHECKING:
    from pandas import DataFrame

MODEL_NAME = "moco-encoder"

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
            if is_number(value):
                client.set_model_version_tag(MODEL_NAME, version, measurement(name, validation_hash), str(float(value)))
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


def describe_version(version: str | None, text: Callable[[str], str]) -> None:
    """Write the description of a registered version, which MLflow shows as Markdown.

    Args:
        version: what `register_encoder` gave; None does nothing.
        text: makes it from the version's URI.
    """
    if version is None or not enabled():
        return
    try:
        client, _ = connect()
        client.update_model_version(MODEL_NAME, version, text(f"models:/{MODEL_NAME}/{version}"))
    except Exception as error:
        tell(error, f"the registered version has no description; {again('linear')}")


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


def measurement(metric: str, validation_hash: str) -> str:
    """Name the tag of a version that holds its figure on some validation data."""
    return f"{metric} on {validation_hash}"


def is_number(value: float | None) -> TypeGuard[float]:
    """Tell whether there is a finite figure."""
    return value is not None and math.isfinite(value)


def _public_version(package: str) -> str:
    return importlib.metadata.version(package).split("+")[0]  # a build like 2.11.0+cpu is on no public index
