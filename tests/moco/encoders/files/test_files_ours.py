"""Our own files say what they are; an optimizer's momentum finds its parameters."""

import json
from pathlib import Path

import pytest
import torch
from foreign_files import C, D, K, mlp, official, official_v3, queue, thin, under
from safetensors.torch import save_file
from small_material import ROOT
from torch import nn

from moco.config import Pretrain, load_params
from moco.encoders.files import read
from moco.encoders.files.describe import described, in_one_line, with_stem
from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN
from moco.encoders.resnet import ResNet
from moco.encoders.stem import Stem, stem_of
from moco.errors import MocoError
from moco.runs import checkpoints
from moco.training import setup

SPEC = EncoderSpec(network_of("thin", "small-stride2"), 28, 0.875, (0.1,) * 3, (0.9,) * 3, D, "abc")
OLD = {
    "architecture": "thin",
    "stem": "small-stride2",
    "image_size": 28,
    "eval_crop_ratio": 0.875,
    "mean": [0.1] * 3,
    "std": [0.9] * 3,
    "feature_dim": D,
    "training_hash": "abc",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """As earlier versions left it."""
    save_file(ResNet("thin", "small-stride2").state_dict(), tmp_path / "encoder.safetensors", {"format": "pt"})
    (tmp_path / "encoder.json").write_text(json.dumps(OLD))
    return tmp_path


def with_metadata(folder: Path, description: object) -> Path:
    """The weights as one file with its description in it, away from encoder.json."""
    path = folder / "alone.safetensors"
    save_file(ResNet("thin", "small-stride2").state_dict(), path, {"format": "pt", "encoder": json.dumps(description)})
    return path


def test_a_single_file_of_ours_says_what_it_is_by_its_metadata_or_by_what_lies_beside_it(folder):
    save_encoder(folder / "new", ResNet("thin", "small-stride2"), SPEC)
    for path, said in (
        (folder, "encoder.json beside it"),
        (folder / "encoder.safetensors", "encoder.json beside it"),
        (with_metadata(folder, OLD), "its metadata"),
        (folder / "new/encoder.safetensors", "its metadata"),
    ):
        found = read(path)
        assert found.layout == f"encoder of this project, by {said}"
        assert (found.architecture, found.stem, found.stem_known) == ("thin", "small-stride2", True)
        assert (found.mean, found.std, found.image_size, found.eval_crop_ratio) == ((0.1,) * 3, (0.9,) * 3, 28, 0.875)
        assert found.cannot_tell == () and found.unused == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "resnet18"}, "says resnet18, its weights are thin's"),
        ({"stem": "imagenet"}, "its first convolution is 3x3, not 7x7 as described"),
        ({"stem": "tiny"}, "'tiny' is no known stem"),
        ({"mean": None}, "description of the encoder"),
    ],
)
def test_a_description_that_does_not_fit_its_weights_is_refused(folder, change, said):
    with pytest.raises(MocoError, match=said):
        read(with_metadata(folder, OLD | change))
    (folder / "encoder.json").write_text("[")
    with pytest.raises(MocoError, match="no JSON object"):
        read(folder)


def test_what_a_file_says_of_itself_is_not_overruled(folder):
    assert read(folder, stem_of("small-stride2")).stem == "small-stride2"
    with pytest.raises(MocoError, match="says itself that its stem is small-stride2, not small"):
        read(folder, stem_of("small"))


def settings(**changes: object) -> Pretrain:
    small = {"image_size": 16, "dim": 16, "global_batch": 8, "bn_group_size": 4, "epochs": 2}
    values = load_params(ROOT / "params.yaml").pretrain.model_dump() | small | changes
    values["dictionary"] |= {"num_keys": 32}
    return Pretrain.model_validate(values)


def test_a_checkpoint_of_a_run_of_ours_brings_its_settings_queue_and_momentum(tmp_path):
    run = settings()
    model = setup.build(run, 64)
    optimizer = setup.optimizer_of(model, run)
    model(torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16)).loss.backward()
    optimizer.step()
    about = {"epoch": 1, "position": 0, "settings": run.model_dump(mode="json")}
    state = {"model": model.state_dict(), "running_statistics": torch.ones(1, 5), "optimizer": optimizer.state_dict()}
    found = read(checkpoints.save(tmp_path, 7, {"step": 7, **about, **state}, keep=1))
    assert found.layout == "checkpoint of this project"
    assert (found.architecture, found.stem, found.epoch) == (run.encoder.name, run.encoder.stem, 1)
    assert (found.mean, found.image_size) == (IMAGENET_MEAN, 16)
    assert found.unused == () and found.pointer == 8
    assert torch.equal(found.queue, model.dictionary.keys)
    model.encoder_q.backbone.load_state_dict(found.backbone)
    model.encoder_q.head.load_state_dict(found.head)
    model.dictionary.encoder_k.backbone.load_state_dict(found.key_backbone)
    model.dictionary.encoder_k.head.load_state_dict(found.key_head)
    for name, parameter in model.encoder_q.named_parameters():
        assert torch.equal(found.optimizer[name], optimizer.state[parameter]["momentum_buffer"])


