"""The registered model: MLflow imports this file, from the copy inside the model, to load it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.encoders.frozen import FrozenEncoder, load_encoder
from moco.features.extract import embed_images


class Embedder:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        self.encoder = encoder

    def predict(self, model_input: NDArray[np.uint8], params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Encode images.

        Args:
            model_input: uint8, N x H x W x 3, any size; each becomes its center view.
            params: MLflow's protocol; there are none.

        Returns:
            float32, N x D, each row independent of the other images.
        """
        return embed_images(self.encoder, list(model_input))


def _load_pyfunc(path: str) -> Embedder:
    """MLflow's protocol: `path` is the encoder folder inside the model."""
    return Embedder(load_encoder(path))
