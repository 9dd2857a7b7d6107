"""The registered model: MLflow imports this file, from the copy inside the model, to load it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.cores import cores
from moco.encoders.frozen import FrozenEncoder, load_encoder
from moco.errors import MocoError
from moco.features.extract import Features, Pixels, embed_images
from moco.images.decode import UndecodableError, decoded

COLUMN = "image"
"""Of what the model is given: a JPEG's, PNG's or other file's bytes; in a request in base64."""


class Embedder:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        self.encoder = encoder

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Features:
        """Encode images, each to its center view.

        Args:
            model_input: a data frame with the column `image`, N files as bytes; images of any size.
            params: MLflow's protocol; there are none.

        Returns:
            float32, N x D, each row independent of the other images.

        Raises:
            MocoError: a file is no readable image; the message has its row and the reason.
        """
        files = [bytes(data) for data in model_input[COLUMN]]
        with ThreadPoolExecutor(cores()) as pool:  # the decoders work outside Python's lock
            return embed_images(self.encoder, list(pool.map(_image, range(len(files)), files)))

    def get_raw_model(self) -> "Embedder":
        """MLflow's protocol: what `PyFuncModel.get_raw_model` gives, for `embed`."""
        return self

    def embed(self, images: Sequence[NDArray[Any]]) -> Features:
        """Encode images that are decoded already; arguments as of `embed_images`."""
        return embed_images(self.encoder, images)


def _image(row: int, data: bytes) -> Pixels:
    try:
        with decoded(data) as image:
            return np.array(image)
    except UndecodableError as error:
        raise MocoError(
            f"row {row}: no readable image ({error}); give a file's bytes, in a request in base64"
        ) from None


def _load_pyfunc(path: str) -> Embedder:
    """MLflow's protocol: `path` is the encoder folder inside the model."""
    return Embedder(load_encoder(path))
