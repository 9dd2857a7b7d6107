"""Linear classification beside the official protocol: `python -m benchmarks.probe [--quick]`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from benchmarks.measure import Row, interleaved, machine, options, save
from benchmarks.official import folder_loader, linear_epoch
from benchmarks.photographs import KEPT, sharded
from moco.config import Fetch, Linear
from moco.encoders.frozen import EncoderSpec, FrozenEncoder, load_encoder, random_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.evaluation.linear import LinearProbes, train_probes, validation_accuracies
from moco.features.extract import Extractor, Labelled
from moco.images.index import ShardSet, open_split

SIZE = 28
EPOCHS = 100
"""Of the official protocol; its time is measured on one and multiplied, for all are the same
work."""
RATES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


def settings(views: str, epochs: int, rates: list[float]) -> Linear:
    """Give the linear section at another length."""
    return Linear.model_validate(
        {
            "views": views,
            "epochs": epochs,
            "batch_size": 256,
            "learning_rates": rates,
            "sgd_momentum": 0.9,
            "weight_decay": 0.0,
            "knn_k": 20,
            "knn_temperature": 0.07,
            "seed": 0,
        }
    )


def some(images: ShardSet, count: int) -> Labelled:
    """Give the first images with a label."""
    every = Labelled.of(images)
    return Labelled(images, every.indices[:count], every.labels[:count])


def folder_of(images: Labelled, folder: Path) -> Path:
    """Write the same images as ImageFolder wants them."""
    if not folder.exists():
        part = folder.with_suffix(".part")
        for index, label in zip(images.indices, images.labels, strict=True):
            (part / f"{label}").mkdir(parents=True, exist_ok=True)
            (part / f"{label}" / f"{index:06d}.png").write_bytes(images.images.read(int(index)))
        part.rename(folder)
    return folder


def official_epochs(encoder: FrozenEncoder, folder: Path, epochs: int) -> Callable[[], int]:
    """Make a side that trains a classifier for some epochs as the official code does."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    classifier = nn.Linear(encoder.spec.feature_dim, 10)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=30.0, momentum=0.9)
    loader = folder_loader(folder, transform, 256, 0)

    def train() -> int:
        for _ in range(epochs):
            for _ in linear_epoch(encoder.backbone, classifier, optimizer, loader):
                pass
        return epochs

    return train


def same_classifier(features: int, classes: int) -> str:
    """Check that ten classifiers trained at once equal those that torch's SGD trains one by one.

    Raises:
        AssertionError: one is not.
    """
    rates = [0.01, 0.1, 1.0]
    probes = LinearProbes(features, classes, settings("center", 1, rates))
    singles = []
    for rate in rates:
        single = nn.Linear(features, classes)
        single.weight.data, single.bias.data = probes.weight[:classes].clone(), probes.bias[:classes].clone()
        singles.append((single, torch.optim.SGD(single.parameters(), lr=rate, momentum=0.9)))
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        batch = torch.rand(256, features, generator=random)
        labels = torch.randint(classes, (256,), generator=random)
        probes.step(batch, labels, 1.0)
        for single, optimizer in singles:
            optimizer.zero_grad()
            F.cross_entropy(single(batch), labels).backward()
            optimizer.step()
    theirs = torch.stack([single(batch).detach() for single, _ in singles], dim=1)
    apart = float((probes.logits(batch) - theirs).abs().max() / theirs.abs().max())
    assert apart < 1e-4, f"logits differ by {apart} of the largest"
    return f"after 20 steps at three rates our logits differ from those of nn.Linear and torch.optim.SGD by {apart:.0e} of the largest at most"


