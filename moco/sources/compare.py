"""What of the images that arrive is new, and what of those that were there goes."""

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco.config import SPLITS, Fetch
from moco.errors import MocoError
from moco.sources.listing import Item, Row
from moco.sources.manifest import EXACT, NEAR, OF_OWN_SET, LeftOut, Manifest, lines, read_forgotten, read_left_out
from moco.sources.names import is_image_name
from moco.sources.places import Place, file_at, read_places
from moco.sources.splits import choose_split, cluster_of, keep_together, keyed
from moco.text import utf8

FILES = "path, row, label, part, place, sha256, bytes, image, cluster, sort, ident"
"""Columns of the table of images that arrive.

image: whether the name claims one; cluster: what the split follows from; sort: order within the
split; ident: hash of the content, or of the path if it cannot be read."""
KNOWN = (
    "listing, line, followed, kept, own_root, own_path, own_row, root, path, row, label, place, sha256, bytes, image,"
    " cluster, ident"
)
"""Columns of the table of images that are in the set.

followed: whether its listing is; kept: whether it stays when `fetch.path` has it no longer; own_…:
its place by the listing; root, path, row: where it was last seen."""
PLACED = "listing, line, root, path, row, followed"
"""Columns of the table of further places of images that are in the set."""
SAME = "known.ident = files.ident AND known.label = files.label AND known.place = files.place"
FIRST = "label = '', path, row"
"""Of images with the same content, the one that stays: with a label, by path."""


@dataclass(frozen=True)
class Count:
    """How many files of each kind; a sum of counts is one.

    Attributes:
        of: (split, what) -> files: `images`, those `labelled`, and `others`; and their `bytes`.
    """

    of: Counter[tuple[int, str]] = field(default_factory=Counter)

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> "Count":
        """Give what a manifest states."""
        of = Counter({(0, "others"): manifest.other_files, (0, "bytes"): manifest.bytes})
        for place, name in enumerate(SPLITS):
            of.update({(place, what): count for what, count in manifest.splits[name].items()})
        return cls(of)

    def __add__(self, other: "Count") -> "Count":
        total = Counter(self.of)
        total.update(other.of)
        return Count(total)

    def __sub__(self, other: "Count") -> "Count":
        rest = Counter(self.of)
        rest.subtract(other.of)
        return Count(rest)

    def _sum(self, what: str) -> int:
        return sum(count for (_, kind), count in self.of.items() if kind == what)

    @property
    def images(self) -> int:
        """How many images."""
        return self._sum("images")

    @property
    def others(self) -> int:
        """How many files whose names claim no image."""
        return self._sum("others")

    @property
    def bytes(self) -> int:
        """How many bytes, of both."""
        return self._sum("bytes")

    @property
    def files(self) -> int:
        """How many files, of both."""
        return self.images + self.others

    @property
    def splits(self) -> dict[str, dict[str, int]]:
        """For each of train, val and test: how many `images`, and how many `labelled`."""
        return {
            name: {what: self.of[place, what] for what in ("images", "labelled")} for place, name in enumerate(SPLITS)
        }


