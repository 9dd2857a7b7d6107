import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_names import HOSTILE, running
from markdown_it import MarkdownIt
from PIL import Image
from study_records import ROOT, records_of

from moco.report import study_figure
from moco.report.study import Outcome, shortened, write_study
from moco.study.definition import load_study, names


def outcome(name: str, **changes: object) -> Outcome:
    records = records_of(name, "laptop", lambda run: 0.7 + len(run.series) / 100 + 0.01 * run.seed)
    values = {"records": records, "left_out": {}, "failed": [], "command": f"python -m flows.study {name}"} | changes
    return Outcome(name, load_study(name, ROOT / "studies"), "laptop", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", names(ROOT / "studies"))
def test_a_study_ends_in_page_table_and_figure(name: str, tmp_path: Path) -> None:
    page = write_study(tmp_path, outcome(name))
    assert page == (tmp_path / "study.md").read_text()
    assert f"python -m flows.study {name}" in page
    assert "cccccccccccc" in page
    assert "d.dir" in page
    assert "2 cores of a processor" in page
    picture = Image.open(tmp_path / "figure.png")
    assert len(picture.convert("RGB").getcolors(2**20) or []) > 50
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    study = load_study(name, ROOT / "studies")
    assert len(rows) == len(study.scales["laptop"].runs)
    assert all(int(row["seeds"]) == len(study.scales["laptop"].seeds) for row in rows)


@pytest.mark.parametrize("name", HOSTILE)
def test_text_of_a_studys_file_runs_nothing_in_its_page(name: str, tmp_path: Path) -> None:
    made = outcome("momentum", left_out={"run": name}, failed=[name], command=f"x {name}")
    study = made.study.model_copy(
        update={"title": name, "question": name, "source": name, "published_text": name}
        | {"axis": made.study.axis.model_copy(update={"label": name})}
    )
    records = [record.model_copy(update={"machine": name}) for record in made.records]
    page = write_study(tmp_path, replace(made, study=study, records=records))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)  # as a careless viewer does
    assert running(html) == []
    assert html.count("<h1") == 1
    assert html.count("<h2") == page.count("\n## ")
    assert html.count("<img") == 1


def test_the_figure_has_all_points_of_a_series_and_all_published_ones_in_whatever_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study("mechanisms", ROOT / "studies")
    grid = study.scales["laptop"]
    grid = grid.model_copy(update={"runs": sorted(grid.runs, key=lambda point: float(point.x))})
    entry = study.published[0]
    parts = [entry.model_copy(update={"values": {x: value}}) for x, value in entry.values.items()] + study.published[1:]
    mixed = study.model_copy(update={"scales": {"laptop": grid}, "published": parts})
    drawn: list[dict[str, int]] = []
    points = study_figure._points

    def seen(axes, study, series, styles):  # type: ignore[no-untyped-def]
        drawn.append({name: len(ones) for name, ones in series.items()})
        points(axes, study, series, styles)

    monkeypatch.setattr(study_figure, "_points", seen)
    write_study(tmp_path, replace(outcome("mechanisms"), study=mixed))
    assert drawn == [{"MoCo": 4, "memory bank": 3, "end-to-end": 3}, {"MoCo": 6, "memory bank": 6, "end-to-end": 3}]


def test_the_page_says_what_no_training_gives_and_which_precision_was_used(tmp_path: Path) -> None:
    page = write_study(tmp_path, outcome("momentum"))
    assert "Without training" not in page
    assert "not noted" in page
    records = [
        record.model_copy(
            update={
                "metrics": {
                    "pretrain": {"precision": precision},
                    "linear": record.metrics["linear"]
                    | {"random": {"linear_top1": low}, "pixels": {"linear_top1": 0.84}},
                }
            }
        )
        for record, precision, low in zip(
            outcome("momentum").records, ("bf16", "fp32", "bf16"), (0.8, 0.81, 0.805), strict=False
        )
    ]
    page = write_study(tmp_path, outcome("momentum", records=records))
    assert "Without training, by the same evaluation: untrained encoders 80.0 to 81.0 %, raw pixels 84.0 %." in page
    assert "bf16, fp32" in page


def test_a_study_of_curves_has_both_ends_in_its_table(tmp_path: Path) -> None:
    page = write_study(tmp_path, outcome("shuffle-bn"))
    assert "| pretext top-1, last epoch | kNN on validation, last epoch |" in page
    assert "99.6 % |" in page and "76.0 % |" in page  # of 1 - 0.5**8 and 0.6 + 0.02 * 8


def test_single_seeds_are_said_to_be_single_and_agreeing_ones_are_not(tmp_path: Path) -> None:
    assert "One seed each" in write_study(tmp_path, outcome("width"))
    alike = records_of("momentum", "laptop", lambda run: 1.0)
    assert "Means over the seeds" in write_study(tmp_path, outcome("momentum", records=alike))


def test_the_same_results_make_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_study(tmp_path / folder, outcome("mechanisms"))
    for file in ("study.md", "table.csv", "figure.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_time_counts_what_was_run_and_not_what_was_restored(tmp_path: Path) -> None:
    records = list(outcome("width").records)
    records[0] = records[0].model_copy(update={"restored": ["pretrain"]})
    page = write_study(tmp_path, outcome("width", records=records))
    assert f"{60 * len(records) - 40} s" in page
    assert "1 runs had stages that DVC restored" in page


def test_what_was_left_out_is_named_once_a_reason(tmp_path: Path) -> None:
    left_out = {f"data-laptop-uncurated-{x}-s0": "no such image" for x in range(5)}
    page = write_study(tmp_path, outcome("data", left_out=left_out, failed=["data-laptop-x: linear: broke"]))
    assert page.count("no such image") == 1
    assert "data-laptop-uncurated-0-s0, data-laptop-uncurated-1-s0 and 3 more" in page
    assert "data-laptop-x: linear: broke" in page
    assert shortened(["a", "b"]) == "a, b"


def test_a_figure_without_any_accuracy_is_made_too(tmp_path: Path) -> None:
    records = records_of("momentum", "laptop", lambda run: None)
    page = write_study(tmp_path, outcome("momentum", records=records))
    assert "No accuracy was measured" in page
    assert (tmp_path / "figure.png").exists()
