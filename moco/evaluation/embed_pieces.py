"""Features in pieces: many processes make them, and the same command resumes.

Each piece is a Parquet file that names what it was made of, so that no process needs to know of
another, and nothing needs to be kept beside the pieces.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from moco.cluster.pieces import Engine, spread
from moco.config import settings_hash
from moco.devices import compute_devices
from moco.encoders.anyones import Stated, encoder_of
from moco.encoders.frozen import FrozenEncoder
from moco.errors import MocoError
from moco.evaluation.embed import Count, Embedded, embed_files, write_parquet
from moco.evaluation.inputs import Image, Skips
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
    mine = _missing(made_by, images, pieces, range(share.rank, pieces.count, share.world_size))
    count = Count(Progress("embed", sum(len(piece.images) for piece in mine)))
    for piece in mine:
        _write(pieces, piece, count.embed(encoder, piece.images), encoder.spec.feature_dim)
    return len(mine), count


@dataclass(frozen=True)
class _Piece:
    """A piece that is to be made: its number, images, and what names them and the encoder."""

    number: int
    images: list[Image]
    made_of: bytes


@dataclass(frozen=True)
class Anywhere:
    """Makes a piece on any host that sees the same files, with an encoder that it reads there.

    Attributes:
        encoder: the folder or file of `moco.encoders.anyones.encoder_of`.
        stated: what the file does not say.
        device: auto, cpu or cuda, of the hosts.
        pieces: where to write.
    """

    encoder: Path
    stated: Stated
    device: str
    pieces: Pieces

    def __call__(self, piece: _Piece) -> tuple[int, list[tuple[str, str]]]:
        """Write a piece; return images written, and place and reason of the others."""
        skipped: list[tuple[str, str]] = []
        batches = embed_files(self._encoder, piece.images, lambda place, reason: skipped.append((place, reason)))
        written = _write(self.pieces, piece, batches, self._encoder.spec.feature_dim, shared=True)
        return written, skipped

    @cached_property
    def _encoder(self) -> FrozenEncoder:
        return encoder_of(self.encoder, self.stated, compute_devices(self.device))[0]


def embed_elsewhere(
    engine: Engine, scratch: Path, work: Anywhere, made_by: str, images: Sequence[Image]
) -> tuple[int, int, int]:
    """Have the pieces made on other hosts that are not there, as `embed_pieces` makes them.

    Args:
        engine: which.
        scratch: folder on the disk that all of them share.
        work: what makes a piece.
        made_by: names the encoder.
        images: all of them.

    Returns:
        Pieces made, images written, images skipped; the latter are named on stderr.
    """
    pieces = replace(work.pieces, folder=work.pieces.folder.absolute())
    work = replace(work, encoder=work.encoder.absolute(), pieces=pieces)
    mine = _missing(made_by, images, pieces, range(pieces.count))
    items = (replace(one, images=[image._replace(file=image.file.absolute()) for image in one.images]) for one in mine)
    written, skips = 0, Skips()
    with closing(spread(engine, "embed", scratch / "embed", work, items, threaded=True)) as made:
        for count, skipped in made:
            written += count
            for place, reason in skipped:
                skips(place, reason)
    for leftover in pieces.folder.glob("piece-*.part.parquet"):  # of processes that were replaced
        leftover.unlink()
    return len(mine), written, skips.count


def _missing(made_by: str, images: Sequence[Image], pieces: Pieces, numbers: Iterable[int]) -> list[_Piece]:
    """List the pieces that are to be made; what is there of other images or weights is removed."""
    mine = []
    for number in numbers:
        part = images[len(images) * number // pieces.count : len(images) * (number + 1) // pieces.count]
        made_of = settings_hash(made_by, [[image.name, image.bytes_there()] for image in part]).encode()
        if _made_of(pieces.path(number)) != made_of:
            pieces.path(number).unlink(missing_ok=True)
            mine.append(_Piece(number, list(part), made_of))
    return mine


def _write(pieces: Pieces, piece: _Piece, batches: Iterator[Embedded], feature_dim: int, shared: bool = False) -> int:
    path = pieces.path(piece.number)
    try:
        with whole_file(path, shared=shared) as part:
            return write_parquet(part, batches, feature_dim, {MADE_OF: piece.made_of})
    except OSError as error:
        raise MocoError(
            f"{path}: cannot be written ({error.strerror or error}); the same command makes what is missing"
        ) from None


def _made_of(path: Path) -> bytes | None:
    """Read what a piece was made of; None where it is not there, or not whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return (pq.read_schema(path).metadata or {}).get(MADE_OF)
    except (OSError, pa.ArrowInvalid):
        return None
