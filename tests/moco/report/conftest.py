"""An untrained encoder and invented results for the report."""

import numpy as np
import pytest
import torch
from small_material import ROOT

from moco.config import Params, load_params
from moco.encoders.frozen import EncoderSpec, FrozenEncoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.report.results import LinearScores, Results


@pytest.fixture(scope="session")
def encoder() -> FrozenEncoder:
    torch.manual_seed(0)
    backbone = ResNet("thin", "small")
    spec = EncoderSpec(network_of("thin", "small"), 12, 1.0, IMAGENET_MEAN, IMAGENET_STD, backbone.feature_dim, "hash")
    return FrozenEncoder(backbone, spec)


@pytest.fixture(scope="session")
def params() -> Params:
    changes = [
        "report.views=3",
        "report.queries=2",
        "report.neighbors=4",
        "report.map_images=30",
        "pretrain.image_size=12",
    ]
    return load_params(ROOT / "params.yaml", changes)


@pytest.fixture
def results() -> Results:
    steps = np.arange(1.0, 101.0)
    curves = {
        "step": steps,
        "epoch": steps / 20,
        "loss": 8 - 4 * steps / 100,
        "chance": np.full(100, 8.3),
        "top1": steps / 200,
        "top5": steps / 150,
        "queue_fill": np.minimum(1, steps / 30),
        "feature_std": np.full(100, 0.9),
    }
    rates = np.array([0.1, 1.0])
    split = {"images": 3000, "labelled": 3000}
    return Results(
        fetch={
            "images": 90,
            "train": split,
            "val": split,
            "test": split,
            "classes": 3,
            "duplicates": 2,
            "duplicates_of_test": 1,
        },
        shard={"quarantined": 4},
        pretrain={},
        linear={"majority": {"linear_top1": 0.4, "linear_top5": 1.0, "knn_top1": 0.4}},
        curves=curves,
        readings={
            "epoch": np.array([2.0, 4.0]),
            "knn_top1": np.array([0.5, 0.7]),
            "spread": np.array([0.5, 0.6]),
            "effective_rank": np.array([40.0, 60.0]),
            "leak": np.array([0.01, -0.02]),
        },
        scores={
            "moco": LinearScores(0.85, 0.99, 0.8),
            "random": LinearScores(0.75, 0.98, 0.7),
            "pixels": LinearScores(0.8, 0.98, 0.79),
        },
        sweep={kind: (rates, np.array([0.6, 0.8])) for kind in ("moco", "random", "pixels")},
        confusion=[("blue", "blue"), ("blue", "<b>red_*"), ("green | $x$", "green | $x$")] * 1000,
    )
