"""The registered model as MLflow's own loaders take it: pyfunc, pytorch and onnx in one folder."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.encoders.export.run import export
from moco.encoders.export.source import Source
from moco.errors import MocoError, first_line

if TYPE_CHECKING:
    from mlflow.models import Model


def save_model(path: str, mlflow_model: "Model", source: Source, **pyfunc: Any) -> None:
    """Save an encoder as `Model.log` asks of a flavor: pyfunc's, then programs of the network.

    The programs are those of `moco export`: bytes N x 3 x S x S to features N x D, loaded back and
    compared first. One that cannot be made is left out, which one line says.

    Args:
        path: of the model's folder, which is made.
        mlflow_model: its description.
        source: the encoder.
        pyfunc: options of `mlflow.pyfunc.save_model`.
    """
    import mlflow

    mlflow.pyfunc.save_model(path=path, mlflow_model=mlflow_model, **pyfunc)
    folder = Path(path)
    for name, add in PROGRAMS.items():
        try:
            add(folder, mlflow_model, source)
        except Exception as error:  # a library's own too: the encoder is registered all the same
            reason = first_line(error).partition(";")[0][:200]
            print(f"registered model: without the flavor {name} ({reason})", flush=True)
    mlflow_model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    mlflow_model.save(folder / "MLmodel")


def _add_pytorch(folder: Path, model: "Model", source: Source) -> None:
    import torch

    file = folder / "pytorch/model.pt2"  # the name that mlflow.pytorch looks for
    _program("pt2", source, file)
    model.add_flavor("pytorch", model_data=file.parent.name, pytorch_version=str(torch.__version__), code=None)


def _add_onnx(folder: Path, model: "Model", source: Source) -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MocoError(f"it needs {' and '.join(missing)}: pip install 'moco-pipeline[export]'")
    import onnx

    file = folder / "onnx/model.onnx"
    _program("onnx", source, file)
    model.add_flavor(
        "onnx",
        data=f"{file.parent.name}/{file.name}",
        onnx_version=onnx.__version__,
        providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
        code=None,
    )


PROGRAMS: dict[str, Callable[[Path, "Model", Source], None]] = {"pytorch": _add_pytorch, "onnx": _add_onnx}
"""The flavors that are programs of the network."""


def _program(target: str, source: Source, file: Path) -> None:
    file.parent.mkdir()
    try:
        export(target, source, file)
    except BaseException:
        file.parent.rmdir()
        raise
