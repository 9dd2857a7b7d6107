from pathlib import Path

import pytest
import yaml
from study_records import ROOT

from moco.errors import MocoError
from moco.study.definition import SCALES, load_study, names, place, variants
from moco.training.checks import check

STUDIES = ROOT / "studies"
IMAGES = {"laptop": 54_000, "paper": 1_281_167}
GRIDS = [(name, scale) for name in names(STUDIES) for scale in SCALES]


def small(**changes: object) -> dict[str, object]:
    """A study of one run as it is written in its file."""
    grid = {"stated": "short", "seeds": [0], "runs": [{"series": "a", "x": 1}]} | changes
    return {
        "title": "t",
        "question": "q?",
        "source": "s",
        "axis": {"label": "x", "kind": "linear"},
        "metric": "knn_top1",
        "scales": {"laptop": grid},
    }


def write(folder: Path, values: dict[str, object]) -> Path:
    (folder / "mine.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_there_are_the_nine_studies_each_with_both_grids() -> None:
    assert names(STUDIES) == [
        "data",
        "family",
        "length",
        "mechanisms",
        "momentum",
        "shuffle-bn",
        "temperature",
        "v1-v2",
        "width",
    ]
    assert all(set(load_study(name, STUDIES).scales) == set(SCALES) for name in names(STUDIES))
    page = (ROOT / "docs/study.md").read_text()
    assert all(f"| `{name}` | " in page for name in names(STUDIES))


@pytest.mark.parametrize(("name", "scale"), GRIDS)
def test_every_run_is_allowed_and_can_be_made_with_its_images(name: str, scale: str) -> None:
    study = load_study(name, STUDIES)
    runs = variants(name, study, scale)  # type: ignore[arg-type]
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        settings = run.params(ROOT / "params.yaml").pretrain
        images = round(settings.images_fraction * IMAGES[scale])
        check(settings, images, 1)
        if settings.dictionary.about.fills == "queue":
            assert (
                settings.negatives < images
            )  # a dictionary of one epoch at most, so that keys are not of the very image
        assert run.params(ROOT / "params.yaml").pretrain.seed == run.seed


@pytest.mark.parametrize("scale", SCALES)
def test_the_axis_of_the_mechanisms_is_the_number_of_negatives(scale: str) -> None:
    for run in variants("mechanisms", load_study("mechanisms", STUDIES), scale):  # type: ignore[arg-type]
        assert run.params(ROOT / "params.yaml").pretrain.negatives == run.x


@pytest.mark.parametrize("name", names(STUDIES))
def test_published_figures_belong_to_a_series_and_a_place_of_the_papers_grid(name: str) -> None:
    study = load_study(name, STUDIES)
    places = {run.point for run in variants(name, study, "paper")}
    for entry in study.published:
        assert {(entry.series, x) for x in entry.values} <= places


def test_runs_differ_only_in_what_the_axis_and_the_series_say() -> None:
    study = load_study("momentum", STUDIES)
    runs = variants("momentum", study, "laptop")
    first = runs[0].params(ROOT / "params.yaml").pretrain.model_dump()
    for run in runs:
        other = run.params(ROOT / "params.yaml").pretrain.model_dump()
        assert {key for key in first if first[key] != other[key]} <= {"dictionary", "seed"}


def test_a_laptop_keeps_the_views_of_ones_own_images_and_the_paper_brings_its_own(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["pretrain"]["views"]["crop_scale_min"] = 0.33
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    study = load_study("momentum", STUDIES)
    views = [
        variants("momentum", study, scale)[0].params(tmp_path / "params.yaml").pretrain.views
        for scale in ("laptop", "paper")
    ]
    assert [one.crop_scale_min for one in views] == [0.33, 0.2]


def test_seeds_can_be_others_and_the_first_of_all_points_comes_before_the_second_of_any() -> None:
    study = load_study("shuffle-bn", STUDIES)
    runs = variants("shuffle-bn", study, "laptop", [5, 7])
    assert [run.seed for run in runs] == [5, 5, 7, 7]
    assert runs[0].name == "shuffle-bn-laptop-moco-with-s5"


def test_parameters_are_counted_in_millions() -> None:
    assert place("parameters", "any", "resnet50") == pytest.approx(23.508, abs=0.001)
    assert place("log2", 256, "resnet50") == 256
    assert place("categories", "v1", "resnet50") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": [{"series": "a", "x": 1}, {"series": "A", "x": 1}]}, "two runs a-1"),
        ({"set": {"report.views": 3}}, "report.views is not SECTION.KEY"),
        ({"set": {"pretrain": 3}}, "pretrain is not SECTION.KEY"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "name each once"),
        ({"runs": [{"series": "a", "x": "many"}]}, "x = 'many' has no place on a linear axis"),
        ({"color": "red"}, "color is no known key"),
    ],
)
def test_a_mistake_in_a_studys_file_is_one_line_that_names_it(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(MocoError) as error:
        load_study("mine", write(tmp_path, small(**changes)))
    assert said in str(error.value)
    assert "mine.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "x", "published", "said"),
    [
        ("log2", 64, ["K=512"], "x = 'K=512' has no place on a log2 axis"),
        ("log2", 64, [0], "x = 0 has no place on a log2 axis"),
        ("parameters", "resnet18", ["resnet5"], "x = 'resnet5' is not an encoder"),
        ("parameters", "ours", ["resnet50"], "x = 'ours' is not an encoder"),
        ("categories", "v1", ["v1", "v1"], "published has two figures of a at 'v1'; keep one"),
    ],
)
def test_a_place_that_cannot_be_drawn_is_told_before_anything_runs(
    tmp_path: Path, kind: str, x: int | str, published: list[int | str], said: str
) -> None:
    values = small(runs=[{"series": "a", "x": x}])
    values["axis"] = {"label": "x", "kind": kind}
    values["published"] = [
        {"of": "ImageNet", "series": "a", "known": "from memory", "values": {place: 60.0}} for place in published
    ]
    with pytest.raises(MocoError) as error:
        load_study("mine", write(tmp_path, values))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_value_that_is_not_allowed_names_the_run(tmp_path: Path) -> None:
    runs = [{"series": "a", "x": 1, "set": {"pretrain.dictionary.momentum": 2}}]
    run = variants("mine", load_study("mine", write(tmp_path, small(runs=runs))), "laptop")[0]
    with pytest.raises(MocoError, match=r"run mine-laptop-a-1-s0: pretrain\.dictionary\.momentum = 2"):
        run.params(ROOT / "params.yaml")


def test_an_unknown_study_or_scale_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(MocoError, match="no such study; there are: mine"):
        load_study("other", write(tmp_path, small()))
    with pytest.raises(MocoError, match="has no scale paper; choose one of laptop"):
        variants("mine", load_study("mine", tmp_path), "paper")
