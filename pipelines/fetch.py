"""Stage fetch: a source of images becomes data/raw, a manifest with label, split and hash.

Images that arrived since the last time make a new listing, and unchanged files are not read again.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moco import notices, tracking
from moco.cluster.machine import load_machine
from moco.config import Fetch, Params, settings_hash
from moco.files import file_sha256, hash_of_files, read_note, readable, write_json
from moco.sources import __file__ as sources
from moco.sources.grow import SPLIT_BY
from moco.sources.manifest import LEFT_OUT, MANIFEST, Manifest, OldFormatError, read_manifest, stays
from moco.sources.marks import look
from moco.sources.open import open_source
from moco.sources.source import Arrays, Files
from moco.sources.take_in import take_in
from moco.sources.tree import walk_tree
from moco.text import printable
from pipelines import stage
from pipelines.cache import restore

ROOM = Path(sources).parent
NOTHING_NEW = "nothing new"
"""Said where the source is as it was."""
NAMED = 10
"""Classes that the summary names."""


def fetch(params: Params, begin_again: bool = False) -> None:
    """Run the stage: data/raw, outputs/fetch/metrics.json and a short summary.

    Args:
        params: of it.
        begin_again: whether the set is what the source has now and nothing else; what was forgotten
            on request stays out.
    """
    with stage.alone("fetch"):
        restore(stage.RAW, whether_or_not=begin_again)
        if begin_again and not stage.RAW.exists() and tracking.dvc_digest(str(stage.RAW)):
            print(
                f"{stage.RAW} is neither here nor in the cache: images that were forgotten on request may come in again"
            )
        manifest = before = None if begin_again else earlier(stage.RAW, again=True)
        if said := _why_nothing_is_new(params.fetch, before):
            lines = [said]
        else:
            stage.check_pretraining(params.pretrain)
            stage.note("fetch", notices.of_params(params))
            with tracking.stage_run("fetch", params.fetch.model_dump()) as tracked:
                manifest, lines = _fetch(params.fetch, before)
                tracked.results(metrics(manifest))
        assert manifest is not None
        write_json(stage.outputs("fetch") / "metrics.json", metrics(manifest))
    print(summary(manifest))
    for line in lines:
        print(line)


def _why_nothing_is_new(settings: Fetch, before: Manifest | None) -> str:
    """Say why the manifest stays as it is; empty: it may not."""
    if before is None:
        return ""
    if not any(listing.followed for listing in before.listings) and _taken_in(settings, before):
        return f"{settings.path} holds no files; the images that were taken in stay"
    if before.fetch != settings.model_dump():
        return ""
    if settings.source != "fashion-mnist" and not Path(settings.path).exists():
        return f"{settings.path} is not here; the images of {stage.RAW} stay"
    return NOTHING_NEW if read_note(_note(settings)) == _state(_look(open_source(settings), settings)) else ""


def _taken_in(settings: Fetch, before: Manifest) -> bool:
    """Whether all images came by `moco ingest`, split as now, and the source has none."""
    path = Path(settings.path)
    empty = not path.exists() or (path.is_dir() and next(walk_tree(path), None) is None)
    same = all(before.fetch[name] == getattr(settings, name) for name in SPLIT_BY)
    return settings.source != "fashion-mnist" and empty and same


def _fetch(settings: Fetch, before: Manifest | None) -> tuple[Manifest, list[str]]:
    """Bring the manifest up to date with the source; also give what there is to say."""
    source = open_source(settings)
    if before and before.fetch != settings.model_dump() and not stays(stage.RAW, before):
        before = None  # nothing of a set that other settings found stays
    seen = _look(source, settings)  # before: what arrives meanwhile is new the next time
    marks = _note(settings).with_suffix(".sqlite")
    manifest = take_in(source, settings, stage.RAW, before, marks, engine=load_machine().elsewhere)
    write_json(_note(settings), _state(seen))
    if not isinstance(source, Files):
        return manifest, []
    left_out = [f"left out what systems put there: {source.left_out}"] if source.left_out else []
    return manifest, source.notes + left_out


def _note(settings: Fetch) -> Path:
    """Give the file of what was seen, which worktrees share with the project."""
    return stage.runs_folder() / f"fetch-{settings_hash(settings.model_dump())}.json"


def _look(source: Files | Arrays, settings: Fetch) -> str | None:
    return look(source, json.dumps([settings.model_dump(), hash_of_files([ROOM], ROOM)]))


def _state(seen: str | None) -> dict[str, object]:
    """Name the states of source and manifest; where marks do not tell, never twice the same."""
    return {"source": seen or uuid.uuid4().hex, "manifest": file_sha256(stage.RAW / MANIFEST)}


@contextmanager
def beside_the_source(settings: Fetch) -> Iterator[None]:
    """Keep what is known of the source while something else changes the manifest."""
    known = read_note(_note(settings))
    same = (stage.RAW / MANIFEST).exists() and known.get("manifest") == file_sha256(stage.RAW / MANIFEST)
    yield
    if same:
        write_json(_note(settings), {**known, "manifest": file_sha256(stage.RAW / MANIFEST)})


def earlier(raw: Path, again: bool = False) -> Manifest | None:
    """Read the manifest as it is; None: there is none that can be added to.

    Args:
        raw: its folder.
        again: whether one of an earlier version of this program is replaced.

    Raises:
        MocoError: it is damaged, or of an earlier version.
    """
    try:
        return read_manifest(raw) if (raw / MANIFEST).exists() else None
    except OldFormatError:
        if again:
            return None
        raise


def metrics(manifest: Manifest) -> dict[str, object]:
    """Compute the tracked figures."""
    return {
        "images": manifest.images,
        **manifest.splits,
        "other_files": manifest.other_files,
        "classes": len(manifest.classes),
        "duplicates": manifest.duplicates,
        "duplicates_of_test": manifest.duplicates_of_test,
        "followed": sum(listing.followed for listing in manifest.listings),
        "taken_in": sum(not listing.followed for listing in manifest.listings),
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
    if manifest.classes:
        more = f", and {len(manifest.classes) - NAMED} more" if len(manifest.classes) > NAMED else ""
        lines.append(f"classes: {printable(', '.join(manifest.classes[:NAMED]))}{more}")
    if manifest.other_files:
        lines.append(f"{manifest.other_files} other files, which sharding will try and list")
    if manifest.duplicates:
        lines.append(f"{manifest.duplicates} exact duplicates left out; {stage.RAW / LEFT_OUT} names their twins")
    if manifest.duplicates_of_test:
        lines.append(
            f"{manifest.duplicates_of_test} training images left out: they are in the validation or test set too"
        )
    if len(manifest.listings) > 1:
        lines.append(f"they came in {len(manifest.listings)} listings")
    return "\n".join(lines)


if __name__ == "__main__":
    stage.main(fetch, __doc__)
