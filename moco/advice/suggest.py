"""Values that fit some images and this machine, each with its reason."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from moco.advice.look import Looked
from moco.errors import MocoError
from moco.presets import FOLDER
from moco.yaml_files import read_yaml

SIDES = (28, 32, 48, 64, 96, 128, 160, 192, 224)
"""Image sizes that are suggested."""
STEPS = 10_000
"""That a run should have if there is time (docs/pretraining.md)."""
FEWEST_EPOCHS, MOST_EPOCHS = 20, 800
KEYS, FEWEST_KEYS = 8, 64
"""Images for each key of the queue, at least, down to this number of keys."""
FEWEST_STEPS = 8
"""An epoch; fewer make neither a schedule nor a queue of several batches."""
SMALL = 40
"""Pixels; crops of less than a tenth of an image of this size show nothing."""
SLOW_MOMENTUM = 50_000
"""Steps from which on the papers' momentum of 0.999 has time to work."""
FEWEST_VALIDATION = 200
FEW = 10_000
"""Images; from fewer, an encoder that begins with published weights is hard to reach."""


class Choice(NamedTuple):
    """One value: its key in params.yaml, and why."""

    key: str
    value: Any
    why: str


class Candidate(NamedTuple):
    """A network and a size that a run may have, and the recipe that it begins with."""

    preset: Literal["small", "cifar", "v2"]
    name: str
    stem: str
    image_size: int


@dataclass(frozen=True)
class Suggestion:
    """What fits.

    Attributes:
        preset: has all other values.
        choices: where it is left.
        notes: what else a person should know, a line each.
        seconds: that pretraining is expected to take.
        images_per_second: as measured here.
    """

    preset: str
    choices: list[Choice]
    notes: list[str]
    seconds: float
    images_per_second: float

    def sections(self) -> dict[str, Any]:
        """Give the whole section `pretrain`, and what of `fetch` is chosen."""
        fetch = {key.removeprefix("fetch."): value for key, value, _ in self.choices if key.startswith("fetch.")}
        return {"fetch": fetch, "pretrain": _section(self.preset, self.choices)}


