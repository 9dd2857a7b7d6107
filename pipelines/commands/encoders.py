"""What is done with a trained encoder."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from moco.encoders.stem import stem_of
from moco.errors import MocoError
from pipelines import stage

if TYPE_CHECKING:
    import torch

    from moco.encoders.anyones import Stated
    from moco.encoders.frozen import FrozenEncoder


def embed(options: argparse.Namespace) -> None:
    """Features of images."""
    from moco.cluster.machine import load_machine
    from moco.devices import compute_devices
    from moco.evaluation.embed import check_output, embed_into
    from moco.evaluation.embed_pieces import Anywhere, Pieces, Share, embed_elsewhere, embed_pieces
    from moco.evaluation.inputs import Skips, find_images

    share, machine = Share.of(os.environ), load_machine()
    # Those that torchrun or srun started share the pieces among themselves.
    engine = machine.elsewhere if options.pieces and share.world_size == 1 else None
    if not options.pieces and share.world_size > 1:
        raise MocoError(
            f"{options.output}: {share.world_size} processes (WORLD_SIZE or SLURM_NTASKS) cannot write one file; add --pieces, and"
            " name a folder"
        )
    samples = Skips()
    images = find_images(options.images, samples)  # what is not there is told before the encoder is read
    encoder, made_by = frozen(options, [] if engine else share.devices(compute_devices(machine.device)))
    numbers = f"{encoder.spec.feature_dim} numbers each"
    if options.pieces:
        pieces = Pieces(options.output, options.pieces)
        pieces.prepare(options.images)
        if engine:
            work = Anywhere(options.encoder, _stated(options), machine.device, pieces)
            made, written, bad = embed_elsewhere(engine, stage.runs_folder(), work, made_by, images)
        else:
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
    from moco.text import one_line

    image = read_file(options.image)
    if options.output.suffix != ".png" or not options.output.parent.is_dir():
        raise MocoError(f"{options.output}: cannot be written; name a .png in an existing folder")
    split, kept = open_split(options.shards, options.split), stage.runs_folder() / "features"
    machine = load_machine()
    encoder, name = frozen(options, compute_devices(machine.device))
    found = most_similar(image, split, encoder, name, options.k, kept, machine.workers())
    for one in found:
        print(f"{one_line(one.key, 500)}  {one.similarity:.4f}  {one_line(one.label)}".rstrip())
    shown = [Shown(one.pixels, one.label or one.key, one.similarity) for one in found]
    with whole_file(options.output) as part:
        draw(part, [(Shown(image, options.image.name), shown)], "query", f"nearest images of {options.split}")
    print(f"{options.output}: the picture")


def duplicates(options: argparse.Namespace) -> None:
    """List what is there twice."""
    from pipelines.duplicates import Asked
    from pipelines.duplicates import duplicates as run

    names = ("shards", "encoder", "threshold", "distance", "mirrored", "output", "groups", "leave_out")
    run(Asked(**{name: getattr(options, name) for name in names}))


def export(options: argparse.Namespace) -> None:
    """Write the encoder in another program's form."""
    from moco.encoders.export.run import export as write
    from moco.encoders.export.source import read_source
    from moco.tracking.champion import CHAMPION, champion_folder

    with champion_folder() if options.source == CHAMPION else nullcontext(Path(options.source)) as source:
        print("\n".join(write(options.to, read_source(source), options.output)), flush=True)


def inspect(options: argparse.Namespace) -> None:
    """Describe a file of weights."""
    from moco.encoders.files.describe import described, with_stem
    from moco.encoders.files.reading import read

    found = read(options.file)
    stem = with_stem(found, options.stride, options.padding, options.pool)
    print("\n".join(described(found if stem is None else read(options.file, stem))))


def frozen(options: argparse.Namespace, devices: "Sequence[torch.device]") -> "tuple[FrozenEncoder, str]":
    """Read the encoder that --encoder names, say what a file does not, and name it by its files."""
    from moco.config import settings_hash
    from moco.encoders.anyones import encoder_of
    from moco.files import hash_of_files

    path = options.encoder
    encoder, about = encoder_of(path, _stated(options), devices)
    if not about:
        return encoder, hash_of_files([path / "encoder.json", path / "encoder.safetensors"], path)
    print(f"{path}: {about}", file=sys.stderr, flush=True)
    return encoder, settings_hash(hash_of_files([path], path.parent), encoder.spec.values())


def _stated(options: argparse.Namespace) -> "Stated":
    """Read what a person says of the file that --encoder names."""
    from moco.encoders.anyones import Stated
    from moco.encoders.kinds import network_of

    mean, std = options.mean, options.std
    return Stated(
        network=options.network and network_of(options.network, options.stem or "imagenet"),
        stem=options.stem and str(stem_of(options.stem)),
        image_size=options.image_size,
        crop_ratio=options.crop_ratio,
        mean=mean and tuple(mean),
        std=std and tuple(std),
    )
