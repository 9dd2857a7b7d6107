"""Stage fetch: a source of images becomes data/raw, a manifest with label, split and hash."""

from moco import tracking
from moco.config import Fetch, Params
from moco.files import readable, require_free, whole_folder, write_json
from moco.sources.hashing import stream
from moco.sources.manifest import Manifest, write_manifest
from moco.sources.open import open_source
from moco.sources.source import Files
from pipelines import stage


def fetch(params: Params) -> None:
    """Run the stage: data/raw, outputs/fetch/metrics.json and a short summary."""
    stage.check_encoder(params.pretrain)
    with tracking.stage_run("fetch", params.fetch.model_dump()) as tracked:
        manifest = _fetch(params.fetch)
        write_json(stage.outputs("fetch") / "metrics.json", metrics(manifest))
        tracked.results(metrics(manifest))
    print(summary(manifest))


def _fetch(settings: Fetch) -> Manifest:
    source = open_source(settings)
    with whole_folder(stage.RAW) as part:
        if isinstance(source, Files):
            require_free(part, 1000 * sum(1 for _ in source.walk()), "writing the manifest")
        return write_manifest(stream(source, part), part, settings, source.root, source.classes)


def metrics(manifest: Manifest) -> dict[str, object]:
    """Compute the tracked figures."""
    return {
        "images": manifest.images,
        **manifest.splits,
        "other_files": manifest.other_files,
        "classes": len(manifest.classes),
        "duplicates": manifest.duplicates,
        "duplicates_of_test": manifest.duplicates_of_test,
    }


def summary(manifest: Manifest) -> str:
    """Say what a person wants to know first."""
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
