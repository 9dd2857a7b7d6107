"""One ONNX file, weights and normalization inside."""

import contextlib
import io
import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from moco.encoders.export.deployed import traced
from moco.encoders.export.source import Source
from moco.encoders.export.target import Features, Target, description
from moco.errors import MocoError, first_line

_NEEDS = ("onnx", "onnxscript")
_INSTALL = "pip install 'moco-pipeline[export]'"


def write(source: Source, path: Path) -> None:
    """Write the file, its description in its metadata.

    Raises:
        MocoError: the packages are not installed, or ONNX lacks an operation of the network.
    """
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise MocoError(f"--to onnx needs the package {' and '.join(missing)}; install it with `{_INSTALL}`")
    program = traced(source)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                dynamo=True,
                dynamic_shapes={"images": {0: "N"}},
                input_names=["images"],
                output_names=["features"],
                verbose=False,
            )
            assert made is not None
            made.model.metadata_props.update(
                description(source.spec) | {"encoder": json.dumps(source.spec.values(), sort_keys=True)}
            )
            made.save(path, external_data=False)
    except OSError:
        raise
    except Exception as error:  # of the converter, which names its own rules
        reason = first_line(error)[:160]
        raise MocoError(
            f"{source.path}: {source.label} cannot be written as one ONNX file ({reason}); take --to pt2"
        ) from None


def read(source: Source, path: Path) -> Features | str:
    """Run the file in onnxruntime."""
    if find_spec("onnxruntime") is None:
        return f"onnxruntime is not installed; `{_INSTALL}`"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def features(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return features


def how(source: Source, path: Path) -> str:
    """Give the call."""
    size = source.spec.image_size
    return (
        f'onnxruntime.InferenceSession("{path}").run(None, {{"images": images}}), images uint8 N x 3 x {size} x {size},'
        " RGB"
    )


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Keep the converter's notes to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


TARGET = Target((".onnx",), write, read, how)
