import pytest
from study_records import ROOT, records_of

from moco.study.definition import load_study
from moco.study.epochs import courses, verdicts_of_courses
from moco.study.record import epochs_of
from moco.study.table import points_of, scatter, trend, verdicts


def study(name: str):
    return load_study(name, ROOT / "studies")


def test_a_point_is_the_mean_of_its_seeds_and_their_deviation() -> None:
    records = records_of("momentum", "laptop", lambda run: 0.8 + 0.01 * run.seed)  # .80 .81 .82
    point = points_of(study("momentum"), records, "laptop")[1]
    assert (point.x, point.published, point.known) == (0.9, 55.2, "second-hand")
    assert point.mean == pytest.approx(0.81)
    assert point.std == pytest.approx(0.01)  # n - 1


def test_points_come_in_the_order_of_the_file_whatever_the_records() -> None:
    records = records_of("momentum", "laptop", lambda run: 0.8)
    points = points_of(study("momentum"), records[::-1][:13], "laptop")
    assert [point.x for point in points] == [0, 0.9, 0.99, 0.999, 0.9999]
    assert [len(point.values) for point in points] == [2, 2, 3, 3, 3]


def test_runs_without_accuracy_make_no_point_and_the_sentence_says_why() -> None:
    records = records_of("momentum", "laptop", lambda run: None)
    assert points_of(study("momentum"), records, "laptop") == []
    assert verdicts(study("momentum"), []) == [
        "No accuracy was measured: it needs labels in the training, validation and test splits."
    ]


def test_the_scatter_of_a_seed_is_pooled_over_the_points() -> None:
    wide = {0: 0.02, 0.9: 0.0, 0.99: 0.0, 0.999: 0.0, 0.9999: 0.0}
    records = records_of("momentum", "laptop", lambda run: 0.8 + wide[run.x] * (run.seed - 1))  # type: ignore[index]
    assert scatter(points_of(study("momentum"), records, "laptop")) == pytest.approx((0.0004 / 5) ** 0.5)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ((1, 2, 3), 0.0, "rises throughout"),
        ((3, 2, 1), 0.0, "falls throughout"),
        ((1, 1.1, 3), 0.2, "rises, if not at every step"),
        ((3, 2.9, 1), 0.2, "falls, if not at every step"),
        ((1, 1.1, 0.9), 0.2, "stays level"),
        ((1, 3, 1), 0.2, "rises, then falls"),
        ((3, 1, 3), 0.2, "falls, then rises"),
        ((1, 3, 1, 3), 0.2, "goes up and down"),
        ((1, 1.5, 1.2), 0.15, "rises on the way, but ends level"),
        ((1, 0.5, 0.8), 0.15, "falls on the way, but ends level"),
        ((1, 1.5, 2.0, 2.5), 0.3, "rises, if not at every step"),  # no step counts, the whole does
    ],
)
def test_a_course_in_a_phrase(values: tuple[float, ...], error: float, said: str) -> None:
    assert trend(values, [error] * len(values)) == said


@pytest.mark.parametrize("direction", [1, -1])
def test_agreement_with_the_published_course_follows_from_the_numbers(direction: int) -> None:
    places = {63: 0, 64: 0, 255: 1, 256: 1, 511: 2, 1024: 2, 2048: 3}
    records = records_of(
        "mechanisms",
        "laptop",
        lambda run: 0.8 + direction * 0.02 * places[run.x] + 0.002 * run.seed,  # type: ignore[index]
    )
    moco = verdicts(study("mechanisms"), points_of(study("mechanisms"), records, "laptop"))[0]
    if direction > 0:
        assert "accuracy rises throughout (80.1 % at 64, 86.1 % at 2048" in moco
        assert "ours rises throughout, and so does theirs (from memory)" in moco
    else:
        assert "ours falls throughout, theirs rises throughout (from memory)" in moco


@pytest.mark.parametrize("lead", [0.05, 0.0001, -0.05])
def test_the_order_of_series_is_compared_where_they_meet(lead: float) -> None:
    bonus = {"MoCo": lead, "memory bank": 0.0, "end-to-end": 0.0}
    records = records_of("mechanisms", "laptop", lambda run: 0.8 + bonus[run.series] + 0.01 * run.seed)
    said = verdicts(study("mechanisms"), points_of(study("mechanisms"), records, "laptop"))
    there = next(sentence for sentence in said if sentence.startswith("At 1024"))
    assert ("not clearly above" in there) == (abs(lead) < 0.01)
    if lead > 0:
        assert there.startswith("At 1024: MoCo")
        assert "the published order is the same (from memory)" in there
    else:
        assert "the published order is MoCo, memory bank (from memory)" in there


def test_the_best_of_named_settings_is_compared_with_the_published_best() -> None:
    best = {"v1": 0.80, "MLP": 0.81, "views": 0.82, "cosine": 0.80, "v2": 0.84}
    records = records_of("v1-v2", "laptop", lambda run: best[str(run.x)] + 0.001 * run.seed)
    said = verdicts(study("v1-v2"), points_of(study("v1-v2"), records, "laptop"))[0]
    assert said.startswith(
        "Accuracy, highest: v2 (84.1 %); of those with published figures, v2 is highest here and there"
    )
    best["MLP"] = 0.9
    records = records_of("v1-v2", "laptop", lambda run: best[str(run.x)] + 0.001 * run.seed)
    said = verdicts(study("v1-v2"), points_of(study("v1-v2"), records, "laptop"))[0]
    assert said.endswith("the highest published is v2, where ours has 84.1 %.")


def test_single_seeds_are_said_to_be_single() -> None:
    records = records_of("width", "laptop", lambda run: 0.8)
    assert verdicts(study("width"), points_of(study("width"), records, "laptop"))[-1].startswith("One seed each")


def test_seeds_that_agree_exactly_are_not_said_to_be_single() -> None:
    points = points_of(study("momentum"), records_of("momentum", "laptop", lambda run: 1.0), "laptop")
    assert not any("One seed each" in sentence for sentence in verdicts(study("momentum"), points))


def test_an_epochs_pretext_accuracy_is_the_mean_of_its_rows() -> None:
    curves = [{"epoch": e, "top1": t} for e, t in (("0.5", "0.1"), ("1.0", "0.3"), ("1.5", "0.4"), ("2.0", "0.6"))]
    assert epochs_of(curves, [{"epoch": "2", "knn_top1": "0.7"}]) == [
        {"epoch": 1.0, "pretext_top1": pytest.approx(0.2), "knn_top1": None},
        {"epoch": 2.0, "pretext_top1": pytest.approx(0.5), "knn_top1": 0.7},
    ]


def test_cheating_shows_as_pretext_accuracy_that_rises_while_knn_falls() -> None:
    def cheat(epochs: list[dict[str, float | None]]) -> list[dict[str, float | None]]:
        return [row | {"pretext_top1": 1.0, "knn_top1": 0.9 - 0.05 * float(row["epoch"] or 0)} for row in epochs]

    records = records_of("shuffle-bn", "laptop", lambda run: 0.8)
    records = [r.model_copy(update={"epochs": cheat(r.epochs)}) if r.x == "without" else r for r in records]
    with_, without = verdicts_of_courses(study("shuffle-bn"), courses(records))
    assert with_.endswith("kNN at 76.0 %, its best.")
    assert without == (
        "shuffling BN, without: pretext accuracy ends at 100.0 %, kNN at 50.0 %, 35.0 points below its best (epoch 1)."
    )
