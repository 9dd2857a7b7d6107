"""Features in pieces: many processes make them, and the same command resumes.

Each piece is a Parquet file that names what it was made of, so that no process needs to know of
another, and nothing needs to be kept beside the pieces.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from moco.config import settings_hash
from moco.encoders.frozen import FrozenEncoder
from moco.errors import MocoError
from moco.evaluation.embed import Count, write_parquet
from moco.evaluation.inputs import Image
from moco.files import whole_file
from moco.progress import Progress

MADE_OF = b"moco.made_of"
"""Key of the Parquet metadata."""


@dataclass(frozen=True)
class Share:
    """This process among those that run the same command.

    Attributes:
        rank: 0 … world_size - 1.
        world_size: number of processes.
        local_rank: among those of this host.
        local_world_size: processes of this host.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Share":
        """Read what torchrun or srun says in the environment; alone where neither does."""
        names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"]
        # SLURM_NTASKS is set in a batch script too, which is one process
        if "RANK" not in variables and "SLURM_STEP_NUM_TASKS" in variables:
            names = ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"]
        values = (variables.get(name, alone) for name, alone in zip(names, ("0", "1", "0", "1"), strict=True))
        return cls(*(int(re.split(r"\D", value)[0]) for value in values))  # tasks of the hosts: 8(x2),4

    def devices(self, visible: list[torch.device]) -> list[torch.device]:
        """Choose this process's devices: its part, or all where each process sees its own only."""
        shared = len(visible) >= self.local_world_size
        return visible[self.local_rank :: self.local_world_size] if shared else visible


@dataclass(frozen=True)
class Pieces:
    """A folder of `count` files, each with the features of consecutive images.

    Attributes:
        folder: of the files; made if missing.
        count: of files.
    """

    folder: Path
    count: int

    def path(self, number: int) -> Path:
        """Name a piece's file."""
        return self.folder / f"piece-{number:05d}-of-{self.count:05d}.parquet"

    def there(self) -> int:
        """Count the pieces that exist."""
        return sum(self.path(number).exists() for number in range(self.count))

    def prepare(self, arguments: Sequence[Path]) -> None:
        """Make the folder.

        Args:
            arguments: what is embedded, as files and folders.

        Raises:
            MocoError: it cannot be made, is among the images, or holds pieces of another number.
        """
        for argument in arguments:
            if argument.is_dir() and self.folder.resolve().is_relative_to(argument.resolve()):
                raise MocoError(
                    f"{self.folder}: lies in {argument}, whose files are embedded; name another with --output"
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MocoError(f"{self.folder}: {error.strerror}; name a folder with --output") from None
        ours = {self.path(number).name for number in range(self.count)}
        other = next(
            (path for path in sorted(self.folder.glob("piece-*-of-?????.parquet")) if path.name not in ours), None
        )
        if other:
            raise MocoError(
                f"{other}: is no piece of {self.count}; give --pieces as before, remove it, or name another folder"
            )


def embed_pieces(
    encoder: FrozenEncoder, made_by: str, images: Sequence[Image], pieces: Pieces, share: Share
) -> tuple[int, Count]:
    """Write this process's pieces, each whole or not at all, and keep those that are there.

    A piece is there if its file names the same encoder, and the same images by name and size; a
    file that names others is removed at once. The columns are those of `write_features`; a piece
    without one readable image has no row.

    Args:
        encoder: frozen.
        made_by: names the encoder.
        images: all of them, the same list in every process.
        pieces: where to write, prepared.
        share: takes every `world_size`-th piece.

    Returns:
        Pieces made, and the count of their images.

    Raises:
        MocoError: a piece cannot be written.
    """
    mine = {}
    for number in range(share.rank, pieces.count, share.world_size):
        part = images[len(images) * number // pieces.count : len(images) * (number + 1) // pieces.count]
        made_of = settings_hash(made_by, [[image.name, image.bytes_there()] for image in part]).encode()
        if _made_of(pieces.path(number)) != made_of:
            pieces.path(number).unlink(missing_ok=True)
            mine[number] = part, made_of
    count = Count(Progress("embed", sum(len(part) for part, _ in mine.values())))
    for number, (part, made_of) in mine.items():
        try:
            with whole_file(pieces.path(number)) as path:
                batches = count.embed(encoder, part)
                write_parquet(path, batches, encoder.spec.feature_dim, {MADE_OF: made_of})
        except OSError as error:
            raise MocoError(
                f"{pieces.path(number)}: cannot be written ({error.strerror or error}); the same command makes what is missing"
            ) from None
    return len(mine), count


def _made_of(path: Path) -> bytes | None:
    """Read what a piece was made of; None where it is not there, or not whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return (pq.read_schema(path).metadata or {}).get(MADE_OF)
    except (OSError, pa.ArrowInvalid):
        return None
