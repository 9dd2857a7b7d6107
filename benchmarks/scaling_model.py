"""Model the step's time on 8 to 512 GPUs: compute, messages, bandwidths (docs/scaling.md).

`python -m benchmarks.scaling --model` prints its tables, and `--check` compares it with what this
machine can measure.
"""

from dataclasses import dataclass
from pathlib import Path

import moco
from benchmarks.shuffle_bn import IMAGE, KEY, PER_RANK, mb
from moco.config import Pretrain
from moco.training.setup import build
from moco.yaml_files import read_yaml

PUBLISHED = {"V100, float32": 1_281_167 * 200 / (53 * 3600) / 8, "A100, mixed precision": 2470 * 3 / 4}
"""Images a second of one GPU, ResNet-50 at 224 pixels; none of them measured by us.

V100: the official code's 53 h for 200 epochs on 8 of them, its loading and its collectives
included. A100: 3/4 of NVIDIA's 2,470 images/s of supervised training at batch 256, because a step
of MoCo encodes the key view as well: forward 1 + backward 2 + forward 1 instead of 1 + 2.
"""

BACKWARD, QUERIES = 1 / 2, 1 / 4
"""Shares of a step's compute, by the same count: in which gradients appear and may travel, and the
queries' forward pass, beside which key images travel."""


@dataclass(frozen=True)
class Network:
    """GPUs in hosts.

    Attributes:
        per_host: GPUs in a host.
        within: bytes/s that a GPU sends to others in its host, and receives at the same time.
        between: bytes/s that a host sends to others, all its GPUs together, and receives at the
            same time.
        latency_within: seconds that a message takes inside a host, however short.
        latency_between: the same from host to host.
    """

    per_host: int
    within: float
    between: float
    latency_within: float
    latency_between: float


EFFICIENCY = 0.8  # share of the nominal bandwidth that a large message sees
NVLINK = 150e9 * EFFICIENCY  # second generation (V100), each way; the third is twice as fast
GIGABITS = (100, 200, 400)  # a host


def cluster(gigabits: float) -> Network:
    """Hosts of 8 GPUs with NVLink, and latencies of 3 and 10 microseconds, assumed."""
    return Network(8, NVLINK, gigabits / 8 * 1e9 * EFFICIENCY, 3e-6, 10e-6)


