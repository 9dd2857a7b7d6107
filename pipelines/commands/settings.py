"""What is done with settings, data and the machine."""

import argparse

from moco import presets
from moco.encoders.architectures import ARCHITECTURES
from moco.errors import MocoError


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


def doctor(options: argparse.Namespace) -> None:
    """Examine machine, folder and settings."""
    from moco.advice.doctor import examine

    found = examine()
    print("\n".join(map(str, found)), flush=True)
    if problems := sum(finding.kind == "problem" for finding in found):
        raise MocoError(f"{problems} problem(s), listed last above; each line says what to do")
