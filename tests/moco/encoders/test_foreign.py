"""Other people's checkpoints: what is read, how the architecture is found, what is refused."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from moco.encoders.foreign import _architecture_of, read_encoder
from moco.encoders.resnet import ResNet
from moco.errors import MocoError


@pytest.fixture(scope="module")
def resnet18():
    return torchvision.models.resnet18(weights=None).state_dict()


@pytest.fixture(scope="module")
def thin():
    return ResNet("thin", "small").state_dict()


def official(encoder, head=("fc.0", "fc.2"), dim=8):
    """A file as main_moco.py writes it, with the MLP head of v2."""
    state = {}
    features = encoder["layer4.0.conv2.weight"].shape[0]
    for side in ("encoder_q", "encoder_k"):
        scale = 1 if side == "encoder_q" else 0.5
        for name, value in encoder.items():
            if not name.startswith("fc."):
                state[f"module.{side}.{name}"] = value * scale if value.is_floating_point() else value
        for layer in head:
            state[f"module.{side}.{layer}.weight"] = torch.randn(features if layer == "fc.0" else dim, features)
            state[f"module.{side}.{layer}.bias"] = torch.zeros(dim)
    state["module.queue"] = torch.randn(dim, 16)
    state["module.queue_ptr"] = torch.zeros(1, dtype=torch.int64)
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def same(weights, expected):
    expected = {name: value for name, value in expected.items() if not name.startswith("fc.")}
    return weights.keys() == expected.keys() and all(torch.equal(weights[n], expected[n]) for n in expected)


def test_a_resnet50_of_torchvision_gives_torchvisions_features(tmp_path):
    theirs = torchvision.models.resnet50(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    found = read_encoder(tmp_path / "resnet50.pth")
    assert (found.architecture, found.stem) == ("resnet50", "imagenet")
    ours = ResNet(found.architecture, found.stem)
    ours.load_state_dict(found.weights)
    theirs.fc = torch.nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    assert torch.allclose(ours.eval()(images), theirs.eval()(images), atol=1e-5)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar", ".safetensors"])
def test_files_of_every_form_give_the_same_weights(resnet18, tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    save_file(resnet18, path) if suffix == ".safetensors" else torch.save(resnet18, path)
    found = read_encoder(path)
    assert (found.architecture, found.stem) == ("resnet18", "imagenet")
    assert same(found.weights, resnet18)


@pytest.mark.parametrize("root", ["state_dict", "model", "backbone"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder.", "encoder_q."])
def test_wrappers_around_the_weights_are_taken_off(thin, tmp_path, root, prefix):
    torch.save({root: {f"{prefix}{name}": value for name, value in thin.items()}, "epoch": 3}, tmp_path / "a.pth")
    found = read_encoder(tmp_path / "a.pth")
    assert (found.architecture, found.stem) == ("thin", "small")
    assert same(found.weights, thin)


@pytest.mark.parametrize("head", [("fc",), ("fc.0", "fc.2")])
@pytest.mark.parametrize("zipped", [True, False])  # the released v1 file has the form of old versions of torch
def test_of_an_official_file_the_query_encoder_is_read(resnet18, tmp_path, head, zipped):
    torch.save(official(resnet18, head), tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    found = read_encoder(tmp_path / "a.pth.tar")
    assert found.architecture == "resnet18"  # whatever the file's `arch` says
    assert same(found.weights, resnet18)


@pytest.mark.parametrize("lacking", ["optimizer", "encoder_k", "queue", "module."])
def test_a_released_file_may_lack_what_training_needs(thin, tmp_path, lacking):
    file = official(thin)
    if lacking == "optimizer":
        del file["optimizer"]
    elif lacking == "module.":
        file["state_dict"] = {name.removeprefix("module."): value for name, value in file["state_dict"].items()}
    else:
        file["state_dict"] = {name: v for name, v in file["state_dict"].items() if lacking not in name}
    torch.save(file, tmp_path / "a.pth.tar")
    assert same(read_encoder(tmp_path / "a.pth.tar").weights, thin)


def test_old_and_half_precision_files_become_float32_with_counters(thin, tmp_path):
    old = {name: value.half() for name, value in thin.items() if "num_batches_tracked" not in name}
    torch.save(old, tmp_path / "a.pth")
    network = ResNet("thin", "small")
    network.load_state_dict(read_encoder(tmp_path / "a.pth").weights)
    assert all(value.dtype == torch.float32 for value in network.parameters())


@pytest.mark.parametrize(
    "name", ["resnet34", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_64x4d", "wide_resnet50_2"]
)
def test_architectures_of_torchvision_are_known_by_their_shapes(name):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(weights=None).state_dict()
    weights = {key: value for key, value in state.items() if not key.startswith("fc.")}
    assert _architecture_of(weights, Path("a")) == (name, "imagenet")


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("name", ["thin", "resnet18", "resnet50w2", "resnext50_32x8d"])
def test_our_architectures_are_known_by_their_shapes(name, stem):
    with torch.device("meta"):
        assert _architecture_of(ResNet(name, stem).state_dict(), Path("a")) == (name, stem)


def refused(path):
    with pytest.raises(MocoError) as error:
        read_encoder(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def test_a_network_that_fits_nothing_is_named_with_its_first_difference(thin, tmp_path):
    path = tmp_path / "a.pth"
    for change, expected in (
        ({"layer3.0.bn2.bias": None}, "thin, layer3.0.bn2.bias is missing"),
        ({"layer3.1.se.weight": torch.ones(2)}, "thin, layer3.1.se.weight is unexpected"),
        ({"layer1.0.conv2.weight": torch.ones(3, 32, 3, 3)}, "is 3 x 32 x 3 x 3 and not 32 x 32 x 3 x 3"),
    ):
        torch.save({name: v for name, v in {**thin, **change}.items() if v is not None}, path)
        assert expected in refused(path)


def test_a_file_without_a_resnet_or_with_two_is_refused(thin, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"patch_embed.proj.weight": torch.ones(1)}, path)
    assert "its first entry is 'patch_embed.proj.weight'" in refused(path)
    torch.save({f"{prefix}{n}": v for n, v in thin.items() for prefix in ("backbone.", "encoder.")}, path)
    assert "2 ResNets, backbone.* and encoder.*" in refused(path)
    torch.save([torch.ones(1)], path)
    assert "holds a list, not a state dict" in refused(path)


def test_settings_and_numbers_of_numpy_in_a_file_do_no_harm(thin, tmp_path):
    beside = {"args": argparse.Namespace(lr=0.03), "best": np.float64(0.6), "curve": np.arange(3, dtype=np.float32)}
    torch.save({"model": thin, **beside, "name": np.str_("run")}, tmp_path / "a.pth")
    assert same(read_encoder(tmp_path / "a.pth").weights, thin)


class Foreign:
    """Some class of somebody else's program."""


def test_a_class_that_could_run_code_is_refused_by_its_name(thin, tmp_path):
    torch.save({"model": thin, "config": Foreign()}, tmp_path / "a.pth")
    assert "Foreign" in refused(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(100)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_or_missing_file_is_one_clear_line(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    assert "No such file" in refused(path)
    path.write_bytes(content)
    assert "not a readable checkpoint" in refused(path)