def layers_of_torch(features: Tensor, labels: Tensor, classes: int, rates: list[float]) -> Callable[[], int]:
    """Make a side that takes a step of a layer a rate, with one optimizer, as DINOv2 probes do."""
    layers = [nn.Linear(features.shape[1], classes) for _ in rates]
    groups = [{"params": layer.parameters(), "lr": rate} for layer, rate in zip(layers, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)

    def step() -> int:
        optimizer.zero_grad()
        torch.stack([F.cross_entropy(layer(features), labels) for layer in layers]).sum().backward()
        optimizer.step()
        return 1

    return step


def at_scale(rounds: int) -> list[Row]:
    """Time an epoch of six rates on 100,000 x 2,048 features: steps of it, times their number."""
    images, dimensions, rates = 100_000, 2048, RATES[2:8]
    random, rows = torch.Generator().manual_seed(0), []
    for classes, batch in ((100, 256), (1000, 256), (1000, 2048)):
        features = torch.rand(batch, dimensions, generator=random)
        labels = torch.randint(classes, (batch,), generator=random)
        probes = LinearProbes(dimensions, classes, settings("center", 1, rates))

        def ours(probes: LinearProbes = probes, features: Tensor = features, labels: Tensor = labels) -> int:
            probes.step(features, labels, 1.0)
            return 1

        both = interleaved({"ours": ours, "torch": layers_of_torch(features, labels, classes, rates)}, rounds)
        seconds = [(images / batch * cost.wall, images / batch * cost.cpu) for cost in both.values()]
        rows.append(
            Row(
                f"Six learning rates on {images:,} x {dimensions:,} features",
                f"an epoch, {classes:,} classes, batch {batch:,}",
                "s",
                seconds[0][0],
                "a layer a rate, one optimizer",
                seconds[1][0],
                seconds[0][1],
                seconds[1][1],
            )
        )
    return rows


def main() -> None:
    """Ten rates beside one; both modes beside the official protocol, and beside torch's layers."""
    quick = options(__doc__).quick
    begun = machine()
    count, rounds = (2_048, 3) if quick else (8_192, 5)
    fetch = Fetch(source="fashion-mnist", path="none", labels="folders", val_fraction=0, test_fraction=0, split_seed=0)
    shards = sharded(fetch, KEPT / "fashion-mnist")
    train, test = some(open_split(shards, "train"), count), some(open_split(shards, "test"), 10_000)
    spec = EncoderSpec(network_of("thin", "small-stride2"), SIZE, 1.0, IMAGENET_MEAN, IMAGENET_STD, 256, "random")
    trained = Path("outputs/pretrain/encoder")
    encoder = load_encoder(trained) if (trained / "encoder.json").exists() else random_encoder(spec, 0)
    if encoder.spec.image_size != SIZE:  # the project trains on something else
        encoder = random_encoder(spec, 0)
    kind = "an untrained encoder" if encoder.spec.training_hash == "random" else "the project's encoder"

    extractor = Extractor("probe", encoder.embed, "", SIZE, 1.0)  # without a cache: every round extracts

    def probing(views: str, epochs: int, rates: list[float]) -> int:
        train_probes(extractor, train, settings(views, epochs, rates))
        return 1

    exact = 2  # epochs of the exact mode in a round
    costs = interleaved(
        {
            "ten": partial(probing, "augmented", exact, RATES),
            "one": partial(probing, "augmented", exact, RATES[:1]),
            "fast": partial(probing, "center", EPOCHS, RATES),
            "official": official_epochs(encoder, folder_of(train, KEPT / f"fashion-folder-{count}"), 1),
        },
        rounds,
    )
    ten, one, fast, theirs = (costs[name] for name in ("ten", "one", "fast", "official"))
    table = f"Fashion-MNIST, {count:,} images, a thin encoder at 28 px"
    rows = [
        Row(
            table,
            f"exact mode, {exact} epochs, ten learning rates",
            "s",
            ten.wall,
            "one learning rate",
            one.wall,
            ten.cpu,
            one.cpu,
            at_least=round(1 / 1.3, 2),
            note="at most 1.3 times the time of one",
        ),
        Row(
            table,
            f"fast mode, {EPOCHS} epochs, ten learning rates",
            "s",
            fast.wall,
            "official protocol, one rate",
            EPOCHS * theirs.wall,
            fast.cpu,
            EPOCHS * theirs.cpu,
            at_least=20.0,
            note=f"the official time is that of one epoch times {EPOCHS}",
        ),
        Row(
            table,
            "exact mode, an epoch, ten learning rates",
            "s",
            ten.wall / exact,
            "official protocol, one rate",
            theirs.wall,
            ten.cpu / exact,
            theirs.cpu,
        ),
    ]
    rows += at_scale(5 if quick else 15)
    top1 = {}
    for views, epochs in (("center", EPOCHS), ("augmented", 4 if quick else 20)):
        probes, _ = train_probes(extractor, train, settings(views, epochs, RATES))
        top1[views] = 100 * max(validation_accuracies(extractor, probes, test))
        rows.append(
            Row(
                f"Accuracy of the modes, {kind}",
                f"{views} views, {epochs} epochs, best of ten rates",
                "% top-1",
                top1[views],
            )
        )
    rows[-1].note = f"fast minus exact: {top1['center'] - top1['augmented']:+.1f} points; they are different protocols"
    save("probe", rows, [same_classifier(256, 10), same_classifier(512, 100)], begun, quick)


if __name__ == "__main__":
    main()
