"""Compare the training step with the official one and lightly's: `python -m benchmarks.step`."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import batch_norm
from benchmarks.measure import Cost, Row, Side, apart, found, interleaved, machine, parser_of, save
from benchmarks.official import lightly_step, official_step, resnet
from benchmarks.scaling_model import preset
from moco.config import Pretrain
from moco.devices import compute_in, has_bf16
from moco.dictionary.momentum_queue import MomentumQueue
from moco.dictionary.protocol import Batch
from moco.dictionary.shuffle_bn import positions_of_slots
from moco.encoders.kinds import network_of
from moco.encoders.normalize import normalize
from moco.momentum_contrast import MoCo
from moco.processes import Processes, keep_freed_memory
from moco.training.loop import accumulate
from moco.training.setup import build, optimizer_of

LIGHTLY = found("lightly")
Step = Callable[[], Tensor]


def case(encoder: str, side: int, batch: int, keys: int) -> Pretrain:
    """Give MoCo v2's settings at another size, with the peers' batch norm: over the whole batch."""
    recipe = preset("v2")
    return recipe.model_copy(
        update={
            "encoder": network_of(encoder),
            "image_size": side,
            "global_batch": batch,
            "bn_group_size": batch,
            "dictionary": recipe.dictionary.model_copy(update={"num_keys": keys}),
            "precision": "fp32",
        }
    )


def images_of(settings: Pretrain, device: torch.device) -> Tensor:
    """Random views, uint8 2 x N x 3 x S x S, channels-last in memory as the loader makes them.

    Large patches of color: the encoder hardly tells images of mere noise apart, and the gradient
    would be that of rounding errors.
    """
    side, random = settings.image_size, torch.Generator().manual_seed(0)
    patches = torch.rand(2 * settings.global_batch, 3, 4, 4, generator=random)
    drawn = nn.functional.interpolate(patches, (side, side), mode="bilinear")
    drawn += 0.1 * torch.rand(drawn.shape, generator=random)
    images = (drawn / 1.1 * 255).to(torch.uint8).to(device, memory_format=torch.channels_last)
    return images.unflatten(0, (2, -1))


def ours(
    settings: Pretrain, device: torch.device, bf16: bool, compiled: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[Tensor], Tensor], MoCo]:
    """Our step on uint8 views, as moco.training.loop has it, without curves and checkpoints.

    Args:
        settings: of the run.
        device: where it computes.
        bf16: autocast to bfloat16.
        compiled: encoders by torch.compile.
        dtype: of the weights.
    """
    processes = Processes(0, 1, device)
    model = build(settings, 0).to(device, dtype)
    model.to(memory_format=torch.channels_last)
    if dtype != torch.float32:  # the step normalizes to float32
        for encoder in (model.encoder_q, queue_of(model).encoder_k):
            encoder.register_forward_pre_hook(lambda _, given: normalize(given[0]).to(dtype))
    optimizer = optimizer_of(model, settings)
    optimizer.param_groups[0]["lr"] = 0.03
    if compiled:
        model.encoder_q.compile()
        queue_of(model).encoder_k.compile()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    done = 0

    def train(images: Tensor) -> Tensor:
        nonlocal done
        positions = positions_of_slots(settings.seed, done, settings.global_batch)
        optimizer.zero_grad()
        batch = Batch.of(images, positions, positions, done, processes)
        contrast, _ = accumulate(model, batch, model.encoder_q, autocast)
        optimizer.step()
        done += 1
        return contrast.loss

    return train, model


def queue_of(model: MoCo) -> MomentumQueue:
    """Give the model's dictionary, which is a queue in all benchmarks."""
    assert isinstance(model.dictionary, MomentumQueue)
    return model.dictionary


def same_weights(model: MoCo, settings: Pretrain) -> nn.Module:
    """torchvision's network with our weights."""
    encoder = resnet(settings.encoder.name, settings.dim).to(queue_of(model).keys)
    encoder.load_state_dict(
        {
            name.removeprefix("backbone.").replace("head.", "fc."): value
            for name, value in model.encoder_q.state_dict().items()
        }
    )
    return encoder


