"""Three steps of each mechanism against its mathematics stated once more, plainly, in float64."""

import copy

import numpy as np
import pytest
import torch
from mechanisms import SMALL, dictionary
from operations import Operations
from torch import nn
from torch.nn import functional as F

from moco import Encoder, MoCo
from moco.dictionary.memory_bank import MemoryBank
from moco.dictionary.momentum_queue import MomentumQueue
from moco.dictionary.protocol import Batch
from moco.dictionary.shuffle_bn import Traveling
from moco.encoders.batch_norm import GroupBatchNorm2d
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD, scale_and_shift
from moco.processes import Processes
from moco.training import loop
from moco.training.loop import accumulate

ALONE = Processes(0, 1, torch.device("cpu"))
NO_AUTOCAST = torch.autocast("cpu", enabled=False)
B, C, K, M, T, LR, IMAGES = 4, 5, 6, 0.5, 0.2, 0.5, 20


class Backbone(nn.Module):
    """Two layers in float64, whatever the images come as."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, dtype=torch.float64)
        self.linear = nn.Linear(36, 10, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.tanh(self.conv(images.double())).flatten(1))


def made(mechanism: str, symmetric: bool = False, predictor: nn.Module | None = None) -> MoCo:
    torch.manual_seed(0)
    encoder = Encoder(Backbone(), nn.Linear(10, C, dtype=torch.float64))
    wanted = {"num_keys": K, "momentum": M, "symmetric": symmetric}
    kind = dictionary(mechanism, **{key: value for key, value in wanted.items() if key in SMALL[mechanism]})
    keys = kind.build(encoder, C, IMAGES, seed=7)
    model = MoCo(Encoder(encoder.backbone, encoder.head, predictor), keys, T, symmetric=symmetric)
    model.double()
    return model


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Bytes as an encoder in float64 sees them."""
    scale, shift = scale_and_shift(IMAGENET_MEAN, IMAGENET_STD)
    return shift.double() + images.double() * scale.double()


def steps(model: MoCo):
    """Three steps of ours: the batch, what the model had before it, and the loss."""
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=LR)
    generator = np.random.default_rng(0)
    for number in range(3):
        views = torch.randint(0, 256, (2, B, 3, 8, 8), dtype=torch.uint8)
        samples = generator.choice(IMAGES, B, replace=False)
        batch = Batch.of(views, samples, generator.permutation(B), number, ALONE)
        optimizer.zero_grad()
        contrast, _ = accumulate(model, batch, model.encoder_q, NO_AUTOCAST)
        optimizer.step()
        yield batch, contrast.loss.item()


def descend(loss: torch.Tensor, encoder: nn.Module) -> None:
    encoder.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter -= LR * parameter.grad


def same(ours: nn.Module, theirs: nn.Module) -> None:
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_the_memory_bank_compares_with_old_keys_and_moves_them_by_momentum():
    model = made("memory-bank")
    f, bank = copy.deepcopy(model.encoder_q), model.dictionary.bank.clone()
    for batch, loss in steps(model):
        q = f(normalized(batch.views[0]))
        negatives = bank[model.dictionary.drawn(batch.samples, batch.step)]
        logits = torch.stack(
            [
                torch.cat([(query @ bank[sample])[None], negatives @ query])
                for query, sample in zip(q, batch.samples, strict=True)
            ]
        )
        expected = F.cross_entropy(logits / T, torch.zeros(B, dtype=torch.long))
        descend(expected, f)
        for query, sample in zip(q.detach(), batch.samples, strict=True):
            moved = M * bank[sample] + (1 - M) * query
            bank[sample] = moved / moved.norm()
        assert abs(loss - expected.item()) < 1e-10
        same(model.encoder_q, f)
        assert torch.allclose(model.dictionary.bank, bank, atol=1e-10)


def test_end_to_end_sends_the_gradient_through_queries_and_keys():
    model = made("end-to-end")
    f = copy.deepcopy(model.encoder_q)
    for batch, loss in steps(model):
        q, k = (f(normalized(view)) for view in batch.views)
        expected = F.cross_entropy(q @ k.T / T, torch.arange(B))
        descend(expected, f)
        assert abs(loss - expected.item()) < 1e-10
        same(model.encoder_q, f)


