"""Stage check: what the shards hold, as a data card, and whether training may begin."""

import json
import time
from pathlib import Path
from typing import Any

from moco import tracking
from moco.checks.images import Looked, check_images
from moco.checks.reference import reference_of, to_bytes
from moco.checks.result import Result
from moco.checks.shift import check_shift
from moco.cluster.machine import load_machine
from moco.config import SPLITS, Params
from moco.duplicates.blocks import Elsewhere
from moco.duplicates.find import Duplicates, find, write_groups, write_pairs
from moco.errors import MocoError
from moco.files import read_note, whole_folder, write_bytes, write_json
from moco.report.card import MARKS, Card, write_card
from moco.sources.names import is_image_name
from moco.survey.run import Survey, survey
from moco.text import printable
from pipelines import stage
from pipelines.judge import judge_of
from pipelines.last_version import last_version


def check(params: Params) -> None:
    """Run the stage: outputs/check/ with the card, the lists, the reference and passed.json.

    Raises:
        MocoError: a check failed; everything but passed.json is written.
    """
    started, settings = time.monotonic(), params.check
    judge = judge_of(Path(settings.encoder) if settings.encoder else None)
    outputs = stage.outputs("check")
    with stage.alone("check"), tracking.stage_run("check", settings.model_dump()) as tracked:
        stage.PASSED.unlink(missing_ok=True)
        engine, kept = load_machine().elsewhere, stage.runs_folder() / "survey"
        found = survey(stage.SHARDS, kept, "check", engine)
        data_hash = found.splits["train"].data_hash
        tracked.dataset("shards", tracking.dvc_digest(str(stage.SHARDS)) or data_hash, stage.SHARDS, "checking")
        elsewhere = Elsewhere(engine, kept, "check") if engine else None
        twins = find(found, judge, settings.hash_distance, settings.min_likeness, settings.mirrored, elsewhere)
        left_out = _quarantine()
        bad = [item for item in left_out if is_image_name(item["path"])]
        last = last_version(data_hash, params.fetch.source, params.fetch.path)
        results = check_images(Looked(found, twins, len(bad)), settings)
        results += check_shift(found, last[0] if last else None, settings)
        write_pairs(outputs / "pairs.csv", found, twins.pairs)
        write_groups(outputs / "groups.csv", found, twins.groups)
        write_bytes(outputs / "reference.npz", to_bytes(reference_of(found)))
        about = read_note(Path("outputs/fetch/metrics.json"))
        card = Card(
            found=found,
            duplicates=twins,
            results=results,
            settings=settings,
            source=_source(params, about),
            fetch=about,
            quarantine=[item["reason"] for item in left_out],
            others=len(left_out) - len(bad),
            last=last[1] if last else None,
        )
        with whole_folder(outputs / "card") as part:
            write_card(part, card)
        values = metrics(found, twins, results)
        write_json(outputs / "metrics.json", values)
        tracked.results(values)
        tracked.tags({"data_hash": data_hash, "checks": "failed" if values["failed"] else "passed"})
        for path in (outputs / "card", outputs / "pairs.csv"):
            tracked.artifact(path, "card" if path.is_dir() else None)
        _say(results)
        print(f"{len(found)} images, {found.measured} of them measured now, {time.monotonic() - started:.1f} s")
        print(f"{outputs / 'card/card.html'}: the data card; open it in a browser")
        failed = [result.name for result in results if result.status == "failed"]
        if failed:
            raise MocoError(
                f"{len(failed)} of {len(results)} checks failed ({', '.join(failed)}), a line for each above, and"
                f" {outputs / 'card/card.html'} shows the images; correct the data, or the thresholds under check in params.yaml"
            )
        write_json(stage.PASSED, {"data_hash": data_hash})


def metrics(found: Survey, duplicates: Duplicates, results: list[Result]) -> dict[str, Any]:
    """Gather the tracked figures: what each check measured, by its name."""
    return {
        "failed": sum(result.status == "failed" for result in results),
        "notes": sum(result.status == "note" for result in results),
        "images": len(found),
        **{split: len(found.splits[split]) for split in SPLITS},
        "pairs": {kind: duplicates.count(kind) for kind in ("exact", "near", "mirrored")},
        "checks": {result.name: result.value for result in results},
    }


def _quarantine() -> list[dict[str, str]]:
    """Read what sharding left out."""
    path = stage.SHARDS / "quarantine.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise MocoError(f"{path}: cannot be read ({error}); run `dvc repro --force shard`") from None


def _source(params: Params, about: dict[str, Any]) -> str:
    """Say where the images came from: the source, `moco ingest`, or both."""
    fetch, times = params.fetch, about.get("taken_in", 0)
    source = fetch.source if fetch.source == "fashion-mnist" else f"{fetch.source} {fetch.path}"
    taken_in = f"moco ingest ({'once' if times == 1 else f'{times} times'})"
    return " and ".join([source] * bool(about.get("followed", 1)) + [taken_in] * bool(times))


def _say(results: list[Result]) -> None:
    """Print a line a check; those that failed come last, where they are seen."""
    for result in sorted(results, key=lambda result: ("skipped", "ok", "note", "failed").index(result.status)):
        print(printable(f"{MARKS[result.status]} {result.name}: {result.text}"), flush=True)


if __name__ == "__main__":
    stage.main(check, __doc__)
