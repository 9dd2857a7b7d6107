"""A frozen encoder of anybody's file: what it says, what a person states, what is assumed aloud."""

import pytest
import torch
import torchvision

from moco.encoders.anyones import Stated, encoder_of
from moco.encoders.build import build_encoder
from moco.encoders.frozen import EncoderSpec, load_encoder, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.encoders.stem import Stem
from moco.errors import MocoError

GRAY = (0.5,) * 3


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_file_of_others_encodes_as_its_network_and_says_what_is_assumed(tmp_path, images):
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    encoder, about = encoder_of(tmp_path / "resnet18.pth", Stated())
    network.fc = torch.nn.Identity()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(encoder.embed(images), network((images / 255 - mean) / std), rtol=1e-4, atol=1e-4)
    assert encoder.spec.network == network_of("resnet18") and encoder.spec.image_size == 224
    assert "unused: fc.* (2); " in about
    assert "; mean and deviation are taken to be ImageNet's, for the file does not say them" in about
    assert about.endswith("; images of 224 pixels and the crop ratio 0.875 are assumed")
    assert "\n" not in about


def test_what_a_person_states_is_used_and_nothing_is_assumed(tmp_path, images):
    network = ResNet("thin", Stem(3, 1, 2, False)).eval()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    stated = Stated(None, "3x3-stride1-padding2-nopool", 32, 1.0, GRAY, GRAY)
    encoder, about = encoder_of(tmp_path / "a.pth", stated)
    torch.testing.assert_close(encoder.embed(images), network((images / 255 - 0.5) / 0.5), rtol=1e-4, atol=1e-4)
    assert (encoder.spec.image_size, encoder.spec.eval_crop_ratio) == (32, 1.0)
    assert "assumed" not in about and "ImageNet's" not in about and "does not tell" not in about


@pytest.mark.parametrize(
    ("label", "make"),
    [
        ("timm:test_vit", lambda: __import__("timm").create_model("test_vit", img_size=32)),
        ("timm:test_efficientnet", lambda: __import__("timm").create_model("test_efficientnet")),
        ("torchvision:mobilenet_v3_small", torchvision.models.mobilenet_v3_small),
    ],
)
def test_a_librarys_own_file_is_read_without_its_classifier_once_its_network_is_named(tmp_path, images, label, make):
    path, network = tmp_path / "a.pth", make().eval()
    torch.save(network.state_dict(), path)
    with pytest.raises(MocoError, match=r"fits none of the known architectures .*--network"):
        encoder_of(path, Stated())
    encoder, about = encoder_of(path, Stated(network_of(label), image_size=32, mean=(1e-9,) * 3, std=(1.0,) * 3))
    plain = build_encoder(label, image_size=32).eval()
    plain.load_state_dict(encoder.backbone.state_dict())
    torch.testing.assert_close(encoder.embed(images), plain(images / 255), rtol=1e-3, atol=1e-3)
    own = network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())
    assert "unused: " in about and label in about


@pytest.mark.parametrize("label", ["resnet18", "timm:test_vit", "timm:resnet18"])
def test_our_single_file_says_all_itself_and_is_not_talked_out_of_it(tmp_path, images, label):
    network = network_of(label)
    backbone = build_encoder(network, image_size=32)
    save_encoder(tmp_path, backbone, EncoderSpec(network, 32, 0.9, GRAY, GRAY, backbone.feature_dim, "abc"))
    for path in (tmp_path, tmp_path / "encoder.safetensors"):
        encoder, about = encoder_of(path, Stated())
        torch.testing.assert_close(encoder.embed(images), load_encoder(tmp_path).embed(images))
        assert (encoder.spec.network, encoder.spec.eval_crop_ratio, encoder.spec.mean) == (network, 0.9, GRAY)
        assert "assumed" not in about and "ImageNet" not in about
        with pytest.raises(MocoError, match="says itself that its image-size is 32, not 64; leave --image-size out"):
            encoder_of(path, Stated(image_size=64))
        with pytest.raises(MocoError):
            encoder_of(path, Stated(network=network_of("resnet34")))


def test_a_file_does_not_choose_code_that_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text(
        "import pathlib\nfrom torch import nn\npathlib.Path('ran').touch()\n"
        "def small():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    network = network_of("module:theirs:small")
    backbone = build_encoder(network)
    save_encoder(tmp_path, backbone, EncoderSpec(network, 32, 1.0, GRAY, GRAY, 4, "abc"))
    (tmp_path / "ran").unlink()
    monkeypatch.delitem(__import__("sys").modules, "theirs")
    with pytest.raises(MocoError, match="--network"):
        encoder_of(tmp_path / "encoder.safetensors", Stated())
    assert not (tmp_path / "ran").exists()
    assert encoder_of(tmp_path / "encoder.safetensors", Stated(network))[0].spec.feature_dim == 4
