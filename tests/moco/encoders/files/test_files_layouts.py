"""Every layout of other programs: what it is, and features that are the original network's."""

import pytest
import torch
from foreign_files import LAYOUTS, Expected, K, resnet18, thin, under
from torch import nn

from moco.encoders.files.checkpoint import Checkpoint
from moco.encoders.files.describe import described, groups
from moco.encoders.files.reading import read
from moco.encoders.resnet import ResNet
from moco.encoders.stem import STEMS


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return resnet18()


def loaded(found: Checkpoint) -> nn.Module:
    network = ResNet(found.architecture, found.stem)
    network.load_state_dict(found.backbone)
    return network.eval()


def difference(network: nn.Module, found: Checkpoint, size: int = 40) -> float:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = loaded(found)(images), network(images).flatten(1)
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("expected", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_layout_is_recognized_and_gives_the_features_of_its_network(expected: Expected, tmp_path):
    network = thin(expected.stem)
    expected.write(tmp_path / "a.pth", network.state_dict())
    found = read(tmp_path / "a.pth")
    assert (found.layout, found.architecture, found.stem, found.epoch) == (
        expected.layout,
        "thin",
        expected.stem,
        expected.epoch,
    )
    assert difference(network, found) == 0
    assert tuple(sorted(found.head)) == expected.head
    assert tuple(groups(found.unused)) == expected.unused
    assert found.stem_known == (found.stem != "small")
    assert len(found.queue if found.queue is not None else ()) == expected.keys
    if expected.key:
        assert found.key_backbone.keys() == found.backbone.keys()
        assert torch.equal(found.key_backbone["conv1.weight"], found.backbone["conv1.weight"] * 0.5)
        assert found.key_head.keys() == found.head.keys()


def test_queues_become_rows_and_the_pointer_follows(tmp_path):
    for name in ("official v2", "solo-learn"):
        made = LAYOUTS[name].make(thin().state_dict())
        torch.save(made, tmp_path / "a.pth")
        found = read(tmp_path / "a.pth")
        state = made["state_dict"]
        theirs = state.get("module.queue", state.get("queue"))
        if theirs.dim() == 2:
            assert torch.equal(found.queue, theirs.T) and found.pointer == 4
        else:  # both views' keys of a step side by side
            assert torch.equal(found.queue[8], theirs[0, :, 4]) and torch.equal(found.queue[9], theirs[1, :, 4])
            assert found.pointer == 8 and len(found.queue) == 2 * K


def test_networks_of_lightly_are_read_in_both_spellings(theirs, tmp_path):
    """lightly's examples wrap the children of a network into a Sequential."""
    lightly = pytest.importorskip("lightly")
    from lightly.models.modules import MoCoProjectionHead

    class Example(nn.Module):
        def __init__(self, backbone: nn.Module, features: int) -> None:
            super().__init__()
            self.backbone, self.projection_head = backbone, MoCoProjectionHead(features, features, 8)
            self.backbone_momentum, self.projection_head_momentum = backbone, MoCoProjectionHead(features, features, 8)

    small = lightly.models.ResNetGenerator("resnet-9", width=0.5, num_splits=2)
    torch.manual_seed(0)
    small.train()(torch.randn(4, 3, 32, 32))
    for network, name, stem, architecture in (
        (theirs, "lightly (Sequential)", "imagenet", "resnet18"),
        (small.eval(), "lightly (ResNetGenerator)", "small", "thin"),
    ):
        backbone = nn.Sequential(*list(network.children())[:-1])
        if network is small:
            backbone.append(nn.AdaptiveAvgPool2d(1))
        model = Example(nn.Sequential(*backbone) if network is small else backbone, 8).eval()
        torch.save({"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6", "epoch": 3}, tmp_path / "a")
        found = read(tmp_path / "a")
        assert (found.layout, found.stem, found.architecture) == (name, stem, architecture)
        assert sorted(found.head) == ["0.bias", "0.weight", "2.bias", "2.weight"] and found.key_backbone
        if network is theirs:
            assert difference(network, found) < 1e-6
        else:
            images = torch.randn(2, 3, 32, 32)
            with torch.no_grad():
                reference = torch.relu(small.bn1(small.conv1(images)))
                for layer in (small.layer1, small.layer2, small.layer3, small.layer4):
                    reference = layer(reference)
                assert torch.allclose(loaded(found)(images), reference.mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)
    torch.save(small.state_dict(), tmp_path / "a")
    assert read(tmp_path / "a").stem == "small"


def test_the_official_demo_for_small_images_numbers_its_layers(theirs, tmp_path):
    """Its encoder is a Sequential of children without max-pooling, with the head at its end."""
    children = [module for name, module in theirs.named_children() if name not in ("maxpool", "fc")]
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False), *children[1:], nn.Flatten(1), nn.Linear(512, 8)
    ).eval()
    weights = under("encoder_q.net.", net.state_dict()) | under("encoder_k.net.", net.state_dict(), 0.5)
    torch.save({"epoch": 9, "state_dict": weights | {"queue": torch.ones(8, 16)}}, tmp_path / "a")
    found = read(tmp_path / "a")
    assert found.layout == "official MoCo (Sequential without max-pooling)"
    assert (found.architecture, found.stem, sorted(found.head)) == ("resnet18", "small", ["bias", "weight"])
    assert found.stem_known and found.unused == () and found.key_head.keys() == found.head.keys()
    assert difference(net[:-1], found) < 1e-6


def test_networks_of_timm_are_read_and_what_names_cannot_tell_is_said(tmp_path):
    timm = pytest.importorskip("timm")
    for name, stem in (("resnet18", "imagenet"), ("resnet34", "imagenet")):
        network = uneven_of(timm.create_model(name, num_classes=0))
        torch.save(network.state_dict(), tmp_path / "a")
        found = read(tmp_path / "a")
        assert (found.architecture, found.stem) == (name, stem) and difference(network, found) < 1e-5
        assert [sentence.split()[0] for sentence in found.cannot_tell] == ["Anti-aliased,"]
    for name, prefix in (("vit_tiny_patch16_224", "module.base_encoder."), ("resnet18d", "")):
        network = timm.create_model(name, num_classes=0)
        torch.save({"state_dict": under(prefix, network.state_dict())}, tmp_path / "a")
        found = read(tmp_path / "a")
        assert found.architecture is None and found.stem is None
        network.load_state_dict(found.backbone)
        assert ("a vision transformer by timm's names, 12 blocks of width 192" in described(found)[2]) == (
            "vit" in name
        )


def uneven_of(network: nn.Module) -> nn.Module:
    from foreign_files import uneven

    return uneven(network)


def test_a_stem_is_stated_where_names_do_not_tell(tmp_path):
    network = thin(STEMS["small-stride2"])
    torch.save(network.state_dict(), tmp_path / "a")
    found = read(tmp_path / "a")
    assert found.stem == "small" and "3x3 stem does not tell" in found.cannot_tell[0]
    stated = read(tmp_path / "a", STEMS["small-stride2"])
    assert difference(network, stated) == 0 and "stem" not in str(stated.cannot_tell)