def peers(
    settings: Pretrain, images: Tensor, dtype: torch.dtype = torch.float32
) -> dict[str, tuple[Step, list[nn.Parameter]]]:
    """Make the peers' steps from our first weights and keys, and say what they train."""
    model = build(settings, 0).to(images.device, dtype)
    start, keys = same_weights(model, settings), queue_of(model).keys
    found: dict[str, tuple[Step, list[nn.Parameter]]] = {}
    makers = {"official": official_step} | ({"lightly": lightly_step} if LIGHTLY else {})
    for name, make in makers.items():
        for kind, bf16, channels_last in (
            ("fp32", False, False),
            ("fp32, channels_last", False, True),
            ("bf16 autocast", True, False),
            ("bf16 autocast, channels_last", True, True),
        ):
            if bf16 and not has_bf16(images.device):
                continue
            layout = torch.channels_last if channels_last else torch.contiguous_format
            encoder = copy.deepcopy(start).to(memory_format=layout)
            train, parameters = make(encoder, keys, float(queue_of(model).momentum), settings.temperature, 0.03, bf16)
            views = [normalize(part).to(dtype).contiguous(memory_format=layout) for part in images]
            found[f"{name}, {kind}"] = partial(train, *views), parameters
    return found


def prove(settings: Pretrain, images: Tensor) -> str:
    """Check that a step gives the peers' loss and gradient from the same weights.

    In float64: in float32 a few activations of millions fall on the other side of zero from one
    memory layout to another, which alone moves the gradient by 1 %.

    Raises:
        AssertionError: it does not.
    """
    train, model = ours(settings, images.device, bf16=False, dtype=torch.float64)
    loss, mine = train(images), gradient(list(model.encoder_q.parameters()))
    apart = [0.0, 0.0]
    for name, (step, parameters) in peers(settings, images, torch.float64).items():
        if "fp32" in name:
            other, theirs = step(), gradient(parameters)
            found = float(abs(loss - other)), float((mine - theirs).norm() / theirs.norm())
            assert max(found) < 1e-9, f"{name}: loss differs by {found[0]:.1e}, gradient by {found[1]:.1e}"
            apart = [max(pair) for pair in zip(apart, found, strict=True)]
    return (
        f"{title(settings)}: from the same weights, keys and images our loss and gradient, computed in float64, differ from the"
        f" peers' by {apart[0]:.0e} and {apart[1]:.0e} of its length at most"
    )


def gradient(parameters: list[nn.Parameter]) -> Tensor:
    """All of it in one vector."""
    return torch.cat([x.grad.flatten() for x in parameters if x.grad is not None])


def title(settings: Pretrain) -> str:
    """Name a case."""
    return f"{settings.encoder.label}, {settings.image_size} px, batch {settings.global_batch}, K {settings.negatives}"


def peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s that this machine reaches in the best of a matrix product and a 3x3 convolution."""
    n = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, n, n, dtype=dtype, device=device)
    x = torch.randn(64, 256, 32, 32, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    works = {
        "product": (lambda: a @ b, 2 * n**3),
        "convolution": (lambda: torch.conv2d(x, w, padding=1), 2 * 9 * 256**2 * 64 * 32**2),
    }

    def side(work: Callable[[], Tensor]) -> Side:
        return lambda: synchronized(work, device)

    with torch.inference_mode():
        costs = interleaved({name: side(work) for name, (work, _) in works.items()}, 10)
    return max(works[name][1] / cost.least for name, cost in costs.items())


def synchronized(step: Step, device: torch.device) -> int:
    """Run one step to its end on the device."""
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1


def flops(step: Step) -> int:
    """Floating-point operations of a step, its backward pass included."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def our_sides(settings: Pretrain, device: torch.device, compiled: bool) -> dict[str, Side]:
    """Our steps, in a process that keeps freed memory as moco.training.loop's does."""
    keep_freed_memory()
    fastest(device)
    images = images_of(settings, device)
    steps = {f"ours, {kind}": ours(settings, device, kind == "bf16")[0] for kind in precisions(device)}
    if compiled and has_bf16(device):
        steps["ours, bf16, torch.compile"] = ours(settings, device, True, True)[0]
    return {name: partial(synchronized, partial(step, images), device) for name, step in steps.items()}


def precisions(device: torch.device) -> dict[str, torch.dtype]:
    """Name what a step is timed in: bf16 only where the processor has it in hardware."""
    return ({"bf16": torch.bfloat16} if has_bf16(device) else {}) | {"fp32": torch.float32}


def fastest(device: torch.device) -> None:
    """Let this process compute as training does; fp32 is TF32 on a GPU, for all sides."""
    torch.backends.cudnn.benchmark = True
    compute_in("tf32", device)


def their_sides(settings: Pretrain, device: torch.device) -> dict[str, Side]:
    """Make the sides of the peers' steps."""
    fastest(device)
    steps = peers(settings, images_of(settings, device))
    return {name: partial(synchronized, step, device) for name, (step, _) in steps.items()}


