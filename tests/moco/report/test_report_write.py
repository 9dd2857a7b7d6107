"""The written page is complete, the same each time, and honest about what it lacks."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hostile_names import HOSTILE, running
from mechanisms import SMALL, dictionary
from patches import patches

from moco.report.samples import gather
from moco.report.write import confusion_matrix, write_report


@pytest.fixture(scope="module")
def samples(encoder, params):
    return gather(encoder, patches("train", 40, 1), patches("val", 35, 2), params, 0)


@pytest.fixture(scope="module")
def unlabelled(encoder, params):
    train, val = patches("train", 40, 1, False), patches("val", 35, 2, False)
    return gather(encoder, train, val, params, 0)


def written(folder, results, samples, params):
    folder.mkdir()
    write_report(folder, results, samples, params)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_reports_of_the_same_run_are_the_same_to_the_byte(tmp_path, results, samples, params):
    assert written(tmp_path / "a", results, samples, params) == written(tmp_path / "b", results, samples, params)


def test_every_picture_is_shown_and_every_shown_picture_exists(tmp_path, results, samples, params):
    files = written(tmp_path / "a", results, samples, params)
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", files["report.md"].decode())
    assert sorted(shown) == sorted(name for name in files if name.endswith(".png"))
    assert files["report.html"].decode().count("data:image/png;base64,") == len(shown) == 13


def test_the_figures_of_the_run_are_in_the_text(tmp_path, results, samples, params):
    text = written(tmp_path / "a", results, samples, params)["report.md"].decode()
    for figure in (
        "**85.0 %**",
        "10.0 points above the same classifier on an untrained",
        "5.0 points above one on raw",
        "8.32",
    ):
        assert figure in text
    assert re.search(r"\| unreadable, in quarantine +\| +4 \|", text)
    assert r"blue as \<b\>red\_\* (50 %)" in text


def test_names_of_classes_run_nothing_in_the_page(tmp_path, results, samples, params):
    template = next(name for name in HOSTILE if name.startswith("{{"))
    # The text names the first four rows of the matrix: the template's and those before it.
    classes = [template, *(name for name in HOSTILE if name != template), *samples.classes]
    pairs = [(name, HOSTILE[number - 1]) for number, name in enumerate(HOSTILE)] * 30
    files = written(
        tmp_path / "a", replace(results, confusion=pairs), replace(samples, classes=classes, same_class=0.5), params
    )
    assert running(files["report.html"].decode()) == []
    text = files["report.md"].decode()
    assert "\\{\\{7\\*7\\}\\}" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        line
        for line in written(tmp_path / "b", results, samples, params)["report.md"].decode().splitlines()
        if line.startswith("#")
    ]


def test_an_accuracy_has_its_interval_and_the_commonest_class_beside_it(tmp_path, results, samples, params):
    text = words(written(tmp_path / "a", results, samples, params)["report.md"].decode())
    assert "With 95 % intervals: linear 83.7 to 86.2 %, kNN 78.5 to 81.4 %, on 3,000 test images." in text
    assert "Naming the commonest class alone gives 40.0 %." in text
    assert "85.0 % (83.7 to 86.2 %)" in text
    assert "| the commonest class alone | 40.0 %" in text


def test_of_few_images_no_collapse_is_told_and_no_test_image_is_no_missing_label(tmp_path, results, samples, params):
    split = {"images": 30, "labelled": 30}
    fetch = {**results.fetch, "train": split, "val": split, "test": {"images": 0, "labelled": 0}}
    bare = replace(results, fetch=fetch, scores={}, sweep={}, confusion=[])
    text = words(written(tmp_path / "a", bare, replace(samples, mapped=1), params)["report.md"].decode())
    assert "there is no test image, and accuracies need them." in text
    assert "Not measured: of 1 validation images chance alone makes any figure." in text
    assert "1 validation images are too few to measure their features." in text


def test_a_run_that_lost_says_so(tmp_path, results, samples, params):
    worse = replace(results.scores["moco"], linear_top1=0.7)
    text = written(tmp_path / "a", replace(results, scores={**results.scores, "moco": worse}), samples, params)[
        "report.md"
    ]
    assert "5.0 points below the same classifier on an untrained encoder" in text.decode()
    assert "⚠ The features do not beat raw pixels" in text.decode()


def test_without_labels_accuracy_is_skipped_with_the_reason_and_the_rest_is_there(
    tmp_path, results, unlabelled, params
):
    split = {"images": 30, "labelled": 0}
    fetch = {**results.fetch, "train": split, "val": split, "test": split, "classes": 0}
    bare = replace(
        results,
        fetch=fetch,
        scores={},
        sweep={},
        confusion=[],
        readings={**results.readings, "knn_top1": np.full(2, np.nan)},
    )
    files = written(tmp_path / "a", bare, unlabelled, params)
    assert "Skipped: the training images have no labels" in files["report.md"].decode()
    assert {"views.png", "loss.png", "neighbors.png", "map.png", "map-images.png"} <= set(files)
    assert not {"baselines.png", "sweep.png", "confusion.png", "knn.png"} & set(files)
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", files["report.md"].decode())
    assert sorted(shown) == sorted(name for name in files if name.endswith(".png"))


@pytest.mark.parametrize("count", [1, 12, 13, 40])
def test_any_number_of_classes_can_be_drawn(tmp_path, results, samples, params, count):
    classes = [f"class {number}" for number in range(count)]
    labels = np.arange(len(samples.map.points), dtype=np.int32) % count
    many = replace(samples, classes=classes, map=replace(samples.map, labels=labels))
    pairs = [(name, classes[0]) for name in classes]
    files = written(tmp_path / "a", replace(results, confusion=pairs), many, params)
    assert files["confusion.png"] and files["map.png"]


def test_rows_of_the_confusion_matrix_are_shares_of_the_actual_class():
    matrix = confusion_matrix([("a", "a"), ("a", "b"), ("b", "b"), ("a", "b"), ("a", "b")], ["a", "b", "c"])
    assert matrix.tolist() == [[0.25, 0.75, 0], [0, 1, 0], [0, 0, 0]]


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_last_loss_is_told_as_a_guess_among_so_many(tmp_path, results, samples, params):
    text = words(written(tmp_path / "a", results, samples, params)["report.md"].decode())
    assert (
        "It ended at 4.00: exp(4.00) ≈ 55, so the encoder is as unsure as if it guessed among 55 of the 4,097" in text
    )


def size_of(mechanism: str) -> dict[str, int]:
    return {"num_keys": 4096} if "num_keys" in SMALL[mechanism] else {}


@pytest.mark.parametrize(
    ("mechanism", "K", "said", "not_said"),
    [
        ("momentum-queue", "4,096", "Why the loss rises at first", "Nothing fills"),
        ("memory-bank", "4,096", "nothing seems to happen in the first epoch", "Why the loss rises"),
        (
            "end-to-end",
            "127",
            "K = 128 − 1 negatives are keys of real images from the first step",
            "Why the loss rises",
        ),
        (
            "momentum-batch",
            "127",
            "K = 128 − 1 negatives are keys of real images from the first step",
            "Why the loss rises",
        ),
    ],
)
def test_each_mechanism_is_explained_in_its_own_words(tmp_path, results, samples, params, mechanism, K, said, not_said):
    other = params.model_copy(
        update={
            "pretrain": params.pretrain.model_copy(update={"dictionary": dictionary(mechanism, **size_of(mechanism))})
        }
    )
    text = words(written(tmp_path / "a", results, samples, other)["report.md"].decode())
    assert said in text and not_said not in text
    assert re.search(rf"\| dictionary +\| {mechanism} ", text)
    assert re.search(rf"\| K +\| {K} ", text)


def test_warnings_of_the_run_are_on_the_page_with_their_remedies(tmp_path, results, samples, params):
    text = written(tmp_path / "a", results, samples, params)["report.md"].decode()
    assert "The run raised no warning while training." in text
    leaking = replace(results, readings={**results.readings, "leak": np.array([0.0, 0.9])})
    text = written(tmp_path / "b", leaking, samples, params)["report.md"].decode()
    said = (
        "- ⚠ Batch norm gives keys away: those encoded in their queries' groups are found 90 points more often; raise"
    )
    assert text.count(said) == 2  # as a check, and as a warning of the run


def test_what_was_not_read_has_no_chart(tmp_path, results, samples, params):
    none = replace(results, readings={name: np.zeros(0) for name in results.readings})
    assert not {"knn.png", "rank.png", "leak.png"} & set(written(tmp_path / "a", none, samples, params))
