"""What is done with settings, data and the machine."""

import argparse

from moco import presets
from moco.encoders.architectures import ARCHITECTURES
from moco.errors import MocoError
from moco.yaml_files import read_yaml


def preset(options: argparse.Namespace) -> None:
    """Write a recipe."""
    changes = presets.apply(options.name, options.params)
    print("\n".join(changes) if changes else f"{options.params}: holds the values of {options.name} already")


def encoders(options: argparse.Namespace) -> None:
    """List the networks of one kind."""
    if options.kind != "resnet":
        from moco.encoders.others import names

        print("\n".join(names(options.kind)))
        return
    from moco.encoders.build import size_of

    for name in ARCHITECTURES:
        weights, features = size_of(name)
        print(f"{name:<16} {features:>5} features  {weights / 1e6:>6.1f} M weights")


def verify(options: argparse.Namespace) -> None:
    """Check the shards."""
    from moco.shards.index import verify as problems_of

    problems = problems_of(options.folder)
    for problem in problems:
        print(problem)
    if problems:
        raise MocoError(
            f"{options.folder}: {len(problems)} problem(s), listed above; `dvc checkout` or `dvc repro -f shard` restores it"
        )
    print(f"{options.folder}: every checksum and count is right")


def look(options: argparse.Namespace) -> None:
    """Look at images before anything is made of them."""
    from moco.advice.look import lines, look

    print("\n".join(lines(look(options.path, options.labels))))


def suggest(options: argparse.Namespace) -> None:
    """Choose values for images and machine, and write them."""
    from functools import partial

    from moco.advice.look import lines, look
    from moco.advice.rate import images_a_second
    from moco.advice.suggest import suggest as choose
    from moco.cluster.machine import load_machine
    from moco.devices import compute_devices, describe, gpus

    found = look(options.path, options.labels)
    print("\n".join(lines(found)), flush=True)
    if not options.dry_run:
        presets.write({}, options.params)  # whether it can be written is known before anything is measured
    device = load_machine().device
    rate, where = partial(images_a_second, device=device), describe(compute_devices(device)[0])
    made = choose(found, gpus(device) > 0, options.hours, rate, where)
    print(f"\nsuggestion: the values of the preset {made.preset}, except")
    print("\n".join(f"  {key} = {value}: {why}" for key, value, why in made.choices))
    print("\n".join(["", *(f"note: {note}" for note in made.notes)]).rstrip())
    print(f"pretraining takes about {made.seconds / 60:.0f} minutes where nothing else runs")
    if options.dry_run:
        return
    sections = made.sections()
    there = read_yaml(options.params).get("fetch") or {}
    presets.write(sections | {"fetch": there | sections["fetch"]}, options.params)  # at once: both or neither
    print(f"written into {options.params}")


def doctor(options: argparse.Namespace) -> None:
    """Examine machine, folder and settings."""
    from moco.advice.doctor import examine

    found = examine()
    print("\n".join(map(str, found)), flush=True)
    if problems := sum(finding.kind == "problem" for finding in found):
        raise MocoError(f"{problems} problem(s), listed last above; each line says what to do")