def ring(world_size: int, size: float, rounds: int, network: Network) -> float:
    """Seconds for `size` bytes over every link of a ring, `rounds` times."""
    hosts = -(-world_size // network.per_host)
    if hosts == 1:
        return size / network.within + rounds * (world_size - 1) * network.latency_within
    hops = (world_size - hosts) * network.latency_within + hosts * network.latency_between
    return size / min(network.within, network.between) + rounds * hops


def all_gather(world_size: int, block: float, network: Network) -> float:
    """Seconds until every rank has the others' blocks of `size` bytes."""
    return ring(world_size, (world_size - 1) * block, 1, network)


def all_reduce(world_size: int, size: float, network: Network) -> float:
    """Seconds to sum tensors of `size` bytes: round once to add, once to spread the sums."""
    return ring(world_size, 2 * (world_size - 1) / world_size * size, 2, network)


def broadcast(world_size: int, size: float, network: Network) -> float:
    """Seconds to send one rank's bytes to all, in pieces along a chain."""
    return ring(world_size, size, 1, network)


def all_to_all(world_size: int, size: float, network: Network) -> float:
    """Time sending `size` bytes a rank to all in equal parts; messages start one after another."""
    peers = min(network.per_host, world_size) - 1
    far = world_size - 1 - peers
    inside = peers * size / world_size / network.within
    outside = (peers + 1) * far * size / world_size / network.between
    return max(inside, outside) + peers * network.latency_within + far * network.latency_between


@dataclass(frozen=True)
class Sizes:
    """Bytes that do not depend on the batch.

    Attributes:
        gradients: of the query encoder, float32.
        buffers: queue and batch-norm statistics of both encoders, which DistributedDataParallel
            broadcasts in every step if it wraps the whole model and is left to its defaults, as in
            the official code.
    """

    gradients: int
    buffers: int


def sizes(settings: Pretrain) -> Sizes:
    """Count them from the model itself."""
    model = build(settings, 0)
    gradients = sum(4 * weight.numel() for weight in model.encoder_q.parameters())
    return Sizes(gradients, sum(buffer.nbytes for buffer in model.buffers()))


def preset(name: str) -> Pretrain:
    """Give the section `pretrain` of a preset."""
    values = read_yaml(Path(moco.__file__).parent / f"presets/{name}.yaml")
    return Pretrain.model_validate(values["pretrain"])


def parts(world_size: int, per_gpu: int, size: Sizes, network: Network) -> dict[str, float]:
    """Seconds of each collective of a step, ours and the official scheme's."""
    return {
        "shuffle": all_to_all(world_size, per_gpu * IMAGE, network),
        "keys": all_gather(world_size, per_gpu * KEY, network),
        "official images": all_gather(world_size, per_gpu * 4 * IMAGE, network),
        "official keys": 2 * all_gather(world_size, per_gpu * KEY, network)
        + broadcast(world_size, 8 * world_size * per_gpu, network),
        "official buffers": broadcast(world_size, size.buffers, network),
        "gradients": all_reduce(world_size, size.gradients, network),
    }


def step(compute: float, before: float, gradients: float, beside: float = 0.0) -> tuple[float, float]:
    """Give a step's least and greatest seconds.

    At best gradients travel during the backward pass and `beside` during the queries' forward pass,
    at worst after and before them.
    """
    least = max(0.0, beside - QUERIES * compute) + max(0.0, gradients - BACKWARD * compute)
    return compute + before + least, compute + beside + before + gradients


PAPER = ((8, 32, "paper, ImageNet-1k"), (64, 16, "paper, 1 billion images"))
GROWING = tuple((world_size, PER_RANK, "") for world_size in (16, 32, 64, 128, 256, 512))


def rows() -> tuple[tuple[int, int, str], ...]:
    """GPUs, images a GPU and a remark."""
    return (*PAPER, *GROWING)


def collectives_table(size: Sizes, gigabits: int) -> str:
    """Milliseconds and MB of each collective, one line for each number of GPUs, in Markdown."""
    lines = [
        "| GPUs | global batch | shuffle, ms | keys, ms | gradients, ms | a GPU receives, MB | official: images, ms | keys, ms | buffers, ms | gradients, ms | a GPU receives, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for world_size, per_gpu, remark in rows():
        ms = {name: 1e3 * seconds for name, seconds in parts(world_size, per_gpu, size, cluster(gigabits)).items()}
        away = 1 - 1 / world_size
        gradients = 2 * away * size.gradients
        keys = (world_size - 1) * per_gpu * KEY
        mine = per_gpu * IMAGE * away + keys + gradients
        theirs = (world_size - 1) * per_gpu * 4 * IMAGE + 2 * keys + size.buffers + gradients
        lines.append(
            f"| {world_size}{f' ({remark})' if remark else ''} | {world_size * per_gpu} | {ms['shuffle']:.2f} | {ms['keys']:.2f}"
            f" | {ms['gradients']:.1f} | {mb(mine)} | {ms['official images']:.1f} | {ms['official keys']:.2f}"
            f" | {ms['official buffers']:.1f} | {ms['gradients']:.1f} | {mb(theirs)} |"
        )
    return "\n".join(lines)


def step_table(size: Sizes, rate: float) -> str:
    """Milliseconds of a step and images/s on GPUs of a given rate, in Markdown."""
    head = [f"{scheme} at {gigabits} Gb/s" for scheme in ("ours", "official") for gigabits in GIGABITS]
    lines = [
        f"| GPUs | global batch | compute, ms | {' | '.join(head)} | ours at {GIGABITS[0]} Gb/s: images/s (of linear) | official |",
        "|---|---|---|" + "---|" * (len(head) + 2),
    ]
    for world_size, per_gpu, remark in rows():
        compute = per_gpu / rate
        mine, theirs = [], []
        for gigabits in GIGABITS:
            part = parts(world_size, per_gpu, size, cluster(gigabits))
            mine.append(step(compute, part["keys"], part["gradients"], part["shuffle"]))
            before = sum(part[f"official {what}"] for what in ("images", "keys", "buffers"))
            theirs.append(step(compute, before, part["gradients"]))
        lines.append(
            f"| {world_size}{f' ({remark})' if remark else ''} | {world_size * per_gpu} | {1e3 * compute:.1f}"
            f" | {' | '.join(f'{1e3 * low:.1f}–{1e3 * high:.1f}' for low, high in (*mine, *theirs))}"
            f" | {' | '.join(images_per_second(world_size * per_gpu, compute, item) for item in (mine[0], theirs[0]))} |"
        )
    return "\n".join(lines)


def gains_table(size: Sizes, rate: float, gigabits: int) -> str:
    """Images/s at best, as each of two savings is added, in Markdown."""
    lines = [
        "| GPUs | global batch | all in turn but gradients | key images beside queries | and gradients in bf16 |",
        "|---|---|---|---|---|",
    ]
    for world_size, per_gpu, remark in rows():
        compute, part = per_gpu / rate, parts(world_size, per_gpu, size, cluster(gigabits))
        found = (
            step(compute, part["shuffle"] + part["keys"], part["gradients"])[0],
            step(compute, part["keys"], part["gradients"], part["shuffle"])[0],
            step(compute, part["keys"], part["gradients"] / 2, part["shuffle"])[0],
        )
        batch = world_size * per_gpu
        cells = (f"{batch / seconds:,.0f} ({100 * compute / seconds:.0f} %)" for seconds in found)
        lines.append(f"| {world_size}{f' ({remark})' if remark else ''} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def images_per_second(batch: int, compute: float, bounds: tuple[float, float]) -> str:
    """Give the range of images/s, and its share of what GPUs that never waited would do."""
    low, high = bounds
    share = f"{100 * compute / high:.0f}–{100 * compute / low:.0f} %"
    return f"{batch / high:,.0f}–{batch / low:,.0f} ({share})"


def tables(own_rate: float | None) -> str:
    """Everything that `--model` prints.

    Args:
        own_rate: images/s of one GPU as measured by whoever asks; a table of its own.
    """
    settings = preset("v2")
    size = sizes(settings)
    head = f"{settings.encoder.label}, head {settings.head}: gradients {mb(size.gradients)} MB; queue and batch-norm statistics {mb(size.buffers)} MB"
    rates = PUBLISHED | ({"your GPU": own_rate} if own_rate else {})
    pieces = [head, f"## Each collective, {GIGABITS[0]} Gb/s a host", collectives_table(size, GIGABITS[0])]
    for name, rate in rates.items():
        pieces += [f"## A step on {name}: {rate:,.0f} images/s a GPU", step_table(size, rate)]
    name, rate = list(rates.items())[-1]
    for gigabits in GIGABITS[::2]:
        pieces += [
            f"## What is saved on {name}, {gigabits} Gb/s a host: images/s (of linear)",
            gains_table(size, rate, gigabits),
        ]
    return "\n\n".join(pieces)
