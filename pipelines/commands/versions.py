"""List versions, or say what differs between two."""

import argparse
from pathlib import Path

from moco.errors import MocoError


def versions(options: argparse.Namespace) -> None:
    """Print the table, or the difference."""
    from pipelines.compare_versions import difference, short
    from pipelines.versions import MAIN, find
    from pipelines.versions import versions as known

    here = Path.cwd()
    if len(options.names) > 2:
        raise MocoError(f"{len(options.names)} versions are named; name none for a list, or two to compare")
    if options.names:
        old, new = ([*options.names, ""])[:2]
        newest = known(here)
        other = find(here, new) if new else (newest[0] if newest else find(here, old))
        print("\n".join(difference(here, find(here, old), other)))
        return
    found = known(here)
    if not found:
        print("no version yet: `python -m flows.pretrain_and_evaluate --name-version` makes one (docs/versions.md)")
        return
    width = max(len(version.name) for version in found)
    heads = [name.rpartition(".")[2] for name in MAIN]
    print(
        f"{'version':<{width}}  {'made':<16}  {'images':>9}  {'data':<8}  {'encoder':<8}  "
        + "  ".join(f"{head:>11}" for head in heads)
    )
    for one in found:
        figures = "  ".join(f"{one.figures[name]:>11.4f}" if name in one.figures else f"{'–':>11}" for name in MAIN)
        images = str(sum(one.images.values())) if one.images else "–"
        when = one.date[:16].replace("T", " ")
        print(f"{one.name:<{width}}  {when:<16}  {images:>9}  {short(one.data):<8}  {short(one.encoder):<8}  {figures}")