def test_the_momentum_batch_is_algorithm_1_of_moco_v3_with_the_mean_of_both_ways():
    predictor = nn.Linear(C, C, dtype=torch.float64)
    model = made("momentum-batch", symmetric=True, predictor=predictor)
    f_q = copy.deepcopy(model.encoder_q)
    f_k = copy.deepcopy(model.dictionary.encoder_k)
    assert f_k.predictor is None
    for batch, loss in steps(model):
        # its algorithm 1 moves f_k after the gradient step, which is where our next step begins
        x1, x2 = (normalized(view) for view in batch.views)
        with torch.no_grad():
            for name, slow in f_k.named_parameters():
                slow.copy_(M * slow + (1 - M) * f_q.get_parameter(name))
            k1, k2 = f_k(x1), f_k(x2)
        labels = torch.arange(B)
        ctr = [F.cross_entropy(q @ k.T / T, labels) for q, k in ((f_q(x1), k2), (f_q(x2), k1))]
        expected = (ctr[0] + ctr[1]) / 2
        descend(expected, f_q)
        assert abs(loss - expected.item()) < 1e-10
        same(model.encoder_q, f_q)


def test_the_symmetric_queue_looks_both_views_up_and_takes_both_in():
    model = made("momentum-queue", symmetric=True)
    f_q, f_k = copy.deepcopy(model.encoder_q), copy.deepcopy(model.dictionary.encoder_k)
    queue = model.dictionary.keys.clone()
    for batch, loss in steps(model):
        x1, x2 = (normalized(view) for view in batch.views)
        with torch.no_grad():
            for slow, fast in zip(f_k.parameters(), f_q.parameters(), strict=True):
                slow.copy_(M * slow + (1 - M) * fast)
            k1, k2 = f_k(x1), f_k(x2)
        ways = []
        for q, k in ((f_q(x1), k2), (f_q(x2), k1)):
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1)
            ways.append(F.cross_entropy(logits / T, torch.zeros(B, dtype=torch.long)))
        descend((ways[0] + ways[1]) / 2, f_q)
        queue = torch.cat([queue, k2, k1])[-K:]
        assert abs(loss - (ways[0] + ways[1]).item() / 2) < 1e-10
        same(model.encoder_q, f_q)
        ring = torch.roll(model.dictionary.keys, -int(model.dictionary.pointer), dims=0)
        assert torch.allclose(ring, queue, atol=1e-10)


def test_a_bank_begins_with_keys_of_length_1():
    bank = MemoryBank(C, IMAGES, K, M, seed=7).bank
    assert bank.shape == (IMAGES, C)
    assert torch.allclose(bank.norm(dim=1), torch.ones(IMAGES))


def test_a_bank_draws_distinct_rows_of_other_images_and_in_the_end_all_of_them():
    bank = MemoryBank(2, images=50, size=20, momentum=0.5, seed=3)
    samples, seen = np.arange(10, 20), set()
    for step in range(40):
        rows = bank.drawn(samples, step)
        assert len(set(rows.tolist())) == 20
        assert not set(rows.tolist()) & set(samples.tolist())
        assert rows.tolist() == bank.drawn(samples, step).tolist()
        seen |= set(rows.tolist())
    assert seen == set(range(50)) - set(samples.tolist())
    assert bank.drawn(samples, 0).tolist() != bank.drawn(samples, 1).tolist()
    fullest = MemoryBank(2, images=50, size=40, momentum=0.5, seed=3)
    assert sorted(fullest.drawn(samples, 0)) == sorted(seen)
    with pytest.raises(ValueError, match="41 negatives cannot be drawn from a bank of 50 images, less the 10"):
        MemoryBank(2, images=50, size=41, momentum=0.5, seed=3).drawn(samples, 0)


