"""What a run begins with: drawn weights, a file, a folder, published weights."""

from pathlib import Path

import pytest
import torch
from mechanisms import dictionary

from moco.config import load_params
from moco.encoders.frozen import save_encoder
from moco.encoders.init import Champion, File, Model, Published
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN
from moco.errors import MocoError
from moco.optimizers import LARS, SGD, AdamW
from moco.runs import checkpoints
from moco.runs.folder import training_hash
from moco.training import setup
from moco.training.beginning import begin, beginning_of

PRETRAIN = load_params(Path(__file__).parents[3] / "params.yaml").pretrain


def settings(**values):
    small = {"global_batch": 8, "bn_group_size": 4, "dim": 16, "dictionary": dictionary("momentum-queue", num_keys=32)}
    return PRETRAIN.model_copy(update=small | values)


def begun(chosen):
    """A new model with its optimizer, and what `begin` said."""
    start = beginning_of(chosen)
    model = setup.build(chosen, 50, start.mean, start.std)
    optimizer = setup.optimizer_of(model, chosen)
    return model, optimizer, begin(model, optimizer, chosen, start)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def trained(tmp_path):
    """A run's checkpoint after a step, and its model and optimizer."""
    return trained_with(tmp_path)


def trained_with(tmp_path, **values):
    chosen = settings(seed=1, **values)
    model, optimizer, _ = begun(chosen)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    model(torch.randn(8, 3, 28, 28), torch.randn(8, 3, 28, 28)).loss.backward()
    optimizer.step()
    about = {"epoch": 1, "settings": chosen.model_dump(mode="json"), "running_statistics": torch.ones(1, 1)}
    state = {"step": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(), **about}
    return checkpoints.save(tmp_path, 3, state, keep=1), model, optimizer, chosen


def test_drawn_weights_depend_on_the_seed_alone():
    model, _, said = begun(settings())
    assert said == ""
    assert same(model, begun(settings())[0])


def test_a_checkpoint_goes_on_whole_or_gives_its_backbone(trained):
    path, before, optimizer, _ = trained
    model, after, said = begun(settings(init=File(kind="file", path=str(path), parts="all")))
    assert same(model, before)
    for mine, theirs in zip(model.encoder_q.parameters(), before.encoder_q.parameters(), strict=True):
        assert torch.equal(after.state[mine]["momentum_buffer"], optimizer.state[theirs]["momentum_buffer"])
    assert "begins with backbone, head, key encoder, queue of 32 keys, the optimizer's momentum of" in said
    model, after, said = begun(settings(init=File(kind="file", path=str(path))))
    assert same(model.encoder_q.backbone, before.encoder_q.backbone)
    assert same(model.dictionary.encoder_k, model.encoder_q)  # the key encoder is a copy
    fresh = begun(settings())[0]
    assert same(model.encoder_q.head, fresh.encoder_q.head) and torch.equal(
        model.dictionary.keys, fresh.dictionary.keys
    )
    assert not after.state and "begins with backbone of" in said and "drawn by the seed: head" in said


def test_parts_that_do_not_fit_are_drawn(trained):
    wider = settings(dim=24, init=File(kind="file", path=str(trained[0]), parts="all"))
    model, optimizer, said = begun(wider)
    assert same(model.encoder_q.backbone, trained[1].encoder_q.backbone)
    assert "drawn by the seed: head" in said and "queue" not in said.split(" of ")[0]
    assert model.dictionary.keys.shape == (32, 24) and not optimizer.state
    assert "the optimizer starts without a past, for its momentum has another shape at head.2.weight" in said


OPTIMIZERS = {
    "sgd": SGD(kind="sgd", momentum=0.9, weight_decay=0),
    "lars": LARS(kind="lars", momentum=0.9, trust_coefficient=0.001, weight_decay=0.1),
    "adamw": AdamW(kind="adamw", beta1=0.9, beta2=0.95, weight_decay=0.1),
}