def suggest(
    found: Looked, on_gpu: bool, hours: float, rate: Callable[[dict[str, Any]], float], where: str
) -> Suggestion:
    """Choose the largest network that the hours suffice for, and what follows from it.

    Args:
        found: the images.
        on_gpu: whether training computes on one.
        hours: that pretraining may take.
        rate: measures how many images a second a section `pretrain` trains here.
        where: the devices, for a person.

    Raises:
        MocoError: too few images.
    """
    fetch = list(_fetch(found))
    images = _trained_on(found, {choice.key: choice.value for choice in fetch})
    if images < 2 * FEWEST_STEPS:
        raise MocoError(
            f"{found.settings.path}: {images} images to train on are too few for a suggestion; have {2 * FEWEST_STEPS}"
            " at least, better thousands"
        )
    for candidate in _candidates(found, on_gpu):
        chosen = [*fetch, *_of_network(candidate, found), *_of_count(candidate, images)]
        batch = _value(candidate.preset, chosen, "global_batch")
        wanted = min(max(STEPS * batch / images, FEWEST_EPOCHS), MOST_EPOCHS) * images
        speed = rate(_section(candidate.preset, chosen))
        if speed * hours * 3600 >= wanted:
            break
    epochs = max(1, int(min(wanted, speed * hours * 3600) / images))
    within = f"{speed:.0f} images/s were measured on {where}"
    why = f"{wanted / images:.0f} are enough" if epochs >= int(wanted / images) else f"what {hours:g} h allow"
    chosen += [
        Choice("pretrain.epochs", epochs, f"{why}; {within}"),
        *_of_steps(candidate, epochs * (images // batch)),
        Choice("pretrain.knn_every_epochs", max(1, epochs // 10), "ten readings in the run"),
    ]
    return Suggestion(candidate.preset, chosen, [*_notes(images, epochs, found)], epochs * images / speed, speed)


def _trained_on(found: Looked, fetch: dict[str, Any]) -> int:
    share = {part: count / max(len(found.headers), 1) for part, count in found.parts.items()}
    drawn = 1.0
    for part in ("val", "test"):
        if part not in share:
            drawn -= fetch.get(f"fetch.{part}_fraction", getattr(found.settings, f"{part}_fraction"))
    return int(found.images * (share.get("all", 0) * drawn + share.get("train", 0)))


def _candidates(found: Looked, on_gpu: bool) -> Iterator[Candidate]:
    """Name what may be trained, the best first."""
    half = found.short_sides[len(found.headers) // 2]
    largest = max([side for side in SIDES if side <= half], default=SIDES[0])
    small = min(largest, 64)
    if on_gpu and largest > 64:
        yield Candidate("v2", "resnet50", "imagenet", largest)
        yield Candidate("v2", "resnet18", "imagenet", largest)
    yield Candidate("cifar", "resnet18", "small", small)
    for side in dict.fromkeys((small, min(small, 32))):
        yield Candidate("small", "thin", "small-stride2", side)


def _fetch(found: Looked) -> Iterator[Choice]:
    settings = found.settings
    yield Choice("fetch.source", settings.source, "as the path reads")
    yield Choice("fetch.path", settings.path, "as given")
    yield Choice("fetch.labels", "folders" if set(found.labels) - {""} else "none", "what the folders say")
    if "val" not in found.parts and found.images * settings.val_fraction < FEWEST_VALIDATION:
        share = min(0.2, round(FEWEST_VALIDATION / found.images, 2))
        yield Choice("fetch.val_fraction", share, "a tenth would be too few images to choose by")
        if "test" not in found.parts:
            yield Choice("fetch.test_fraction", share, "as many to judge by")


def _of_network(candidate: Candidate, found: Looked) -> Iterator[Choice]:
    half = found.short_sides[len(found.headers) // 2]
    yield Choice("pretrain.encoder.name", candidate.name, "the largest that the time suffices for")
    yield Choice("pretrain.encoder.stem", candidate.stem, f"suits {candidate.image_size} pixels")
    yield Choice("pretrain.image_size", candidate.image_size, f"half of the images have {half} pixels or more")
    if candidate.image_size > SMALL:
        yield Choice("pretrain.views.crop_scale_min", 0.2, "a fifth of an image of this size still shows something")
    elif candidate.preset == "cifar":
        yield Choice("pretrain.views.crop_scale_min", 0.3, "smaller crops of small images show nothing")
    yield Choice("pretrain.views.flip_p", 0.5, "set 0 where left and right matter, as in text")
    yield Choice("pretrain.dictionary.start", "keys", "random keys collapse deep encoders on small sets")


def _of_count(candidate: Candidate, images: int) -> Iterator[Choice]:
    batch, group = (_value(candidate.preset, [], name) for name in ("global_batch", "bn_group_size"))
    while batch > 8 and images // batch < FEWEST_STEPS:
        batch //= 2
    group = min(group, batch // 2)
    keys = _value(candidate.preset, [], "dictionary")["num_keys"]
    while keys > max(batch, min(FEWEST_KEYS, images // 2)) and keys * KEYS > images:
        keys //= 2
    yield Choice("pretrain.global_batch", batch, f"{images // batch} steps an epoch of {images} training images")
    yield Choice("pretrain.bn_group_size", group, "half of the batch or less, so that shuffling has something to do")
    yield Choice(
        "pretrain.dictionary.num_keys", keys, f"a key for {KEYS} images or more, so that keys are of other images"
    )


def _of_steps(candidate: Candidate, steps: int) -> Iterator[Choice]:
    if candidate.preset == "v2" and steps < SLOW_MOMENTUM:
        yield Choice("pretrain.dictionary.momentum", 0.99, f"0.999 is for longer runs than {steps} steps")


def _notes(images: int, epochs: int, found: Looked) -> Iterator[str]:
    if epochs < FEWEST_EPOCHS:
        yield f"{epochs} epochs are few: give more --hours, or a GPU"
    if images < FEW:
        yield (
            f"{images} images are few: weights that were trained on more help most here, where the network allows them:"
            " pretrain.encoder {kind: timm, name: resnet18}, pretrain.init {kind: published}"
        )
    if not set(found.labels) - {""}:
        yield "without labels nothing measures accuracy: judge by the report's neighbors, map and spread"


def _section(preset: str, choices: list[Choice]) -> dict[str, Any]:
    section: dict[str, Any] = copy.deepcopy(read_yaml(FOLDER / f"{preset}.yaml")["pretrain"])
    for key, value, _ in choices:
        first, *names = key.split(".")
        if first == "pretrain":
            place = section
            for name in names[:-1]:
                place = place[name]
            place[names[-1]] = value
    return section


def _value(preset: str, choices: list[Choice], name: str) -> Any:
    return _section(preset, choices)[name]
