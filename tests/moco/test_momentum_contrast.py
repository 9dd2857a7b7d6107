"""One step of MoCo against the paper's Algorithm 1 stated independently, in float64."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mechanisms import SMALL, dictionary
from torch import nn
from torch.nn import functional as F

from moco import Encoder, MoCo
from moco.dictionary.momentum_queue import MomentumQueue
from moco.dictionary.protocol import Batch
from moco.encoders.normalize import normalize
from moco.processes import Processes
from moco.training.loop import accumulate

ALONE = Processes(0, 1, torch.device("cpu"))
NO_AUTOCAST = torch.autocast("cpu", enabled=False)


class Backbone(nn.Module):
    """Two layers in float64, whatever the images come as."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, dtype=torch.float64)
        self.linear = nn.Linear(36, 10, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.tanh(self.conv(images.double())).flatten(1))


@pytest.mark.parametrize("micro_batch_size", [None, 2, 3], ids=["whole", "in halves", "in uneven parts"])
def test_three_steps_agree_with_algorithm_1(micro_batch_size):
    torch.manual_seed(0)
    N, C, K, m, T, lr = 4, 5, 10, 0.9, 0.2, 0.5
    encoder = Encoder(Backbone(), nn.Linear(10, C, dtype=torch.float64))
    model = MoCo(encoder, MomentumQueue(encoder, C, K, m), T)
    model.dictionary.double()
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=lr)

    # Algorithm 1, with the queue as its C x K matrix
    f_q, f_k = copy.deepcopy(model.encoder_q), copy.deepcopy(model.encoder_q)
    queue = model.dictionary.keys.clone().T
    for _ in range(3):
        batch = torch.randint(0, 256, (2, N, 3, 8, 8), dtype=torch.uint8)
        optimizer.zero_grad()
        step = Batch.of(batch, np.arange(N), np.arange(N)[::-1].copy(), 0, ALONE, micro_batch_size)
        contrast, _ = accumulate(model, step, model.encoder_q, NO_AUTOCAST)
        optimizer.step()

        q, k = f_q(normalize(batch[0])), f_k(normalize(batch[1])).detach()
        l_pos = torch.bmm(q.view(N, 1, C), k.view(N, C, 1)).view(N, 1)
        logits = torch.cat([l_pos, torch.mm(q, queue)], dim=1)
        loss = F.cross_entropy(logits / T, torch.zeros(N, dtype=torch.long))
        f_q.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in f_q.parameters():
                parameter -= lr * parameter.grad
            for slow, fast in zip(f_k.parameters(), f_q.parameters(), strict=True):
                slow.copy_(m * slow + (1 - m) * fast)
        queue = torch.cat([queue, k.T], dim=1)[:, -K:]

        assert abs(contrast.loss.item() - loss.item()) < 1e-6
        for ours, theirs in zip(model.encoder_q.parameters(), f_q.parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)
    model.dictionary.update_encoder(
        model.encoder_q
    )  # Algorithm 1 updates f_k at a step's end, we at the next one's start
    for ours, theirs in zip(model.dictionary.encoder_k.parameters(), f_k.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    ring = torch.roll(model.dictionary.keys, -int(model.dictionary.pointer), dims=0)
    assert torch.allclose(ring.T, queue, atol=1e-6)


def test_keys_come_back_to_their_own_images_after_the_shuffle():
    torch.manual_seed(0)
    encoder = Encoder(Backbone(), nn.Identity())
    model = MoCo(encoder, MomentumQueue(encoder, 10, 16, 0.999))
    model.dictionary.double()
    batch = torch.randint(0, 256, (2, 6, 3, 8, 8), dtype=torch.uint8)
    step = Batch.of(batch, np.arange(6), np.array([3, 0, 5, 1, 4, 2]), 0, ALONE)
    keys = model.dictionary.look_up(step, model.dictionary.send(step, 1), model.encoder_q)
    assert torch.allclose(keys, model.dictionary.encoder_k(normalize(batch[1])))


@pytest.mark.gpu
@pytest.mark.parametrize("mechanism", SMALL)
def test_the_host_never_waits_for_a_gpu_within_a_step(mechanism):
    from moco.config import load_params
    from moco.training.setup import build, optimizer_of

    params = Path(__file__).parents[2] / "params.yaml"
    settings = load_params(params).pretrain.model_copy(update={"dictionary": dictionary(mechanism)})
    gpu = torch.device("cuda")
    model = build(settings, 10_000).to(gpu)
    optimizer, autocast = optimizer_of(model, settings), torch.autocast("cuda", torch.bfloat16)
    size = settings.image_size
    batch = torch.randint(0, 256, (2, settings.global_batch, 3, size, size), dtype=torch.uint8, device=gpu)
    try:
        for step in range(4):
            if step == 2:  # the first ones make workspaces
                torch.cuda.set_sync_debug_mode("error")
            optimizer.zero_grad()
            positions = np.random.default_rng(step).permutation(settings.global_batch)
            one = Batch.of(batch, positions, positions, step, Processes(0, 1, gpu))
            accumulate(model, one, model.encoder_q, autocast)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