@pytest.mark.parametrize("mine", OPTIMIZERS)
@pytest.mark.parametrize("theirs", OPTIMIZERS)
def test_momentum_goes_between_optimizers_of_one_kind_and_else_the_line_says_why_not(tmp_path, theirs, mine):
    path, before, optimizer, _ = trained_with(tmp_path, optimizer=OPTIMIZERS[theirs])
    chosen = settings(optimizer=OPTIMIZERS[mine], init=File(kind="file", path=str(path), parts="all"))
    model, after, said = begun(chosen)
    if theirs == mine != "adamw":
        assert ", the optimizer's momentum of" in said and "past" not in said
        for here, there in zip(model.encoder_q.parameters(), before.encoder_q.parameters(), strict=True):
            assert torch.equal(after.state[here]["momentum_buffer"], optimizer.state[there]["momentum_buffer"])
        after.step()  # what was loaded is what the optimizer expects
    else:
        held = theirs.removesuffix("w")
        assert f"starts without a past, for the file's state is of {held} and pretrain.optimizer.kind = {mine}:" in said
        assert not after.state and "\n" not in said


def test_a_file_without_an_optimizer_is_told(trained, tmp_path):
    torch.save(trained[1].encoder_q.backbone.state_dict(), tmp_path / "backbone.pth")
    path = str(tmp_path / "backbone.pth")
    said = begun(settings(init=File(kind="file", path=path, parts="all")))[2]
    assert said.endswith(
        "drawn by the seed: head; the optimizer starts without a past, for the file has no optimizer's state"
    )
    assert "optimizer" not in begun(settings(init=File(kind="file", path=path)))[2]


@pytest.mark.parametrize(("start", "real"), [("random", 32), ("keys", 8)])
def test_a_queue_continues_with_its_real_keys_alone(tmp_path, start, real):
    kind = dictionary("momentum-queue", num_keys=32, start="keys")
    path, before, _, _ = trained_with(tmp_path, dictionary=dictionary("momentum-queue", num_keys=32, start=start))
    begins = File(kind="file", path=str(path), parts="all")
    model, _, said = begun(settings(dictionary=kind, init=begins))
    assert torch.equal(model.dictionary.negatives(None), before.dictionary.keys[:real])
    assert int(model.dictionary.pointer) == int(before.dictionary.pointer) == 8
    assert f"queue of {real} keys" in said
    model, _, _ = begun(settings(dictionary=dictionary("momentum-queue", num_keys=32, start="random"), init=begins))
    assert torch.equal(model.dictionary.negatives(None), before.dictionary.keys)


def test_a_count_of_keys_that_cannot_be_is_named(tmp_path):
    kind = dictionary("momentum-queue", num_keys=32, start="keys")
    path, *_ = trained_with(tmp_path, dictionary=kind)
    content = torch.load(path, weights_only=True)
    content["model"]["dictionary.filled"].fill_(33)
    torch.save(content, path)
    with pytest.raises(MocoError, match=r"dictionary\.filled is no place in a queue of 32; remove it"):
        begun(settings(init=File(kind="file", path=str(path), parts="all")))


def test_an_encoder_of_ours_brings_its_mean_and_deviation(tmp_path):
    chosen = settings(seed=2)
    model = setup.build(chosen, 50, (0.5,) * 3, (0.25,) * 3)
    save_encoder(tmp_path / "encoder", model.encoder_q.backbone, setup.specification(chosen, model, "abc"))
    for path in (tmp_path / "encoder", tmp_path / "encoder/encoder.safetensors"):
        later = settings(init=File(kind="file", path=str(path)))
        found = begun(later)[0]
        assert same(found.encoder_q.backbone, model.encoder_q.backbone)
        assert (found.encoder_q.mean, found.encoder_q.std) == ((0.5,) * 3, (0.25,) * 3)
        assert setup.specification(later, found, "x").mean == (0.5,) * 3
    images = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8)
    found.eval()
    assert torch.allclose(found.encoder_q(images), found.encoder_q((images / 255 - 0.5) / 0.25), atol=1e-5)