class Official(nn.Module):
    """The official code's module, as far as its state goes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_q, self.encoder_k = thin(), thin()
        for encoder in (self.encoder_q, self.encoder_k):
            encoder.fc = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, C))
        self.encoder_k.requires_grad_(False)
        self.register_buffer("queue", torch.randn(C, K))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.encoder_q.fc(self.encoder_q(images))


def test_momentum_of_the_official_optimizer_finds_its_parameters(tmp_path):
    model = Official()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    for held in ({"optimizer": optimizer.state_dict()}, {"optimizer_states": [optimizer.state_dict()]}):
        torch.save({"epoch": 2, "state_dict": state, **held}, tmp_path / "a")
        found = read(tmp_path / "a")
        for name, parameter in model.encoder_q.named_parameters():
            ours = name.replace("fc.", "head.") if name.startswith("fc.") else f"backbone.{name}"
            assert torch.equal(found.optimizer[ours], optimizer.state[parameter]["momentum_buffer"])
        assert len(found.optimizer) == len(list(model.encoder_q.parameters())) and found.unused == ()


def test_momentum_of_the_third_versions_lars_is_read_and_told_from_sgds(tmp_path):
    content = official_v3(thin().state_dict())
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    names = [name for name in content["state_dict"] if not name.endswith(buffers)]
    mu = {n: {"mu": torch.full_like(content["state_dict"][name], n)} for n, name in enumerate(names)}
    content["optimizer"] = {
        "state": mu,
        "param_groups": [{"params": [*mu], "trust_coefficient": 0.001, "momentum": 0.9}],
    }
    torch.save(content, tmp_path / "a")
    found = read(tmp_path / "a")
    assert found.optimizer_kind == "lars" and found.unused == ()
    place = names.index("module.base_encoder.layer1.0.conv1.weight")
    assert set(found.optimizer["backbone.layer1.0.conv1.weight"].unique().tolist()) == {place}


def test_the_momentum_of_another_optimizer_is_not_taken_for_that_of_sgd(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.RMSprop(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save(official(thin().state_dict()) | {"optimizer": optimizer.state_dict()}, tmp_path / "a")
    found = read(tmp_path / "a")
    assert (found.optimizer, found.optimizer_kind, found.unused) == ({}, "another optimizer", ("optimizer",))


@pytest.mark.parametrize("listed", [2, 2 * (36 + 4)])
def test_momentum_in_another_order_is_not_guessed(tmp_path, listed):
    """Another number of parameters, or the right one with a buffer of another shape."""
    content = official(thin().state_dict())
    group = {"params": list(range(listed))}
    content["optimizer"] = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [group]}
    torch.save(content, tmp_path / "a")
    found = read(tmp_path / "a")
    assert found.optimizer == {} and found.unused == ("optimizer",)


def test_a_file_of_the_hub_says_what_timm_knows_of_it(tmp_path):
    known = {"mean": [0.5] * 3, "std": [0.2] * 3, "input_size": [3, 288, 288]}
    save_file(thin().state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    for name, architecture in (("thin", "thin"), ("thinaa", None)):
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": known}))
        found = read(tmp_path / "model.safetensors")
        assert (found.architecture, found.mean, found.image_size) == (architecture, (0.5,) * 3, 288)
    assert found.difference == "config.json beside it names thinaa, whose arithmetic is another than thin's"


def test_the_description_of_a_file_names_every_part(tmp_path):
    torch.save(official(thin("small").state_dict()) | {"extra": torch.ones(1)}, tmp_path / "a")
    found = read(tmp_path / "a")
    lines = dict(line.split(None, 1) for line in described(found))
    assert lines["layout"] == "official MoCo" and lines["network"].startswith("thin: 1.2 M weights, 256 features")
    assert lines["stem"] == "small: 3x3, stride 1, padding 1, no max-pooling"
    assert lines["head"] == "256 -> 256 -> 8" and lines["queue"] == "16 keys of 8 numbers, the next key goes to 4"
    assert lines["unused"] == "extra" and "does not tell its stride" in lines["cannot"]
    assert in_one_line(found).startswith("official MoCo: thin with stem small, epoch 200; unused: extra; A 3x3 stem")
    stated = with_stem(found, 2, None, True)
    assert stated == Stem(3, 2, 1, True) and str(stated) == "3x3-stride2-padding1-pool"
    assert with_stem(found, None, None, None) is None and stem_of(str(stated)) == stated
    torch.save(under("", {"patch_embed.weight": torch.ones(1)}) | mlp("blocks.") | queue(), tmp_path / "b")
    other = read(tmp_path / "b")
    assert "no ResNet that `moco encoders` lists" in described(other)[2] and in_one_line(other)
    with pytest.raises(MocoError, match="holds no ResNet"):
        with_stem(other, 2, None, None)
