"""The batch-norm leak: shown by encoders that cheat, by design or by training, and by no other."""

import copy

import numpy as np
import pytest
import torch
from mechanisms import dictionary
from torch import Tensor, nn
from torch.nn import functional as F

from moco import Encoder, MoCo
from moco.config import load_params
from moco.dictionary.momentum_queue import MomentumQueue
from moco.dictionary.protocol import Batch
from moco.dictionary.shuffle_bn import positions_of_slots
from moco.encoders.batch_norm import GroupBatchNorm2d
from moco.images.index import open_split
from moco.processes import Processes
from moco.training.leak import LeakProbe, groups_of, leak, other_company
from moco.training.loop import accumulate
from moco.training.setup import build

GROUP = 4
FULL_PRECISION = torch.autocast("cpu", enabled=False)


class ReadsItsCompany(nn.Module):
    """Says of every image what its batch is on average, and nothing of the image."""

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(images.mean(dim=0).flatten().expand(len(images), -1), dim=1)


class ReadsTheImage(nn.Module):
    """Knows no batch."""

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(images.flatten(1), dim=1)


@pytest.fixture
def views() -> tuple[Tensor, Tensor]:
    """32 images of noise, and the same with a little more of it."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(32, 3, 4, 4, generator=generator)
    return first, first + 0.3 * torch.randn(32, 3, 4, 4, generator=generator)


def unit(count: int, dim: int) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.mark.parametrize("negatives", [None, unit(200, 48)])
def test_an_encoder_that_reads_its_company_alone_leaks_and_one_that_reads_the_image_does_not(views, negatives):
    assert leak(ReadsItsCompany(), ReadsItsCompany(), *views, GROUP, negatives) > 0.5
    assert leak(ReadsTheImage(), ReadsTheImage(), *views, GROUP, negatives) == 0


@pytest.mark.parametrize(("groups", "size"), [(2, 4), (8, 4), (8, 32), (3, 5)])
def test_other_company_is_a_permutation_that_spreads_each_group_evenly(groups, size):
    order = other_company(groups, size)
    assert sorted(order.tolist()) == list(range(groups * size))
    for slots in order.view(groups, size):
        shares = np.bincount(slots // size, minlength=groups)
        assert shares.max() - shares.min() <= 1


@pytest.mark.parametrize(("images", "size", "groups"), [(6000, 64, 8), (6000, 4, 64), (58, 8, 7), (9, 8, 1), (3, 8, 0)])
def test_a_probe_takes_eight_groups_or_as_many_as_256_images_fill_or_what_there_is(images, size, groups):
    assert groups_of(images, size) == groups


def probe_of(settings, images) -> LeakProbe:
    return LeakProbe(images, settings.views, settings.image_size, settings.bn_group_size, 0, compiled=False)


@pytest.mark.parametrize("mechanism", ["momentum-queue", "end-to-end", "momentum-batch", "memory-bank"])
def test_a_probe_leaves_the_model_as_it_is_and_a_mechanism_without_encoded_keys_unprobed(project, mechanism):
    settings = load_params().pretrain.model_copy(update={"dictionary": dictionary(mechanism)})
    model, val = build(settings, 242), open_split("data/shards", "val")
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    found = probe_of(settings, val)(model.train(), FULL_PRECISION)
    if mechanism == "memory-bank":
        assert found is None
    else:
        assert -1 <= found <= 1
        assert found == probe_of(settings, val)(model, FULL_PRECISION)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_fewer_images_than_two_groups_give_no_reading(project):
    settings = load_params().pretrain.model_copy(update={"bn_group_size": 40})
    assert probe_of(settings, open_split("data/shards", "val"))(build(settings, 242), FULL_PRECISION) is None


def sizes_of_checks(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two views each of images with a pattern of their own strength, its sign drawn a view.

    The border is always 1. After batch norm over a group it says what the group's variance was,
    which is the same for both views: far easier to read than the image's own strength.
    """
    checks = (torch.arange(6)[:, None] + torch.arange(6)) % 2 * 2.0 - 1
    strength = torch.exp(0.5 * torch.randn(count, 3, 1, 1, generator=generator))

    def view() -> Tensor:
        sign = torch.randint(0, 2, (count, 3, 1, 1), generator=generator) * 2.0 - 1
        noise = 0.1 * torch.randn(count, 3, 6, 6, generator=generator)
        return F.pad(sign * strength * checks + noise, (1, 1, 1, 1), value=1.0)

    return view(), view()


def trained(shuffled: bool, steps: int) -> MoCo:
    torch.manual_seed(0)
    backbone = nn.Sequential(GroupBatchNorm2d(3, GROUP), nn.Flatten())
    head = nn.Sequential(nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 16))
    encoder = Encoder(backbone, head)
    model = MoCo(encoder, MomentumQueue(encoder, dim=16, size=64, momentum=0.9), temperature=0.1)
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    generator, alone = torch.Generator().manual_seed(1), Processes(0, 1, torch.device("cpu"))
    for step in range(steps):
        positions = positions_of_slots(0, step, 32) if shuffled else np.arange(32)
        optimizer.zero_grad()
        batch = Batch.of(sizes_of_checks(32, generator), np.arange(32), positions, step, alone)
        accumulate(model, batch, model.encoder_q, FULL_PRECISION)
        optimizer.step()
    return model


@pytest.mark.slow
def test_training_without_shuffling_learns_to_cheat_and_with_shuffling_it_does_not():
    queries, keys = sizes_of_checks(256, torch.Generator().manual_seed(2))
    found = {}
    for shuffled in (False, True):
        model = trained(shuffled, steps=800)
        encoder_k, queue = model.dictionary.encoder_k, model.dictionary.keys
        found[shuffled] = leak(model.encoder_q, encoder_k, queries, keys, GROUP, queue)
    assert found[False] > 0.3
    assert abs(found[True]) < 0.05