def test_the_name_of_a_run_knows_the_file_it_began_with(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, path)
    chosen = settings(init=File(kind="file", path=str(path)))
    first = training_hash(chosen, "data")
    assert first == training_hash(chosen, "data") != training_hash(settings(), "data")
    torch.save({"a": torch.zeros(1)}, path)
    assert training_hash(chosen, "data") != first


def test_the_name_of_a_run_knows_the_code_of_its_own_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "network_of_mine.py"
    file.write_text("a = 1\n")
    chosen = settings(encoder=network_of("module:network_of_mine:net"))
    first = training_hash(chosen, "data")
    file.write_text("a = 2\n")
    assert training_hash(chosen, "data") != first


def test_a_librarys_file_begins_a_run_without_its_classifier(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_convnext")
    torch.save(network.state_dict(), tmp_path / "a.pth")
    file = File(kind="file", path=str(tmp_path / "a.pth"))
    model, _, said = begun(settings(encoder=network_of("timm:test_convnext"), image_size=32, init=file))
    own = network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in model.encoder_q.backbone.state_dict().items())
    assert "timm:test_convnext" in said and "unused: head.* (2)" in said
    assert "mean and deviation are taken to be ImageNet's" in said


@pytest.mark.parametrize("theirs", ["timm:resnet10t", "timm:resnet18"])
def test_a_run_of_a_librarys_network_goes_on_from_its_own_checkpoint(tmp_path, theirs):
    pytest.importorskip("timm")
    network = network_of(theirs)
    path, before, _, _ = trained_with(tmp_path, encoder=network)
    init = File(kind="file", path=str(path), parts="all")
    model, _, said = begun(settings(encoder=network, init=init))
    assert same(model.encoder_q, before.encoder_q)
    assert theirs in said and "ImageNet" not in said


def test_published_weights_come_from_the_library(monkeypatch):
    timm = pytest.importorskip("timm")
    network, asked = network_of("timm:resnet10t"), []
    plain = timm.create_model

    def create(name, pretrained=False, **options):
        asked.append(pretrained)
        made = plain(name, **options)
        if pretrained:  # without a download
            torch.nn.init.constant_(made.conv1[0].weight, 0.5)
            made.pretrained_cfg = {**made.pretrained_cfg, "mean": (0.5, 0.5, 0.5)}
        return made

    monkeypatch.setattr(timm, "create_model", create)
    model, _, said = begun(settings(encoder=network, init=Published(kind="published")))
    assert (model.encoder_q.backbone.conv1[0].weight == 0.5).all()
    assert (model.dictionary.encoder_k.backbone.conv1[0].weight == 0.5).all()
    assert model.encoder_q.mean == (0.5, 0.5, 0.5) and True in asked
    assert said == "begins with the published weights of timm:resnet10t"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"init": File(kind="file", path="nowhere.pth")},
            "pretrain.init: nowhere.pth: no such file or folder; name a file",
        ),
        (
            {"init": Model(kind="model", uri="models:/a/1")},
            "data/start/model: no such file or folder; `moco start` fetches it",
        ),
        ({"init": Published(kind="published")}, "nobody publishes weights of thin with stem small-stride2"),
    ],
)
def test_what_is_not_there_is_one_line(values, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MocoError, match=problem):
        beginning_of(settings(**values))


def test_before_there_is_a_champion_weights_are_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = beginning_of(settings(init=Champion(kind="champion")))
    assert (start.found, start.mean) == (None, IMAGENET_MEAN)


def test_weights_of_another_network_are_named(trained):
    other = settings(encoder=network_of("thin", "small"), init=File(kind="file", path=str(trained[0])))
    with pytest.raises(MocoError, match="is thin with stem small-stride2, not thin with stem small"):
        beginning_of(other)
