"""Figures of all GPUs of this host beside the CPU's, to 1e-4."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moco.config import load_params
from moco.devices import compute_devices
from moco.encoders.frozen import EncoderSpec, random_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.evaluation.linear import LinearProbes
from moco.features.collapse import effective_rank, feature_spread
from moco.features.knn import knn_predict
from moco.features.neighbors import nearest
from moco.features.placing import fetched

pytestmark = pytest.mark.gpu
SETTINGS = load_params(Path(__file__).parents[3] / "params.yaml").linear
RANDOM = np.random.default_rng(0)
FEATURES = np.maximum(RANDOM.normal(size=(20_000, 256)), 0).astype(np.float32)
LABELS = RANDOM.integers(0, 10, len(FEATURES)).astype(np.int32)


def test_features():
    spec = EncoderSpec(network_of("resnet50", "imagenet"), 64, 1.0, IMAGENET_MEAN, IMAGENET_STD, 2048, "test")
    assert ResNet("resnet50", "imagenet").feature_dim == spec.feature_dim
    batches = [torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8) for _ in range(20)]
    on_gpus, on_cpu = random_encoder(spec, 0, compute_devices("cuda")), random_encoder(spec, 0)
    for batch, found in zip(batches, fetched(map(on_gpus.launch, batches)), strict=True):
        expected = on_cpu.embed(batch)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_neighbors_and_knn():
    gpus = compute_devices("cuda")
    rows, similarities = nearest(FEATURES[:5], FEATURES, 20, gpus)
    np.testing.assert_allclose(similarities, nearest(FEATURES[:5], FEATURES, 20)[1], atol=1e-4)
    assert rows[:, 0].tolist() == list(range(5))
    voted = [knn_predict(FEATURES[:5000], FEATURES, LABELS, 10, 20, 0.07, devices) for devices in (gpus, gpus[:1])]
    on_cpu = knn_predict(FEATURES[:5000], FEATURES, LABELS, 10, 20, 0.07)
    assert all((found == on_cpu).mean() >= 1 - 1e-3 for found in voted)  # some neighbors are equal to rounding


def test_collapse_measures():
    for device in compute_devices("cuda"):
        for measure in (feature_spread, effective_rank):
            assert measure(FEATURES, device) == pytest.approx(measure(FEATURES), rel=1e-4)


def test_linear_probes():
    both = [LinearProbes(256, 10, SETTINGS, device) for device in (torch.device("cpu"), *compute_devices("cuda"))]
    for step in range(50):
        rows = np.arange(256 * step, 256 * (step + 1)) % len(FEATURES)
        for probes in both:
            probes.step(torch.from_numpy(FEATURES[rows]), torch.from_numpy(LABELS[rows].astype(np.int64)), 1.0)
    for probes in both[1:]:
        apart = (probes.weight.cpu() - both[0].weight).abs().max()
        assert apart <= 1e-4 * both[0].weight.abs().max()