@pytest.mark.parametrize("mechanism", SMALL)
def test_the_notebooks_call_gives_the_loss_and_gradient_of_the_loops_step(mechanism):
    one, other = made(mechanism), made(mechanism)
    views = torch.randint(0, 256, (2, B, 3, 8, 8), dtype=torch.uint8)
    contrast = one(*(normalized(view) for view in views), samples=np.arange(B))
    contrast.loss.backward()
    batch = Batch.of(views, np.arange(B), np.arange(B), 0, ALONE)
    expected, _ = accumulate(other, batch, other.encoder_q, NO_AUTOCAST)
    assert torch.allclose(contrast.loss, expected.loss)
    for ours, theirs in zip(one.encoder_q.parameters(), other.encoder_q.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad)
    for ours, theirs in zip(one.dictionary.buffers(), other.dictionary.buffers(), strict=True):
        assert torch.allclose(ours, theirs)


def test_a_bank_needs_to_know_which_image_is_which():
    with pytest.raises(ValueError, match="a memory bank needs to know which image is which"):
        made("memory-bank")(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("mechanism", SMALL)
def test_nothing_of_a_step_makes_the_host_wait_for_a_device(mechanism):
    plain, watched = made(mechanism), made(mechanism)
    if hasattr(watched.dictionary, "momentum") and hasattr(watched.dictionary, "encoder_k"):
        watched.dictionary.momentum = torch.tensor(watched.dictionary.momentum, dtype=torch.float64)
    views = torch.randint(0, 256, (2, B, 3, 8, 8), dtype=torch.uint8)
    batch = Batch.of(views, np.arange(B), np.arange(B)[::-1].copy(), 0, ALONE)
    expected, _ = accumulate(plain, batch, plain.encoder_q, NO_AUTOCAST)
    with Operations(may_wait=False):
        found, _ = accumulate(watched, batch, watched.encoder_q, NO_AUTOCAST)
    assert torch.equal(found.loss, expected.loss)
    for (name, ours), theirs in zip(watched.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(ours.double(), theirs.double()), name


@pytest.mark.parametrize("on_gpu", [True, False])
def test_key_images_travel_beside_the_first_queries_on_a_gpu(monkeypatch, on_gpu):
    monkeypatch.setattr(loop, "KEYS_FIRST", () if on_gpu else ("cpu",))
    model, order = made("momentum-queue"), []
    arrive = Traveling.arrive
    monkeypatch.setattr(Traveling, "arrive", lambda self: order.append("keys arrive") or arrive(self))

    def encode(images: torch.Tensor) -> torch.Tensor:
        order.append("queries")
        return model.encoder_q(images)

    views = torch.randint(0, 256, (2, B, 3, 8, 8), dtype=torch.uint8)
    accumulate(model, Batch.of(views, np.arange(B), np.arange(B), 0, ALONE, B // 2), encode, NO_AUTOCAST)
    assert order == (["queries", "keys arrive", "queries"] if on_gpu else ["keys arrive", "queries", "queries"])


def one_layer() -> MoCo:
    """A network that compiles in seconds."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3),
        GroupBatchNorm2d(8, B // 2),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    encoder = Encoder(nn.Sequential(*layers), nn.Linear(8, C))
    return MoCo(encoder, MomentumQueue(encoder, C, K, M), T)


@pytest.mark.slow
def test_a_compiled_step_is_the_plain_one_but_for_rounding():
    plain, compiled = one_layer(), one_layer()
    compiled.encoder_q.compile()
    compiled.dictionary.encoder_k.compile()
    views = torch.randint(0, 256, (2, B, 3, 8, 8), dtype=torch.uint8)
    for step in range(2):
        found = []
        for model in (plain, compiled):
            batch = Batch.of(views, np.arange(B), np.arange(B)[::-1].copy(), step, ALONE)
            model.encoder_q.zero_grad()
            found.append(accumulate(model, batch, model.encoder_q, NO_AUTOCAST)[0].loss)
        assert torch.allclose(*found)
    for ours, theirs in zip(compiled.encoder_q.parameters(), plain.encoder_q.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    copied = copy.deepcopy(compiled.encoder_q)
    assert torch.allclose(copied(views[0]), plain.encoder_q(views[0]), atol=1e-5)
