"""The registered encoder by MLflow's own loaders: a torch module and an ONNX file, as pyfunc's."""

import subprocess
import sys

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from moco import tracking
from moco.encoders.build import build_encoder
from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.tracking import flavors

SIDE = 32


@pytest.fixture
def registered(tracked, tmp_path):
    """Log and register an encoder; gives its URI."""

    def call(network):
        torch.manual_seed(1)
        backbone = build_encoder(network, image_size=SIDE)
        spec = EncoderSpec(network, SIDE, 1.0, IMAGENET_MEAN, IMAGENET_STD, backbone.feature_dim, "training")
        save_encoder(tmp_path / "encoder", backbone, spec)
        example = np.zeros((SIDE, SIDE, 3), np.uint8)
        with tracking.stage_run("pretrain", {}) as run:
            uri = tracking.log_encoder(run, tmp_path / "encoder", [example])
        return f"models:/moco-encoder/{tracking.register_encoder(uri, 'training', {}, 'val')}"

    return call


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("network", [network_of("thin", "small"), network_of("timm:test_vit")])
def test_every_flavor_gives_the_features_of_the_pyfunc_one(registered, images, network):
    uri = registered(network)
    wanted = mlflow.pyfunc.load_model(uri).get_raw_model().embed(images)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    module = mlflow.pytorch.load_model(uri)
    assert isinstance(module, nn.Module)
    for few in (slice(None), slice(0, 1)):
        found = module(torch.from_numpy(planes[few]))
        np.testing.assert_allclose(found.numpy(), wanted[few], rtol=1e-5, atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(mlflow.onnx.load_model(uri).SerializeToString())
    (found,) = session.run(None, {"images": planes})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


LOAD_THE_PROGRAMS = """
import mlflow, sys
mlflow.pytorch.load_model({uri!r})
mlflow.onnx.load_model({uri!r})
assert not any(name.partition(".")[0] == "moco" for name in sys.modules)
"""


def test_the_programs_load_without_the_models_code_where_pickles_are_refused(registered, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    uri = registered(network_of("thin", "small"))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    code = LOAD_THE_PROGRAMS.format(uri=uri)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_packages_or_an_exportable_network_the_encoder_is_registered_all_the_same(
    registered, images, monkeypatch, capsys
):
    def refuses(*_):
        raise RuntimeError("no such operation\nin this version")

    monkeypatch.setattr(flavors, "find_spec", lambda name: None if name == "onnxscript" else object())
    monkeypatch.setattr("moco.encoders.export.pt2.traced", refuses)
    uri = registered(network_of("thin", "small"))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("registered model")]
    assert said == [
        "registered model: without the flavor pytorch (no such operation)",
        "registered model: without the flavor onnx (it needs onnxscript: pip install 'moco-pipeline[export]')",
    ]
    model = mlflow.pyfunc.load_model(uri)
    assert set(model.metadata.flavors) == {"python_function"}
    assert model.get_raw_model().embed(images).shape == (5, 256)
    with pytest.raises(mlflow.exceptions.MlflowException, match='does not have the "pytorch" flavor'):
        mlflow.pytorch.load_model(uri)
