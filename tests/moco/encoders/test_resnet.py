"""The ResNet family, its heads and the encoder's file."""

import pytest
import torch
import torchvision

from moco.encoders.frozen import EncoderSpec, FrozenEncoder, load_encoder, random_encoder, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize
from moco.encoders.resnet import ARCHITECTURES, ResNet
from moco.errors import MocoError

SPEC = EncoderSpec(
    network_of("thin", "small"), 16, 1.0, IMAGENET_MEAN, IMAGENET_STD, ResNet("thin", "small").feature_dim, "abc"
)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_weights_of_torchvision_load_and_give_the_same_features(name):
    theirs = getattr(torchvision.models, name)(weights=None)
    theirs.fc = torch.nn.Identity()
    ours = ResNet(name)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours.eval()(images), theirs.eval()(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet50", 24), ("resnext50_32x8d", 46), ("resnet50w2", 94), ("resnet50w4", 375)]
)
def test_parameters_are_as_many_as_the_paper_states(name, millions):
    with torch.device("meta"):
        parameters = sum(p.numel() for p in ResNet(name).parameters())
    assert round(parameters / 1e6) == millions


def test_every_architecture_gives_features_of_its_dimension():
    for name in ("thin", "resnet18"):
        for stem in ("imagenet", "small", "small-stride2"):
            encoder = ResNet(name, stem)
            assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, encoder.feature_dim)
    assert "resnet152" in ARCHITECTURES


def test_normalize_is_torchvisions_to_tensor_and_normalize():
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(images.float() / 255, IMAGENET_MEAN, IMAGENET_STD)
    assert torch.allclose(normalize(images), expected, atol=1e-5)


def test_an_encoder_file_returns_the_same_features_and_the_same_bytes(tmp_path):
    encoder = random_encoder(SPEC, seed=3)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    for folder in ("a", "b"):
        save_encoder(tmp_path / folder, encoder.backbone, SPEC)
    loaded = load_encoder(tmp_path / "a")
    assert loaded.spec == SPEC
    assert torch.equal(loaded.embed(images), encoder.embed(images))
    for name in ("encoder.safetensors", "encoder.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_features_do_not_depend_on_the_other_images_of_the_batch():
    encoder = FrozenEncoder(ResNet("thin", "small", bn_group_size=2), SPEC)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(encoder.embed(images)[2:3], encoder.embed(images[2:3]), atol=1e-6)


def test_a_missing_or_damaged_encoder_is_one_clear_line(tmp_path):
    with pytest.raises(MocoError, match="no encoder there"):
        load_encoder(tmp_path)
    save_encoder(tmp_path, ResNet("thin", "small"), SPEC)
    (tmp_path / "encoder.safetensors").write_bytes(b"not tensors")
    with pytest.raises(MocoError, match="not a readable encoder"):
        load_encoder(tmp_path)


def test_the_random_baseline_depends_on_its_seed_alone():
    first, second, other = random_encoder(SPEC, 1), random_encoder(SPEC, 1), random_encoder(SPEC, 2)
    assert torch.equal(first.backbone.conv1.weight, second.backbone.conv1.weight)
    assert not torch.equal(first.backbone.conv1.weight, other.backbone.conv1.weight)
