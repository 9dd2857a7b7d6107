"""A frozen encoder on several devices of one process."""

import json

import pytest
import torch

from moco.devices import full_precision
from moco.encoders.frozen import EncoderSpec, load_encoder, random_encoder, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet

CPU = torch.device("cpu")
SPEC = EncoderSpec(
    network_of("thin", "small"), 12, 1.0, IMAGENET_MEAN, IMAGENET_STD, ResNet("thin", "small").feature_dim, "test"
)
OPERATIONS = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)


def images(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_devices_take_turns_with_copies_of_the_weights_and_give_the_same_features():
    several, one = random_encoder(SPEC, 0, [CPU] * 3), random_encoder(SPEC, 0)
    used: list[int] = []
    for _, backbone in [next(several._turns) for _ in range(3)]:
        backbone.register_forward_hook(lambda module, *_: used.append(id(module)))
    for seed in range(6):
        assert torch.equal(several.launch(images(seed)), one.embed(images(seed)))
    assert used[:3] == used[3:] and len(set(used)) == 3


def test_an_encoder_stays_where_its_backbone_is_unless_devices_are_named():
    assert random_encoder(SPEC, 0).devices == (CPU,)
    assert random_encoder(SPEC, 0, [torch.device("meta")]).launch(images(0)).device.type == "meta"


def test_encoding_uses_no_tf32_and_leaves_the_setting_as_it_was():
    seen = []
    encoder = random_encoder(SPEC, 0)
    encoder.backbone.register_forward_hook(lambda *_: seen.extend(operation.fp32_precision for operation in OPERATIONS))
    before = [operation.fp32_precision for operation in OPERATIONS]
    encoder.embed(images(0))
    assert seen == ["ieee", "ieee"]
    with pytest.raises(RuntimeError), full_precision():
        raise RuntimeError
    assert [operation.fp32_precision for operation in OPERATIONS] == before


def test_the_weights_file_describes_itself_and_has_the_same_bytes_each_time(tmp_path):
    from safetensors import safe_open

    encoder = random_encoder(SPEC, 3)
    written = set()
    for name in "abcdefgh":
        save_encoder(tmp_path / name, encoder.backbone, SPEC)
        written.add((tmp_path / name / "encoder.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "a/encoder.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert EncoderSpec.of(json.loads(file.metadata()["encoder"])) == SPEC
    loaded = load_encoder(tmp_path / "a")
    assert all(
        torch.equal(value, loaded.backbone.state_dict()[name]) for name, value in encoder.backbone.state_dict().items()
    )
