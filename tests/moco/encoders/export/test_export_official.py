"""The official MoCo file under the rules of the official scripts, stated here again."""

import pytest
import torch
import torchvision
from torch import nn

from moco.encoders.export.run import export
from moco.encoders.export.source import read_source
from moco.encoders.normalize import normalize
from moco.errors import MocoError


class OfficialMoCo(nn.Module):
    """The names and shapes of the official builder."""

    def __init__(self, arch: str, dim: int, K: int, mlp: bool) -> None:
        super().__init__()
        self.encoder_q, self.encoder_k = (torchvision.models.get_model(arch, num_classes=dim) for _ in range(2))
        for encoder in (self.encoder_q, self.encoder_k) if mlp else ():
            width = encoder.fc.weight.shape[1]
            encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
        for parameter in self.encoder_k.parameters():
            parameter.requires_grad = False
        self.register_buffer("queue", torch.randn(dim, K))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


class Wrapped(nn.Module):
    """Names as DistributedDataParallel gives them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def through_the_linear_script(file) -> nn.Module:
    """Load, train one step and check, as main_lincls.py does."""
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    model = torchvision.models.get_model(checkpoint["arch"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in ("fc.weight", "fc.bias")
    state = {
        name.removeprefix("module.encoder_q."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("module.encoder_q") and not name.startswith("module.encoder_q.fc")
    }
    assert set(model.load_state_dict(state, strict=False).missing_keys) == {"fc.weight", "fc.bias"}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 30.0, momentum=0.9)
    model.eval()(torch.randn(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    before = checkpoint["state_dict"]
    for name, value in model.state_dict().items():  # sanity_check
        if "fc.weight" not in name and "fc.bias" not in name:
            assert torch.equal(value, before["module.encoder_q." + name]), name
    model.fc = nn.Identity()
    return model


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
def test_an_encoder_goes_through_the_linear_script_to_its_end(source_of, tmp_path, images, name):
    source, file = source_of(name), tmp_path / "moco.pth.tar"
    said = export("official", source, file)
    assert said[0].endswith("largest difference of features 0") and "main_lincls.py -a resnet18" in said[1]
    theirs = through_the_linear_script(file)
    assert torch.allclose(theirs(normalize(images)), source.encoder.embed(images), atol=1e-5)
    assert torch.load(file, weights_only=True).keys() == {"epoch", "arch", "state_dict"}


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_checkpoint_resumes_by_the_official_script_with_the_same_next_step(run_of, tmp_path, head):
    path, model, optimizer = run_of(f"head={head}")
    file = tmp_path / "moco.pth.tar"
    said = export("official", read_source(path), file)[1]
    assert f"--moco-k 20 --moco-dim 16{' --mlp' * (head == 'mlp')} --resume {file}" in said
    through_the_linear_script(file)
    found = torch.load(file, map_location="cpu", weights_only=True)
    assert (found["epoch"], found["arch"]) == (3, "resnet18")
    theirs = Wrapped(OfficialMoCo("resnet18", 16, 20, head == "mlp"))
    theirs.load_state_dict(found["state_dict"])
    sgd = torch.optim.SGD(theirs.parameters(), 0.5, momentum=0.1, weight_decay=0.3)
    sgd.load_state_dict(found["optimizer"])
    assert [group["params"] for group in sgd.state_dict()["param_groups"]] == [list(range(len([*theirs.parameters()])))]
    assert torch.equal(theirs.module.queue.T, model.dictionary.keys)
    assert theirs.module.queue_ptr.tolist() == [16]
    pairs = list(zip(theirs.module.encoder_q.parameters(), model.encoder_q.parameters(), strict=True))
    optimizer.zero_grad()
    for there, here in pairs:
        here.grad = torch.randn(here.shape)
        there.grad = here.grad.clone()
    optimizer.step()
    sgd.step()
    assert all(torch.equal(there, here) for there, here in pairs)
    keys = zip(theirs.module.encoder_k.parameters(), model.dictionary.encoder_k.parameters(), strict=True)
    assert all(torch.equal(there, here) for there, here in keys)


def test_another_optimizer_is_left_out_and_named(run_of, tmp_path):
    path, *_ = run_of("optimizer={kind: adamw, beta1: 0.9, beta2: 0.99, weight_decay: 0.1}", steps=0)
    said = export("official", read_source(path), tmp_path / "moco.pth.tar")[1]
    assert "without the optimizer" in said
    assert "optimizer" not in torch.load(tmp_path / "moco.pth.tar", weights_only=True)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["head=mlp-bn"], "its head is neither v1's nor v2's.*head = mlp-bn"),
        (["dictionary={kind: memory-bank, num_keys: 20, momentum: 0.5}"], "dictionary.kind is memory-bank"),
        (["dictionary={kind: end-to-end}"], "dictionary.kind is end-to-end"),
        (["encoder={kind: resnet, name: thin, stem: small}"], "has no place for a ResNet called thin"),
    ],
)
def test_a_run_that_the_official_network_cannot_hold_is_one_line(run_of, tmp_path, changes, problem):
    path, *_ = run_of(*changes, steps=0)
    with pytest.raises(MocoError, match=problem) as error:
        export("official", read_source(path), tmp_path / "moco.pth.tar")
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not list(tmp_path.iterdir())
