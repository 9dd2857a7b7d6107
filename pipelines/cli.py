"""The command `moco`. Parts import what they need as they run, so `moco --help` is immediate."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from moco import presets
from moco.config import Params, load_params
from moco.encoders.architectures import ARCHITECTURES
from moco.encoders.export import TARGETS
from moco.errors import MocoError
from pipelines import stage

PAGE = """\
Pretrain an image encoder by Momentum Contrast, without labels, and see what it learned.

stages, in the order of dvc.yaml (`dvc repro` runs what is out of date):
{stages}

on other machines:
  launch       print the line that starts a run there (torchrun), or a Kubernetes manifest

with a trained encoder:
  embed        features of images, to Parquet, NumPy or CSV
  neighbors    the images of the data set that are most like a given one
  export       the encoder as other programs load it
  inspect      what a file of weights holds, whoever wrote it

settings and data:
  preset       write a published recipe into params.yaml
  start        fetch the registered model that pretraining is to begin with
  encoders     list the networks: ours, timm's or torchvision's
  verify       check the shards against their checksums
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
    options = parser().parse_args(arguments)
    with stage.errors_in_one_line():
        options.run(options)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    raw = argparse.RawDescriptionHelpFormatter
    stages = "\n".join(f"  {name:<12} {_first_line(field)}" for name, field in Params.model_fields.items())
    top = Parser(
        prog="moco",
        description=PAGE.format(stages=stages),
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
        command = add(name, run_stage, f"Stage {name}. {_first_line(section)}")
        stage.with_parameters(command)
        if name == "pretrain":
            command.add_argument(
                "--restart", action="store_true", help="train from the start; checkpoints are set aside"
            )

    stage.with_parameters(add("start", run_stage, "Fetch the registered model that pretrain.init names (data/start)."))

    command = add(
        "launch",
        launch,
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
        "embed", embed, "Features of images, wherever they are. What is no readable image is named and skipped."
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

    command = add("neighbors", neighbors, "The images of the data set whose features are most like an image's.")
    command.add_argument("image", type=Path, metavar="IMAGE")
    _encoder(command)
    command.add_argument("--shards", type=Path, default=stage.SHARDS, help=f"the shards (default: {stage.SHARDS})")
    command.add_argument("--split", choices=("train", "val", "test"), default="train", help="(default: train)")
    command.add_argument("--k", type=stage.whole(1), default=8, help="how many (default: 8)")
    command.add_argument(
        "--output", type=Path, default=Path("neighbors.png"), help="the picture (default: neighbors.png)"
    )

    command = add(
        "export",
        export,
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
        inspect,
        "What a file of weights holds: the program that wrote it, network, head, queue, what is not used and what its"
        " names cannot tell. Files of other programs are read without running anything in them.",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--stride", type=stage.whole(1, 8), help="of the first convolution, where you know better")
    command.add_argument("--padding", type=stage.whole(0, 9), help="of the first convolution, likewise")
    command.add_argument(
        "--pool", action=argparse.BooleanOptionalAction, help="whether max-pooling follows it, likewise"
    )

    command = add("preset", preset, "Write every value of a recipe into the pretrain section of params.yaml.")
    command.add_argument("name", choices=presets.NAMES, help="the demo, CIFAR, or the recipes of the two papers")
    command.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")

    command = add("encoders", encoders, "The networks that pretrain.encoder can name.")
    command.add_argument(
        "kind", nargs="?", choices=("resnet", "timm", "torchvision"), default="resnet", help="(default: resnet)"
    )

    command = add("verify", verify, "Recompute the checksums and counts of a set of shards.")
    command.add_argument("folder", type=Path, nargs="?", default=stage.SHARDS, help=f"(default: {stage.SHARDS})")
    return top


def run_stage(options: argparse.Namespace) -> None:
    """Do the same as `python -m pipelines.STAGE`."""
    params = load_params(options.params, options.set)
    extra = {"restart": options.restart} if options.command == "pretrain" else {}
    getattr(import_module(f"pipelines.{options.command}"), options.command)(params, **extra)


def launch(options: argparse.Namespace) -> None:
    """Print the line or the manifest; stdout holds nothing else."""
    from moco.cluster.kubernetes import train_job
    from moco.runs.job import Job, write_job
    from moco.training.setup import check
    from pipelines.pretrain import run_of

    run = run_of(load_params(options.params, options.set))
    machine, folder = run.machine, run.folder
    write_job(folder, Job(run.settings, str(stage.SHARDS)))
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())  # other hosts may have the project elsewhere
    if options.render == "kubernetes":
        if machine.kubernetes is None:
            raise MocoError(
                "machine.yaml: has no section kubernetes (image, volume_claim, …); docs/kubernetes.md shows one"
            )
        processes = machine.kubernetes.gpus_per_node or machine.processes or 1
        check(run.settings, len(run.images), machine.kubernetes.nodes * processes)
        print(train_job(machine.kubernetes, folder.name, str(folder), processes), end="")
        return
    line = machine.launcher.line(folder, run.processes_per_host)
    hosts = "on this host" if machine.launcher.hosts() == (1, 1) else "on every host"
    print(f"{hosts}, in the project's folder:", file=sys.stderr)
    print(line)


def embed(options: argparse.Namespace) -> None:
    """Features of images."""
    from moco.cluster.machine import load_machine
    from moco.devices import compute_devices
    from moco.encoders.frozen import load_encoder
    from moco.evaluation.embed import check_output, embed_into
    from moco.evaluation.embed_pieces import Pieces, Share, embed_pieces
    from moco.evaluation.inputs import Skips, find_images
    from moco.files import hash_of_files

    share = Share.of(os.environ)
    if not options.pieces and share.world_size > 1:
        raise MocoError(
            f"{options.output}: {share.world_size} processes cannot write one file; add --pieces, and name a folder"
        )
    samples = Skips()
    images = find_images(options.images, samples)  # what is not there is told before the encoder is read
    encoder = load_encoder(options.encoder, share.devices(compute_devices(load_machine().device)))
    numbers = f"{encoder.spec.feature_dim} numbers each"
    if options.pieces:
        pieces = Pieces(options.output, options.pieces)
        pieces.prepare(options.images)
        folder = options.encoder if options.encoder.is_dir() else options.encoder.parent
        files = (folder / "encoder.json", folder / "encoder.safetensors")
        made_by = hash_of_files(files if folder == options.encoder else [options.encoder], folder)
        made, count = embed_pieces(encoder, made_by, images, pieces, share)
        written, bad = count.images, count.skips.count
        said = f"{pieces.there()} of {pieces.count} pieces are there, {made} made now: {written} images"
    else:
        check_output(options.output, options.images)
        written, bad = embed_into(encoder, images, options.output)
        said = f"{written} images"
    bad += samples.count
    print(f"{options.output}: {said}, {numbers}" + f", {bad} skipped" * (bad > 0), flush=True)


def neighbors(options: argparse.Namespace) -> None:
    """Print and draw the nearest images."""
    from moco.cluster.machine import load_machine
    from moco.devices import compute_devices
    from moco.evaluation.search import most_similar, read_file
    from moco.files import whole_file
    from moco.images.index import open_split
    from moco.report.pictures import Shown
    from moco.report.pictures import neighbors as draw

    image = read_file(options.image)
    if options.output.suffix != ".png" or not options.output.parent.is_dir():
        raise MocoError(f"{options.output}: cannot be written; name a .png in an existing folder")
    split, kept = open_split(options.shards, options.split), stage.runs_folder() / "features"
    machine = load_machine()
    devices = compute_devices(machine.device)
    found = most_similar(image, split, options.encoder, options.k, devices, kept, machine.workers())
    for one in found:
        print(f"{one.key}  {one.similarity:.4f}  {one.label}".rstrip())
    shown = [Shown(one.pixels, one.label or one.key, one.similarity) for one in found]
    with whole_file(options.output) as part:
        draw(part, [(Shown(image, options.image.name), shown)], "query", f"nearest images of {options.split}")
    print(f"{options.output}: the picture")


def export(options: argparse.Namespace) -> None:
    """Write the encoder in another program's form."""
    from moco.encoders.export.run import export as write
    from moco.encoders.export.source import read_source
    from moco.tracking.registry import CHAMPION, champion_folder

    with champion_folder() if options.source == CHAMPION else nullcontext(Path(options.source)) as source:
        print("\n".join(write(options.to, read_source(source), options.output)), flush=True)


def inspect(options: argparse.Namespace) -> None:
    """Describe a file of weights."""
    from moco.encoders.files.describe import described, with_stem
    from moco.encoders.files.reading import read

    found = read(options.file)
    stem = with_stem(found, options.stride, options.padding, options.pool)
    print("\n".join(described(found if stem is None else read(options.file, stem))))


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


def _encoder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--encoder",
        type=Path,
        default=stage.ENCODER,
        metavar="FOLDER",
        help=f"the encoder's folder, or its encoder.safetensors alone (default: {stage.ENCODER})",
    )


def _first_line(section: Any) -> str:
    """Say what a section of params.yaml is about, which is what its stage does."""
    return str(section.annotation.__doc__).splitlines()[0]
