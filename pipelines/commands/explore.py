"""The command `moco explore`: an encoder's features as one page to look at."""

import argparse

from moco.errors import MocoError
from moco.files import readable
from pipelines import stage
from pipelines.commands.encoders import frozen


def explore(options: argparse.Namespace) -> None:
    """Write the page of a shard set, of images, or of a table of features."""
    from moco.cluster.machine import load_machine
    from moco.devices import compute_devices
    from moco.evaluation.embed import check_output
    from moco.evaluation.inputs import Skips, find_images
    from moco.explore.images import Explored
    from moco.explore.of_files import is_table, of_images, of_table
    from moco.explore.of_shards import of_shards
    from moco.explore.page import write_page
    from moco.features.extract import Extractor, Features
    from moco.features.usable import OF_A_FILE, require_finite
    from moco.images.index import ShardSet
    from moco.permutation import Integers

    if options.output.suffix != ".html" or not options.output.parent.is_dir():
        raise MocoError(f"{options.output}: cannot be written; name a .html in an existing folder")
    machine = load_machine()
    devices = compute_devices(machine.device)

    def found() -> Explored:
        given = options.images
        if len(given) == 1 and is_table(given[0]):
            folder = options.paths_from or (given[0] if given[0].is_dir() else given[0].parent)
            return of_table(given[0], folder, options.most)
        if given:
            skipped = Skips()
            images = find_images(given, skipped)
            encoder, _ = frozen(options, devices)
            return of_images(" ".join(map(str, given)), images, encoder, skipped, options.most)
        encoder, name = frozen(options, devices)
        size, ratio, kept = encoder.spec.image_size, encoder.spec.eval_crop_ratio, stage.runs_folder() / "features"
        extractor = Extractor("explore", encoder.launch, name, size, ratio, machine.workers(), kept)

        def encode(split: ShardSet, rows: Integers) -> Features:
            features = extractor.center(split, rows)
            require_finite(features, name, OF_A_FILE)
            return features

        return of_shards(options.shards, stage.RAW, encode, options.most)

    check_output(options.output, options.images)
    images = found()
    made = write_page(options.output, images, megabytes=options.megabytes, device=devices[0])
    shown, size = sum(map(len, made.shown)), readable(options.output.stat().st_size)
    bad = f", {made.unread} could not be read" * (made.unread > 0)
    print(
        f"{options.output}: {len(images)} images, {shown} with a thumbnail{bad}, {size}; open it in a browser",
        flush=True,
    )
