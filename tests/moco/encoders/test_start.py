"""What a run starts from: drawn weights, a folder of ours, a file of others."""

import pytest
import torch

from moco.encoders.build import build_encoder
from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.encoders.start import fingerprint, start_from
from moco.encoders.stem import Stem
from moco.errors import MocoError


@pytest.fixture
def folder(tmp_path):
    """An encoder of ours, trained with its own mean and deviation."""
    network = ResNet("thin", "small-stride2")
    spec = EncoderSpec(network_of("thin", "small-stride2"), 32, 1.0, (0.3, 0.3, 0.3), (0.2, 0.2, 0.2), 256, "abc")
    save_encoder(tmp_path / "encoder", network, spec)
    return tmp_path / "encoder", network


def test_random_weights_depend_on_the_seed_alone_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    first = start_from("random", network_of("thin", "small"), 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert start_from("random", network_of("thin", "small"), 1).fingerprint == first.fingerprint
    assert start_from("random", network_of("thin", "small"), 2).fingerprint != first.fingerprint
    assert (first.mean, first.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_folder_of_ours_brings_its_weights_stem_mean_and_deviation(folder):
    path, network = folder
    found = start_from(str(path), None, 0)
    assert fingerprint(found.network) == found.fingerprint == fingerprint(network)
    assert found.network.conv1.stride == (2, 2)
    assert (found.mean, found.std) == ((0.3,) * 3, (0.2,) * 3)
    assert found.network.training
    assert all(parameter.requires_grad for parameter in found.network.parameters())


def test_a_file_of_others_brings_the_same_weights(folder, tmp_path):
    path, network = folder
    torch.save({"state_dict": {f"module.encoder_q.{n}": v for n, v in network.state_dict().items()}}, tmp_path / "a")
    asked = start_from(str(tmp_path / "a"), network_of("thin", "small-stride2"), 0)
    assert asked.fingerprint == start_from(str(path), None, 0).fingerprint
    assert asked.network.conv1.stride == (2, 2)
    assert start_from(str(tmp_path / "a"), None, 0).network.conv1.stride == (1, 1)
    assert (asked.mean, asked.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_single_file_of_ours_is_not_taken_for_a_file_of_others(folder):
    path, network = folder
    for file in (path, path / "encoder.safetensors"):
        found = start_from(str(file), network_of("thin", "small-stride2"), 0)
        assert found.fingerprint == fingerprint(network) and found.network.conv1.stride == (2, 2)
        assert (found.mean, found.std, found.image_size) == ((0.3,) * 3, (0.2,) * 3, 32)
    with pytest.raises(MocoError, match="is thin with stem small-stride2, not thin with stem small"):
        start_from(str(path / "encoder.safetensors"), network_of("thin", "small"), 0)


def test_a_stem_is_asked_for_or_stated_where_a_file_does_not_tell_it(tmp_path):
    stem = "3x3-stride1-padding2-nopool"
    torch.save(ResNet("thin", Stem(3, 1, 2, False)).state_dict(), tmp_path / "plain")
    found = start_from(str(tmp_path / "plain"), None, 0)
    assert found.network.conv1.padding == (1, 1) and "does not tell its stride" in found.about
    for asked in (
        start_from(str(tmp_path / "plain"), network_of("thin", stem), 0),
        start_from(str(tmp_path / "plain"), None, 0, stem),
    ):
        assert asked.network.conv1.padding == (2, 2) and "does not tell" not in asked.about
    solo = {
        f"{side}.{n}": v
        for n, v in ResNet("thin", "small").state_dict().items()
        for side in ("backbone", "momentum_backbone")
    }
    torch.save({"state_dict": solo, "queue": torch.ones(2, 8, 4)}, tmp_path / "solo")
    assert start_from(str(tmp_path / "solo"), network_of("thin", stem), 0).network.conv1.padding == (2, 2)
    with pytest.raises(
        MocoError, match=f"is thin with stem {stem}, not thin with stem small"
    ):  # what the program does is known
        start_from(str(tmp_path / "solo"), network_of("thin", "small"), 0)
    assert start_from(str(tmp_path / "solo"), network_of("thin", "small"), 0, "small").network.conv1.padding == (1, 1)


def test_what_a_file_holds_beside_the_encoder_is_named(folder, tmp_path):
    state = {**folder[1].state_dict(), "fc.weight": torch.ones(2), "fc.bias": torch.ones(2)}
    torch.save({"state_dict": state, "queue": torch.ones(2, 2)}, tmp_path / "a")
    about = start_from(str(tmp_path / "a"), None, 0).about
    assert about.startswith("plain names, as of torchvision and timm: thin with stem small; unused: fc.* (2)")
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "b")
    with pytest.raises(MocoError, match=r"fits none of the known architectures .*'a.weight'"):
        start_from(str(tmp_path / "b"), None, 0)


def test_the_fingerprint_sees_names_shapes_and_values():
    network = ResNet("thin", "small")
    seen = {fingerprint(network)}
    with torch.no_grad():
        network.layer1[0].bn1.running_mean[0] += 1e-6
    seen.add(fingerprint(network))
    network.conv1.weight = torch.nn.Parameter(network.conv1.weight.detach().reshape(32, 3, 9, 1))
    seen.add(fingerprint(network))
    network.conv2 = network.conv1
    del network.conv1
    seen.add(fingerprint(network))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("source", "network", "problem"),
    [
        ("random", None, "leaves the network open; name one"),
        ("FOLDER", network_of("resnet18"), "is thin with stem small-stride2, not resnet18 with stem imagenet"),
        ("FOLDER", network_of("thin"), "is thin with stem small-stride2, not thin with stem imagenet"),
        ("nowhere", None, "nowhere: No such file"),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_remedy(folder, source, network, problem):
    with pytest.raises(MocoError, match=problem) as error:
        start_from(source.replace("FOLDER", str(folder[0])), network, 0)
    assert "\n" not in str(error.value)


def test_what_pretraining_kept_frozen_is_fine_tuned(tmp_path):
    kind = network_of({"kind": "torchvision", "name": "mobilenet_v3_small", "freeze": ["features.0"]})
    backbone = build_encoder(kind)
    assert not backbone.features[0][0].weight.requires_grad
    save_encoder(tmp_path, backbone, EncoderSpec(kind, 32, 1.0, IMAGENET_MEAN, IMAGENET_STD, 1024, "abc"))
    for source, network in ((str(tmp_path), None), ("random", kind)):
        assert all(parameter.requires_grad for parameter in start_from(source, network, 0).network.parameters())