def measure(settings: Pretrain, device: torch.device, rounds: int, compiled: bool) -> list[Row]:
    """All sides of one case in turn."""
    with apart(our_sides, settings, device, compiled) as mine, apart(their_sides, settings, device) as theirs:
        costs = interleaved(mine | theirs, rounds, min(3, rounds // 2))
    fastest(device)
    train = ours(settings, device, bf16=False)[0]
    work = flops(partial(train, images_of(settings, device)))
    limits = {kind: 1e3 * work / peak(dtype, device) for kind, dtype in precisions(device).items()}
    table = title(settings)
    rows = [row(table, costs, mine, name, limits) for mine in limits for name in costs if beside(mine, name)]
    for one in rows:
        one.at_least = goal(settings, one, device)
    if device.type == "cuda" and "bf16" in limits:
        achieved = work / costs["ours, bf16"].wall / 1e12
        rows.append(
            Row(
                table,
                "TFLOP/s in bf16",
                "TFLOP/s",
                achieved,
                limit=work / limits["bf16"] / 1e9,
                limit_name="matrix product",
            )
        )
    return rows


def beside(mine: str, name: str) -> bool:
    """Whether our step in this precision is shown beside that side."""
    return (name.startswith("ours, bf16, ") and mine == "bf16") or (
        not name.startswith("ours") and (mine == "bf16" or "fp32" in name)
    )


def row(table: str, costs: dict[str, Cost], mine: str, name: str, limits: dict[str, float]) -> Row:
    """Our step beside one other."""
    own, other = costs[f"ours, {mine}"], costs[name]
    return Row(
        table,
        f"ours, {mine}",
        "ms",
        1e3 * own.wall,
        name,
        1e3 * other.wall,
        1e3 * own.cpu,
        1e3 * other.cpu,
        limit=limits[mine],
        limit_name=f"operations at the peak of {mine}",
    )


def goal(settings: Pretrain, row: Row, device: torch.device) -> float | None:
    """Give the ratio that issue and design ask of a row."""
    if device.type == "cuda":
        return {"official, fp32": 2.0, "official, bf16 autocast, channels_last": 1.2}.get(row.peer_name)
    mine, theirs = row.name.removeprefix("ours, "), row.peer_name.partition(", ")[2]
    if (mine, theirs) == ("bf16", "fp32"):
        return 1.4 if settings.image_size == 32 else 2.0 if settings.negatives == 4096 else 1.9
    same = {("fp32", "fp32"): 1.15, ("bf16", "bf16 autocast"): 1.1, ("bf16", "bf16 autocast, channels_last"): 1.1}
    return same.get((mine, theirs))


def show_profile(settings: Pretrain, device: torch.device, steps: int = 5) -> None:
    """Print the operations that a step's time goes to, its own processor time each."""
    train, images = ours(settings, device, has_bf16(device))[0], images_of(settings, device)
    for _ in range(3):
        train(images)
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(steps):
            train(images)
    found = sorted(watched.key_averages(), key=lambda entry: -entry.self_cpu_time_total)
    total = sum(entry.self_cpu_time_total for entry in found)
    print(f"{title(settings)}: {total / steps / 1e3:.0f} ms a step")
    for entry in found[:12]:
        share, ms = entry.self_cpu_time_total / total, entry.self_cpu_time_total / steps / 1e3
        print(f"{share:7.1%} {ms:7.1f} ms {entry.count // steps:5} times  {entry.key}")


def main() -> None:
    """Every case in turn."""
    parser = parser_of(__doc__)
    parser.add_argument("--profile", action="store_true", help="only show which operations our step's time goes to")
    given = parser.parse_args()
    quick = given.quick
    begun = machine()
    rows: list[Row] = []
    proofs = []
    cpu = torch.device("cpu")
    cases = [case("resnet18", 64, 64, 4096), case("resnet18", 64, 64, 65536), case("resnet18", 32, 128, 4096)]
    if given.profile:
        for settings in cases:
            show_profile(settings, cpu)
        return
    for number, settings in enumerate(cases):
        small = settings.model_copy(update={"global_batch": 16, "bn_group_size": 16})
        proofs.append(prove(small, images_of(small, cpu)))
        rows += measure(settings, cpu, 4 if quick else 15, not quick and number == 0)
    rows += batch_norm.rows(cpu, 9 if quick else 31)
    if not has_bf16(cpu):
        rows.append(Row(title(cases[0]), "the step in bf16", "ms", not_run="this CPU has no bfloat16 in hardware"))
    if torch.cuda.is_available():
        rows += measure(case("resnet50", 224, 256, 65536), torch.device("cuda"), 10, not quick)
    else:
        rows.append(
            Row("resnet50, 224 px, batch 256, K 65536", "the step of ResNet-50 on a GPU", "ms", not_run="no GPU")
        )
    if not LIGHTLY:
        rows.append(Row("lightly", "the step", "ms", peer_name="lightly", not_run="not installed; `make bench` does"))
    save("step", rows, proofs, begun, quick)


if __name__ == "__main__":
    main()