class Arrivals:
    """The images that arrive, in a scratch database.

    After `compare`:

    Attributes:
        new: files that were not there.
        gone: files that are no longer in the set.
        left_out: images whose content is in the set already.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        items: Iterable[Item],
        settings: Fetch,
        root: str | None = None,
        followed: bool = True,
    ) -> None:
        """Fill the table of images that arrive.

        Args:
            database: an empty one.
            items: the images.
            settings: seed and shares of the split.
            root: where their paths start; None: beside the manifest.
            followed: whether images go that are in a listing that is followed, and not here.
        """
        self.database, self.settings, self.root, self.followed = database, settings, root, followed
        self.new, self.gone = Count(), Count()
        self.left_out: list[LeftOut] = []
        self._staying: dict[str, Place] = {}
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        # File names need not be UTF-8.
        database.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        database.executescript(
            f"CREATE TABLE files ({FILES}); CREATE TABLE known ({KNOWN});"
            f" CREATE TABLE places ({PLACED}); CREATE TABLE gone (listing, line)"
        )
        self._fill("files", FILES, (_record(item, settings) for item in items))
        database.execute("CREATE INDEX contents ON files (ident, path, row)")
        database.execute("CREATE INDEX kinds ON files (ident, label, place)")
        if settings.source == "list":
            _require_one_label(database, settings)

    def compare(self, raw: Path, before: Manifest | None, again: bool) -> None:
        """Leave what is new in the table of files, and find what goes.

        Args:
            raw: folder of the manifest as it is.
            before: what it says, if there is one.
            again: whether all images of listings that are followed go: other settings found them.
        """
        run = self.database.execute
        refused = read_forgotten(raw) | {line.sha256 for line in read_left_out(raw) if line.why == NEAR}
        self.database.executemany("DELETE FROM files WHERE ident = ?", [(content,) for content in refused])
        if before is not None:
            self._fill("known", KNOWN, self._known(raw, before))
            self._fill("places", PLACED, self._places(raw))
        run("CREATE INDEX known_contents ON known (ident, path, row)")
        run("CREATE INDEX known_lines ON known (listing, line)")
        run("CREATE INDEX lines_of_places ON places (listing, line)")
        arrives = "EXISTS (SELECT 1 FROM files WHERE files.ident = known.ident)"
        if self.followed and again:
            run(f"INSERT INTO gone SELECT listing, line FROM known WHERE followed AND (NOT kept OR {arrives})")
            self._take_out()
        keep_together(self.database, self.settings)
        self._leave_out_of_own_sets()
        if self.followed:
            run(
                f"INSERT INTO gone SELECT listing, line FROM known WHERE followed AND (NOT kept OR {arrives}) AND NOT EXISTS"
                f" (SELECT 1 FROM files WHERE {SAME})"
            )
        # What a source's own validation or test set holds is not trained on.
        run(
            "INSERT INTO gone SELECT listing, line FROM known WHERE EXISTS (SELECT 1 FROM files WHERE files.ident ="
            " known.ident AND files.part IN ('val', 'test') AND files.place > known.place)"
        )
        self._take_out()
        if self.root is not None:
            self._place(self.root)
        self._leave_out_what_is_known()
        order = f"PARTITION BY sha256 ORDER BY {FIRST}"
        self._leave_out(
            f"SELECT path, label, sha256, FIRST_VALUE(path) OVER ({order}), rowid AS id, ROW_NUMBER() OVER ({order}) AS"
            " nth FROM files WHERE part IN ('all', 'train') AND sha256 <> '' AND image",
            "nth > 1",
            EXACT,
        )
        self.new = self._count("files")

    def rows(self) -> Iterator[Row]:
        """Stream the new images in the order of a listing."""
        found = self.database.execute(
            "SELECT path, row, label, place, sha256, bytes, CASE WHEN sha256 = '' THEN 0 ELSE ROW_NUMBER() OVER (PARTITION"
            " BY sha256 ORDER BY path, row) - 1 END, CASE WHEN cluster = ident THEN '' ELSE cluster END FROM files ORDER BY"
            " place, sort, path, row"
        )
        for path, row, label, place, digest, size, copy, cluster in found:
            yield Row(path, row, label, SPLITS[place], digest, size, copy, cluster)

    def labels(self) -> list[str]:
        """Give the labels of the new images, in numerical or alphabetical order."""
        found = [
            name for (name,) in self.database.execute("SELECT DISTINCT label FROM files WHERE image AND label <> ''")
        ]
        numbers = all(name.isdecimal() for name in found)
        return sorted(found, key=lambda name: (int(name), name)) if numbers else sorted(found)

    def lines_gone(self) -> list[tuple[int, int]]:
        """Give listing and line of what goes."""
        return self.database.execute("SELECT DISTINCT listing, line FROM gone ORDER BY listing, line").fetchall()

    def places(self, new: int) -> Iterator[Place]:
        """Stream the further places of images that are in the set, in order.

        Args:
            new: number of the listing of the new images.
        """
        again: list[Place] = []
        if self._staying:
            for line, row in enumerate(self.rows()):
                if place := self._staying.pop(row.sha256, None):
                    again.append(place._replace(listing=new, line=line))
        found = self.database.execute(f"SELECT {PLACED} FROM places ORDER BY listing, line, followed")
        for listing, line, root, path, row, followed in found:
            yield Place(listing, line, root, path, row, bool(followed))
        yield from again

    def _fill(self, table: str, columns: str, records: Iterator[tuple[Any, ...]]) -> None:
        texts = ("path", "label", "own_path", "root", "own_root")
        values = ", ".join("CAST(? AS TEXT)" if name in texts else "?" for name in columns.split(", "))
        self.database.execute("BEGIN")
        self.database.executemany(f"INSERT INTO {table} VALUES ({values})", records)
        self.database.execute("COMMIT")

    def _known(self, raw: Path, before: Manifest) -> Iterator[tuple[Any, ...]]:
        """Give the images in the set that decide anything: all, if some may have gone."""
        wanted: set[str] | None = None
        if not self.followed:
            wanted = {value for pair in self.database.execute("SELECT ident, cluster FROM files") for value in pair}
        for placed in lines(raw, before):
            row = placed.row
            if placed.removed:
                continue
            path = _bytes(row.path)
            ident = row.sha256 or hashlib.sha256(path).hexdigest()
            if wanted is not None and ident not in wanted and row.cluster not in wanted:
                continue
            listing = before.listings[placed.listing]
            own = listing.root if listing.root is None else _bytes(listing.root), path, row.row
            seen = next(((_bytes(at.root), _bytes(at.path), at.row) for at in placed.places if at.followed), own)
            kept = not listing.followed or any(not at.followed for at in placed.places)
            about = (SPLITS.index(row.split), row.sha256, row.bytes, row.row is not None or is_image_name(row.path))
            label = row.label.encode(errors="replace")
            where = placed.listing, placed.line, listing.followed, kept, *own, *(seen if listing.followed else own)
            yield *where, label, *about, row.cluster or ident, ident

    def _places(self, raw: Path) -> Iterator[tuple[Any, ...]]:
        for place in read_places(raw):
            yield *place[:2], _bytes(place.root), _bytes(place.path), place.row, place.followed

    def _take_out(self) -> None:
        mine = "(listing, line) IN (SELECT listing, line FROM gone)"
        if self.followed:  # what stays after it goes and comes again, such as under another label
            for ident, *place in self.database.execute(
                f"SELECT ident, listing, line, COALESCE(at.root, own_root), COALESCE(at.path, own_path), CASE WHEN at.path IS"
                " NULL THEN own_row ELSE at.row END, FALSE FROM known LEFT JOIN (SELECT * FROM places WHERE NOT followed) AS at"
                f" USING (listing, line) WHERE {mine} AND kept AND EXISTS (SELECT 1 FROM files WHERE files.ident ="
                " known.ident)"
            ):
                self._staying[ident] = Place(*place)
        self.gone = self.gone + self._count("known", mine)
        self.database.execute(f"DELETE FROM known WHERE {mine}")
        self.database.execute(f"DELETE FROM places WHERE {mine}")

    def _place(self, root: str) -> None:
        """Note where the images in the set are that arrive from another place than they had."""
        run, here = self.database.execute, _bytes(root)
        run(
            f"CREATE TABLE firsts AS SELECT ident, path, row FROM (SELECT ident, path, row, ROW_NUMBER() OVER (PARTITION BY"
            f" ident ORDER BY {FIRST}) AS nth FROM files WHERE ident IN (SELECT ident FROM known)) WHERE nth = 1"
        )
        run("CREATE UNIQUE INDEX contents_of_firsts ON firsts (ident)")
        if self.followed:
            run(
                "DELETE FROM places WHERE followed AND NOT EXISTS (SELECT 1 FROM known JOIN files USING (ident) WHERE"
                " (known.listing, known.line) = (places.listing, places.line) AND files.path = places.path AND files.row IS"
                " places.row AND places.root = CAST(? AS TEXT))",
                (here,),
            )
            own = "own_root = CAST(:root AS TEXT) AND EXISTS (SELECT 1 FROM files WHERE files.ident = known.ident AND"
            own = f"{own} files.path = known.own_path AND files.row IS known.own_row)"
            known = (
                "SELECT 1 FROM places WHERE followed AND (places.listing, places.line) = (known.listing, known.line)"
            )
            run(
                "INSERT INTO places SELECT listing, line, CAST(:root AS TEXT), firsts.path, firsts.row, TRUE FROM known JOIN"
                f" firsts USING (ident) WHERE NOT ({own}) AND NOT EXISTS ({known})",
                {"root": here},
            )
            return
        found = run(
            "SELECT listing, line, known.followed, own_root, own_path, own_row, known.path, at.root, at.path, at.row,"
            " firsts.path, firsts.row FROM known JOIN firsts USING (ident) LEFT JOIN (SELECT * FROM places WHERE NOT"
            " followed) AS at USING (listing, line) WHERE sha256 <> ''"
        ).fetchall()
        for listing, line, followed, *own, seen, at_root, at_path, at_row, path, row in found:
            mine = (at_root, at_path, at_row) if at_root is not None else None if followed else own
            if mine is None and {_real(*own), _real(own[0], seen, own[2])} & {_real(root, path, row)}:
                continue  # a file that `fetch` follows
            if mine is None or not file_at(*mine).exists():
                run("DELETE FROM places WHERE listing = ? AND line = ? AND NOT followed", (listing, line))
                if followed or [root, path, row] != list(own):
                    self._fill("places", PLACED, iter([(listing, line, here, _bytes(path), row, False)]))

    def _leave_out_what_is_known(self) -> None:
        """Keep new contents only: a moved file is the same image, a second one a duplicate."""
        here = (
            "EXISTS (SELECT 1 FROM known WHERE known.ident = files.ident AND known.path = files.path AND known.row IS"
            " files.row)"
        )
        still = (
            "EXISTS (SELECT 1 FROM files AS other WHERE other.ident = known.ident AND other.path = known.path AND"
            " other.row IS known.row)"
        )
        self._leave_out(
            "SELECT path, label, sha256, twins.twin, files.rowid AS id FROM files JOIN (SELECT ident, MIN(path) AS twin FROM"
            f" known WHERE {f'NOT followed OR {still}' if self.followed else 'TRUE'} GROUP BY ident) AS twins USING (ident)"
            f" WHERE sha256 <> '' AND image AND NOT {here}",
            "TRUE",
            EXACT,
        )
        self.database.execute("DELETE FROM files WHERE ident IN (SELECT ident FROM known)")

    def _leave_out_of_own_sets(self) -> None:
        """Leave out what the source's own test set holds too, or its validation set."""
        if not self.database.execute("SELECT EXISTS (SELECT 1 FROM files WHERE part IN ('val', 'test'))").fetchone()[0]:
            return
        self._leave_out(
            "SELECT path, label, sha256, CASE WHEN part IN ('val', 'test') THEN tested ELSE COALESCE(tested, validated) END"
            " AS twin, files.rowid AS id FROM files JOIN (SELECT ident, MIN(path) FILTER (WHERE part = 'test') AS tested,"
            " MIN(path) FILTER (WHERE part = 'val') AS validated FROM files WHERE part IN ('val', 'test') GROUP BY ident)"
            " USING (ident) WHERE part <> 'test' AND sha256 <> ''",
            "twin IS NOT NULL",
            OF_OWN_SET,
        )

    def _leave_out(self, query: str, condition: str, why: str) -> None:
        """Leave out rows of a query that meet a condition: path, label, sha256, twin's path, id."""
        found = self.database.execute(f"SELECT * FROM ({query}) WHERE {condition}").fetchall()
        self.left_out += [
            LeftOut(path, label, digest, twin, why, "1" * self.followed) for path, label, digest, twin, *_ in found
        ]
        self.database.executemany("DELETE FROM files WHERE rowid = ?", [(values[4],) for values in found])

    def _count(self, table: str, where: str = "TRUE") -> Count:
        of: Counter[tuple[int, str]] = Counter()
        for place, image, labelled, count, size in self.database.execute(
            f"SELECT place, image, label <> '' AS labelled, COUNT(*), SUM(bytes) FROM {table} WHERE {where}"
            " GROUP BY place, image, labelled"
        ):
            of[place, "bytes"] += size
            of[place, "images" if image else "others"] += count
            if image and labelled:
                of[place, "labelled"] += count
        return Count(of)


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _real(root: str, path: str, row: int | None) -> tuple[str, int | None]:
    return os.path.realpath(os.path.join(root or "", path)), row  # noqa: PTH118 - as many as images arrive again


def _record(item: Item, settings: Fetch) -> tuple[Any, ...]:
    # An unreadable file has no content to hash; its name stands in, and sharding lists it.
    path = item.path.encode(errors="surrogateescape")
    ident = item.sha256 or hashlib.sha256(path).hexdigest()
    cluster = cluster_of(item.group) if item.group else ident
    place = SPLITS.index(choose_split(cluster, item.part, settings))
    # A path must lead to its file, byte for byte; a class's name is a text, in pages and records.
    label = utf8(item.label)
    image = item.row is not None or is_image_name(item.path)
    sort = keyed("order", ident, settings)
    return path, item.row, label, item.part, place, item.sha256, item.bytes, image, cluster, sort, ident


def _require_one_label(database: sqlite3.Connection, settings: Fetch) -> None:
    found = database.execute(
        "SELECT path, MIN(label), MAX(label) FROM files GROUP BY path HAVING MIN(label) <> MAX(label) LIMIT 1"
    ).fetchone()
    if found:
        path, one, other = found
        raise MocoError(
            f"fetch.path = {settings.path!r}: {path!r} is listed with the labels {one!r} and {other!r}; an image has one"
            " label: list it once"
        )
