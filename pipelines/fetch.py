"""Stage fetch: a source of images becomes data/raw, a manifest of every image: its label, split and hash."""

import errno
import shutil

from moco import tracking
from moco.config import Fetch, Params
from moco.errors import MocoError
from moco.files import move_folder, readable, require_free
from moco.sources.hashing import stream
from moco.sources.manifest import Manifest, write_manifest
from moco.sources.open import open_source
from moco.sources.source import Files
from pipelines import stage


def fetch(params: Params) -> None:
    """Run the stage: data/raw, outputs/fetch/metrics.json and a short summary."""
    with tracking.stage_run("fetch", params.fetch.model_dump()) as tracked:
        manifest = _fetch(params.fetch)
        stage.write_json(stage.outputs("fetch") / "metrics.json", metrics(manifest))
        tracked.results(metrics(manifest))
    print(summary(manifest))


def _fetch(settings: Fetch) -> Manifest:
    source = open_source(settings)
    partial = stage.RAW.with_name(stage.RAW.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if isinstance(source, Files):
            require_free(partial, 1000 * sum(1 for _ in source.walk()), "writing the manifest")
        manifest = write_manifest(stream(source, partial), partial, settings, source.root, source.classes)
        move_folder(partial, stage.RAW)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MocoError(f"{partial}: the disk is full; free some space and run fetch again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def metrics(manifest: Manifest) -> dict[str, object]:
    """The tracked figures."""
    return {
        "images": manifest.images,
        **manifest.splits,
        "other_files": manifest.other_files,
        "classes": len(manifest.classes),
        "duplicates": manifest.duplicates,
        "duplicates_of_test": manifest.duplicates_of_test,
    }


def summary(manifest: Manifest) -> str:
    """What a person wants to know first."""
    sides = ", ".join(
        f"{split} {count['images']}"
        + ("" if count["labelled"] == count["images"] else f" ({count['labelled']} labelled)")
        for split, count in manifest.splits.items()
    )
    classes = "1 class" if len(manifest.classes) == 1 else f"{len(manifest.classes) or 'no'} classes"
    lines = [f"{manifest.images} images ({readable(manifest.bytes)}), {classes}: {sides}"]
    if manifest.other_files:
        lines.append(f"{manifest.other_files} other files, which sharding will try and list")
    if manifest.duplicates:
        lines.append(f"{manifest.duplicates} exact duplicates, each on the side of its twin")
    if manifest.duplicates_of_test:
        lines.append(f"{manifest.duplicates_of_test} training images left out: they are in the test set too")
    return "\n".join(lines)


if __name__ == "__main__":
    stage.main(fetch, __doc__)
