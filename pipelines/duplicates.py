"""The command `moco duplicates`: images that are there twice, in the shards or beside them."""

from dataclasses import dataclass
from pathlib import Path

from moco.cluster.machine import load_machine
from moco.config import SPLITS, load_params
from moco.duplicates.blocks import Elsewhere
from moco.duplicates.find import COLUMNS, Duplicates, find, write_groups, write_pairs
from moco.errors import MocoError
from moco.files import write_json
from moco.report.card import draw_pairs
from moco.sources.forget import leave_out
from moco.sources.manifest import read_manifest
from moco.survey.run import Survey, survey
from pipelines import stage
from pipelines.fetch import beside_the_source, metrics
from pipelines.ingest import record
from pipelines.judge import judge_of
from pipelines.shard import shard


@dataclass(frozen=True)
class Asked:
    """What a person asked for.

    Attributes:
        shards: the shard set.
        encoder: what decides; None: the project's encoder if it is there, else small copies.
        threshold: least likeness; None: as in the settings.
        distance: bits in which hashes may differ.
        mirrored: whether mirror images count.
        output: the list of pairs; a picture of the same name lies beside it.
        groups: receives key and group of each image with a twin; None: nothing.
        leave_out: whether images that have a twin in a later split leave the project's set.
        params: file that says how images are stored.
    """

    shards: Path
    encoder: Path | None
    threshold: float
    distance: int
    mirrored: bool
    output: Path
    groups: Path | None
    leave_out: bool = False
    params: Path = stage.PARAMS


def duplicates(asked: Asked) -> None:
    """List and draw near-duplicates.

    Raises:
        MocoError: there are no shards, no such encoder, or no folder for the output.
    """
    for path in (asked.output, asked.groups):
        if path is not None and (path.suffix != ".csv" or not path.parent.is_dir()):
            raise MocoError(f"{path}: cannot be written; name a .csv in an existing folder")
    default = stage.ENCODER if (stage.ENCODER / "encoder.json").exists() else None
    judge = judge_of(asked.encoder or default)
    print(f"the likeness is {judge.name}", flush=True)
    engine, kept = load_machine().elsewhere, stage.runs_folder() / "survey"
    found = survey(asked.shards, kept, "duplicates", engine)
    elsewhere = Elsewhere(engine, kept, "duplicates") if engine else None
    twins = find(found, judge, asked.distance, asked.threshold, asked.mirrored, elsewhere)
    write_pairs(asked.output, found, twins.pairs)
    print(
        f"{len(twins.pairs)} pairs ({', '.join(f'{twins.count(kind)} {kind}' for kind in ('exact', 'near', 'mirrored'))}) of"
        f" {twins.candidates} with similar hashes; {len(twins.crossing)} images have a twin in an earlier split"
    )
    print(f"{asked.output}: the pairs ({', '.join(COLUMNS)})")
    if draw_pairs(asked.output.with_suffix(".png"), found, twins):
        print(f"{asked.output.with_suffix('.png')}: pairs on both sides of the threshold")
    if asked.groups:
        write_groups(asked.groups, found, twins.groups)
        print(f"{asked.groups}: the group of each of {len(twins.groups)} images")

    if asked.leave_out:
        _leave_out(asked, found, twins)


def _leave_out(asked: Asked, found: Survey, twins: Duplicates) -> None:
    """Take out, of each group in several splits, what is not in the last of them."""
    last: dict[int, int] = {}
    for image, group in twins.groups.items():
        last[group] = max(last.get(group, image), image, key=lambda each: SPLITS.index(found.place(each)[0]))
    out = {
        found.key(image): found.key(last[group])
        for image, group in twins.groups.items()
        if found.place(image)[0] != found.place(last[group])[0]
    }
    if not out:
        print("no image has a twin in a later split")
        return
    params = load_params(asked.params)
    with stage.alone("fetch"), beside_the_source(params.fetch):
        leave_out(stage.RAW, out)
        write_json(stage.outputs("fetch") / "metrics.json", metrics(read_manifest(stage.RAW)))
    print(f"{len(out)} images are out of {stage.RAW}: each has a twin in a later split, which left_out.csv names")
    shard(params)
    record("fetch", "shard")
