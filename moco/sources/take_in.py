"""Take a source's images into the manifest."""

from contextlib import nullcontext
from pathlib import Path

from moco.cluster.pieces import Engine
from moco.config import Fetch
from moco.files import require_free, whole_folder
from moco.sources.grow import Arrival, array_file, grow
from moco.sources.hashing import stream
from moco.sources.manifest import Manifest, read_forgotten
from moco.sources.marks import Marks
from moco.sources.source import Arrays, Files


def take_in(
    source: Files | Arrays,
    settings: Fetch,
    raw: Path,
    before: Manifest | None = None,
    marks: Path | None = None,
    followed: bool = True,
    engine: Engine | None = None,
) -> Manifest:
    """Bring the manifest up to date with a source.

    Args:
        source: the images.
        settings: that found them: seed and shares of the split.
        raw: folder of the manifest, replaced as a whole.
        before: what it says; None: the set begins with these images.
        marks: file that remembers which files were hashed; None: each is.
        followed: whether the set follows the source: images that it had and has no longer go.
        engine: has files hashed on other hosts; None: threads of this process do.

    Returns:
        The manifest; the same as before if nothing is new and nothing goes.

    Raises:
        MocoError: there are no images, none fell on the training side, a file has two labels, …
        OSError: the folder cannot be written; it is as it was.
    """
    with Marks(marks) if marks else nullcontext() as known, whole_folder(raw) as part:
        if isinstance(source, Files):
            require_free(part, 1000 * sum(1 for _ in source.walk()), "writing the manifest")
        items = stream(source, part, known, array_file(before), read_forgotten(raw), engine)
        arrival = Arrival(items, settings, settings.source, source.root, source.classes, source.own, followed)
        manifest = grow(arrival, part, raw, before)
        if before and len(manifest.listings) == len(before.listings):
            (part / array_file(before)).unlink(missing_ok=True)  # of images that were all there
        return manifest
