"""Show what takes room, and remove what may go if told to."""

import argparse
from contextlib import nullcontext
from pathlib import Path


def prune(options: argparse.Namespace) -> None:
    """Print the table; with --yes remove."""
    from moco.cluster.machine import load_machine
    from moco.files import readable
    from pipelines.prune import alone, pieces, remove
    from pipelines.stage import runs_folder

    here = Path.cwd()
    with alone(here) if options.yes else nullcontext():
        found = pieces(here, runs_folder(), load_machine().keep)
        for piece in found:
            mark = "stays" if not piece.goes else "removed" if options.yes else "may go"
            if piece.goes and options.yes:
                remove(here, piece)
            print(f"{mark:<8} {readable(piece.size):>9}  {piece.what} ({piece.why})", flush=True)
    goes = [piece for piece in found if piece.goes]
    freed = readable(sum(piece.size for piece in goes))
    if not goes:
        print("nothing may go; machine.yaml's `keep` says what stays (docs/versions.md)")
    elif options.yes:
        print(f"{freed} freed")
    else:
        print(f"{freed} would be freed: `moco prune --yes`")
