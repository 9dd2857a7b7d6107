"""Stage weights-moco from a file: its stem, size, mean and deviation reach the folder."""

from pathlib import Path

import pytest
import torch

from moco.encoders.frozen import EncoderSpec, load_encoder, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.resnet import ResNet, Stem
from pipelines.weights import keep

PADDED = "3x3-stride1-padding2-nopool"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_stem_without_a_name_is_stated_kept_and_built(capsys):
    network = ResNet("thin", Stem(3, 1, 2, False)).eval()
    torch.save(network.state_dict() | {"fc.weight": torch.ones(1)}, "a.pth")
    keep("a.pth", "moco", network_of("thin", PADDED), PADDED)
    kept = load_encoder("outputs/transfer/weights/moco")
    assert (kept.spec.network.stem, kept.spec.image_size) == (PADDED, 224)
    images = torch.randn(2, 3, 16, 16)
    assert torch.allclose(kept.backbone(images), network(images), atol=1e-6)
    said = capsys.readouterr().out
    assert "unused: fc.weight" in said and said.count("\n") == 2


def test_a_single_file_of_ours_keeps_its_size_mean_and_deviation():
    spec = EncoderSpec(network_of("thin", "small"), 28, 0.875, (0.1,) * 3, (0.9,) * 3, 256, "abc")
    save_encoder("here", ResNet("thin", "small"), spec)
    keep("here/encoder.safetensors", "supervised", network_of("thin", "small"))
    kept = load_encoder(Path("outputs/transfer/weights/supervised")).spec
    assert (kept.image_size, kept.eval_crop_ratio, kept.mean, kept.std) == (28, 0.875, (0.1,) * 3, (0.9,) * 3)
