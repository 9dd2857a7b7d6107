"""Small true networks with random statistics, and a run's checkpoint after real steps."""

from pathlib import Path

import pytest
import torch
from small_material import ROOT

from moco.config import load_params
from moco.encoders.build import build_encoder
from moco.encoders.export.source import Source, read_source
from moco.encoders.frozen import EncoderSpec, FrozenEncoder, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.processes import Processes
from moco.runs import state
from moco.training.setup import build, optimizer_of, set_rates

SIZE = 32
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def source_of(tmp_path):
    """Make a network with statistics of its own, and save it as a stage does."""

    def make(name, size=SIZE, folder="encoder", mean=IMAGENET_MEAN) -> Source:
        network = network_of(name) if isinstance(name, str) else name
        torch.manual_seed(0)
        backbone = build_encoder(network, image_size=size)
        for entry, value in backbone.named_buffers():
            if entry.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif entry.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif entry.endswith("num_batches_tracked"):
                value.fill_(7)
        spec = EncoderSpec(network, size, 0.875, mean, IMAGENET_STD, backbone.feature_dim, "abc")
        if network.kind == "module":
            return Source(tmp_path / folder, FrozenEncoder(backbone, spec))
        save_encoder(tmp_path / folder, backbone, spec)
        return read_source(tmp_path / folder)

    return make


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """Train some steps and keep the checkpoint; gives its path, model and optimizer."""

    def make(*overrides, steps=2):
        shared = ["encoder={kind: resnet, name: resnet18, stem: imagenet}", f"image_size={SIZE}", "dim=16"]
        shared += ["dictionary.num_keys=20", "global_batch=8", "bn_group_size=4", *overrides]
        settings = load_params(ROOT / "params.yaml", [f"pretrain.{value}" for value in shared]).pretrain
        model = build(settings, 40)
        optimizer = optimizer_of(model, settings)
        torch.manual_seed(1)
        for step in range(steps):
            set_rates(model, optimizer, settings, step, 10)
            contrast = model(*torch.randint(0, 256, (2, 8, 3, SIZE, SIZE), dtype=torch.uint8), samples=range(8))
            optimizer.zero_grad()
            contrast.loss.backward()
            optimizer.step()
        folder: Path = tmp_path_factory.mktemp("runs") / "pretrain-0123456789abcdef"
        about = {"epoch": 3, "settings": settings.model_dump(mode="json"), "mean": [0.5, 0.4, 0.3], "std": [0.2] * 3}
        folder.mkdir()
        state.save(folder, steps, model, optimizer, ALONE, True, 1, about)
        return folder / f"step-{steps:09d}.pt", model, optimizer

    return make


@pytest.fixture(scope="session")
def run(run_of):
    return run_of()


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
