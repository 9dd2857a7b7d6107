"""The command `moco`: its commands and their options. What they do is in pipelines/commands."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from moco import presets
from moco.config import Params
from moco.encoders.export import TARGETS
from moco.progress import print_any_text
from pipelines import stage
from pipelines.commands import encoders, explore, project, prune, settings, stages, up, versions

PAGE = """\
Pretrain an image encoder by Momentum Contrast, without labels, and see what it learned.

stages, in the order of dvc.yaml (`dvc repro` runs what is out of date):
{stages}

for a team, or a night:
  up           bring up the servers of Prefect and MLflow and a worker, until Ctrl-C

on other machines:
  launch       print the line that starts a run there (torchrun), or a Kubernetes manifest

with a trained encoder:
  embed        features of images, to Parquet, NumPy or CSV
  neighbors    the images of the data set that are most like a given one
  duplicates   the images of the data set that are there twice, exactly or nearly
  explore      a page of images by their features, to look at, search and choose from
  export       the encoder as other programs load it
  inspect      what a file of weights holds, whoever wrote it

settings and data:
  preset       write a published recipe into params.yaml
  start        fetch the registered model that pretraining is to begin with
  encoders     list the networks: ours, timm's or torchvision's
  ingest       take new images in: a listing and shards of their own
  forget       delete images, and say what still holds or has seen them
  look         what a folder of images holds, as the stages will take it
  suggest      write values into params.yaml that fit some images and this machine
  plan         what `dvc repro` would run, why, and about how long it takes
  status       what works here now, how far it is, and what it shows so far
  verify       check the shards against their checksums
  doctor       what will not work on this machine or in this folder, and what to do
  versions     the versions of data and encoder, and what differs between two
  prune        what takes room on this disk, and what of it may go
"""

EXAMPLES = """\
examples:
  moco preset v2                          ResNet-50, 224 pixels, 200 epochs
  moco pretrain --set pretrain.epochs=3   this once; params.yaml stays as it is
  moco embed photos --output photos.npy
  moco neighbors photos/cat.jpg --k 12
  moco export --to onnx encoder.onnx

`moco COMMAND --help` says more.
Exit codes: 0 done, 1 an error, 2 wrong usage, 130 stopped (the same command resumes).
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; every foreseeable error is one line and an exit code that is not 0."""
    print_any_text()
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["up"]:
        up.up(given[1:])
    options = parser().parse_args(given)
    with stage.errors_in_one_line():
        options.run(options)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    raw = argparse.RawDescriptionHelpFormatter
    listed = "\n".join(f"  {name:<12} {_first_line(field)}" for name, field in Params.model_fields.items())
    top = Parser(
        prog="moco",
        description=PAGE.format(stages=listed),
        epilog=EXAMPLES,
        formatter_class=raw,
        usage="moco COMMAND [OPTION…]",
    )
    commands = top.add_subparsers(dest="command", prog="moco", metavar="COMMAND", required=True, help=argparse.SUPPRESS)

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, description=text)
        command.set_defaults(run=run)
        return command

    for name, section in Params.model_fields.items():
        command = add(name, stages.run_stage, f"Stage {name}. {_first_line(section)}")
        stage.with_parameters(command)
        if name == "fetch":
            command.add_argument(
                "--begin-again",
                action="store_true",
                help="the set is what fetch.path has now, without what was ingested; what was forgotten stays out",
            )
        if name == "pretrain":
            command.add_argument(
                "--restart", action="store_true", help="train from the start; checkpoints are set aside"
            )

    command = add("start", stages.run_stage, "Fetch the registered model that pretrain.init names (data/start).")
    stage.with_parameters(command)
    command.add_argument("--as-in", metavar="VERSION", help="what the run of that version began with, to run it again")

    command = add(
        "ingest",
        stages.run_stage,
        "Take new images in, as a listing and shards of their own, into DVC's cache and the default remote."
        " What is in the set already is left out.",
    )
    stage.with_parameters(command)
    command.add_argument("paths", nargs="+", metavar="PATH", help="a folder of images, a list (CSV, Parquet), or a tar")
    command.add_argument(
        "--announce",
        action=argparse.BooleanOptionalAction,
        help="emit the event moco.data.ingested (default: where PREFECT_API_URL is set)",
    )

    command = add(
        "forget",
        stages.run_stage,
        "Delete images on request: their shards are written again without them, and their content never comes in again.",
    )
    stage.with_parameters(command)
    command.add_argument(
        "names", nargs="+", metavar="KEY", help="key, SHA-256 or path of an image, or a file with one of these a line"
    )
    command.add_argument(
        "--purge", action="store_true", help="delete the tars of earlier versions too, from the cache and the remote"
    )

    command = add(
        "launch",
        stages.launch,
        "Print what starts the processes of `moco pretrain` by other means. The stage itself needs no such line:"
        " it follows `launcher` in machine.yaml.",
    )
    stage.with_parameters(command)
    command.add_argument(
        "--render",
        choices=("torchrun", "kubernetes"),
        default="torchrun",
        help="torchrun: the shell line for each host. kubernetes: a TrainJob. (default: torchrun)",
    )

    command = add(
        "embed",
        encoders.embed,
        "Features of images, wherever they are. What is no readable image is named and skipped.",
    )
    command.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGES",
        help="folders, image files, lists (.txt with a path on each line; .csv with a column path) and WebDataset tars",
    )
    _encoder(command)
    command.add_argument(
        "--output",
        type=Path,
        default=Path("features.parquet"),
        help="FILE.parquet, FILE.csv, or FILE.npy with the paths in FILE.txt; with --pieces a folder (default:"
        " features.parquet)",
    )
    command.add_argument(
        "--pieces",
        type=stage.whole(1, 99999),
        metavar="NUMBER",
        help="write this many Parquet files into a folder; those that are there already are kept, and the processes of"
        " torchrun or srun share them",
    )

    command = add(
        "neighbors", encoders.neighbors, "The images of the data set whose features are most like an image's."
    )
    command.add_argument("image", type=Path, metavar="IMAGE")
    _encoder(command)
    command.add_argument("--shards", type=Path, default=stage.SHARDS, help=f"the shards (default: {stage.SHARDS})")
    command.add_argument("--split", choices=("train", "val", "test"), default="train", help="(default: train)")
    command.add_argument("--k", type=stage.whole(1), default=8, help="how many (default: 8)")
    command.add_argument(
        "--output", type=Path, default=Path("neighbors.png"), help="the picture (default: neighbors.png)"
    )

    command = add(
        "duplicates",
        encoders.duplicates,
        "Images of the shards that are there twice, exactly or nearly, as a list and a picture that shows whether the"
        " threshold is right.",
    )
    command.add_argument("--shards", type=Path, default=stage.SHARDS, help=f"the shards (default: {stage.SHARDS})")
    command.add_argument(
        "--encoder",
        type=Path,
        help=f"whose features decide: a folder, or a file that `moco inspect` reads (default: {stage.ENCODER} if it is there,"
        " else the correlation of small copies)",
    )
    command.add_argument(
        "--threshold", type=_share(0.5), default=0.99, help="likeness from which on a pair counts (default: 0.99)"
    )
    command.add_argument(
        "--distance", type=stage.whole(0, 7), default=4, help="bits of 64 in which hashes may differ (default: 4)"
    )
    command.add_argument("--mirrored", action="store_true", help="mirror images count too")
    command.add_argument(
        "--output",
        type=Path,
        default=Path("duplicates.csv"),
        help="the pairs; a .png is beside it (default: duplicates.csv)",
    )
    command.add_argument(
        "--groups", type=Path, metavar="FILE.csv", help="also write key and group of each image with a twin"
    )
    command.add_argument(
        "--leave-out",
        action="store_true",
        help="take images that have a twin in a later split (train, val, test) out of the set; left_out.csv names both",
    )

    command = add(
        "explore",
        explore.explore,
        "One page that shows images by their features: neighbors, clusters, outliers, near-duplicates, what to label first,"
        " and lists of what you choose. Opens in a browser, without a network.",
    )
    command.add_argument(
        "images",
        type=Path,
        nargs="*",
        metavar="IMAGES",
        help="what `moco embed` takes, or one table that it wrote (default: the shards of the project)",
    )
    _encoder(command)
    command.add_argument("--shards", type=Path, default=stage.SHARDS, help=f"the shards (default: {stage.SHARDS})")
    command.add_argument(
        "--paths-from",
        type=Path,
        metavar="FOLDER",
        help="where the paths of a table begin (default: the table's folder)",
    )
    command.add_argument(
        "--most",
        type=stage.whole(16, 65535),
        default=50000,
        help="images, a seeded sample if there are more (default: 50000)",
    )
    command.add_argument(
        "--megabytes", type=stage.whole(1), default=5, help="size of the page; more has more thumbnails (default: 5)"
    )
    command.add_argument("--output", type=Path, default=Path("explore.html"), help="the page (default: explore.html)")

    command = add(
        "export",
        encoders.export,
        "An encoder as other programs load it. What is written is loaded back, and its features are compared, before"
        " the file takes its name.",
    )
    command.add_argument("output", type=Path, metavar="OUTPUT", help="a file; for hub a folder")
    command.add_argument(
        "--to",
        required=True,
        choices=tuple(TARGETS),
        help="; ".join(f"{name}: {text}" for name, text in TARGETS.items()),
    )
    command.add_argument(
        "--from",
        dest="source",
        default=str(stage.ENCODER),
        metavar="SOURCE",
        help="an encoder's folder, a step-*.pt of runs/pretrain-*, or champion: the best registered encoder"
        f" (default: {stage.ENCODER})",
    )

    command = add(
        "inspect",
        encoders.inspect,
        "What a file of weights holds: the program that wrote it, network, head, queue, what is not used and what its"
        " names cannot tell. Files of other programs are read without running anything in them.",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--stride", type=stage.whole(1, 8), help="of the first convolution, where you know better")
    command.add_argument("--padding", type=stage.whole(0, 9), help="of the first convolution, likewise")
    command.add_argument(
        "--pool", action=argparse.BooleanOptionalAction, help="whether max-pooling follows it, likewise"
    )

    command = add("preset", settings.preset, "Write every value of a recipe into the pretrain section of params.yaml.")
    command.add_argument("name", choices=presets.NAMES, help="the demo, CIFAR, or the recipes of the two papers")
    command.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")

    command = add("encoders", settings.encoders, "The networks that pretrain.encoder can name.")
    command.add_argument(
        "kind", nargs="?", choices=("resnet", "timm", "torchvision"), default="resnet", help="(default: resnet)"
    )

    command = add(
        "look",
        settings.look,
        "What a folder of images holds: layout, splits, classes, sizes, formats, copies, and what cannot be read or is"
        " left out. Takes seconds, and changes nothing.",
    )
    _images(command)

    command = add(
        "suggest",
        settings.suggest,
        "Look at images, measure this machine for a minute, and write values that fit both into params.yaml, each with"
        " its reason.",
    )
    _images(command)
    command.add_argument("--hours", type=_hours, default=1.0, help="that pretraining may take (default: 1)")
    command.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    command.add_argument("--dry-run", action="store_true", help="write nothing")

    add("plan", project.plan, "What `dvc repro` would run here, why, and how long it took the last time.")
    add("status", project.status, "Which stages work now, how far training is, and what it shows so far.")

    command = add("verify", settings.verify, "Recompute the checksums and counts of a set of shards.")
    command.add_argument("folder", type=Path, nargs="?", default=stage.SHARDS, help=f"(default: {stage.SHARDS})")

    command = add("versions", versions.versions, "The versions of data and encoder, or what differs between two.")
    command.add_argument(
        "names", nargs="*", metavar="VERSION", help="two: what differs; one: from it to the newest; none: list them"
    )

    command = add(
        "prune",
        prune.prune,
        "What takes room on this disk, what may go, and what stays and why. Removes nothing by itself.",
    )
    command.add_argument("--yes", action="store_true", help="remove what may go")

    add("up", lambda _: up.up([]), up.__doc__ or "")  # `main` hands its options on

    add(
        "doctor",
        settings.doctor,
        "What will not work on this machine or in this folder, and what to do; nothing is changed.",
    )
    return top


def _encoder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--encoder",
        type=Path,
        default=stage.ENCODER,
        help=f"an encoder's folder, or any file of weights that `moco inspect` reads (default: {stage.ENCODER})",
    )
    known = command.add_argument_group("what a file of others does not say, where you know it")
    known.add_argument("--network", metavar="LABEL", help="timm:NAME, torchvision:NAME or module:FILE:FUNCTION")
    known.add_argument("--stem", help="of a ResNet: small, small-stride2, or as 3x3-stride1-padding2-nopool")
    known.add_argument("--image-size", type=stage.whole(8), help="pixels of the images it was trained on (else 224)")
    known.add_argument("--crop-ratio", type=_share(0.05), help="of the short side, for the center view (else 0.875)")
    for what, least in (("mean", 0), ("std", 0.001)):
        known.add_argument(
            f"--{what}",
            type=_share(least),
            nargs=3,
            metavar=("R", "G", "B"),
            help="of values from 0 to 1 (else ImageNet's)",
        )


def _images(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", type=Path, metavar="PATH", help="a folder, a list (CSV, Parquet), or WebDataset tars")
    command.add_argument(
        "--labels",
        choices=("folders", "none"),
        default="folders",
        help="whether folders name classes (default: folders)",
    )


def _hours(text: str) -> float:
    """Type of an argument: a time of use."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.01 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours from 0.01 to 10000")
    return value


def _share(least: float) -> Callable[[str], float]:
    """Make the type of an argument: a number from `least` to 1."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= 1:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to 1")
        return value

    return read


def _first_line(section: Any) -> str:
    """Say what a section of params.yaml is about, which is what its stage does."""
    return str(section.annotation.__doc__).splitlines()[0]
