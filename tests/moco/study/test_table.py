import pytest
from study_records import ROOT, records_of

from moco.study.definition import load_study
from moco.study.epochs import courses
from moco.study.record import epochs_of
from moco.study.table import points_of


def study(name: str):
    return load_study(name, ROOT / "studies")


def test_a_point_is_the_mean_of_its_seeds_and_their_deviation() -> None:
    records = records_of("momentum", "laptop", lambda run: 0.8 + 0.01 * run.seed)  # 0.80 0.81 0.82
    point = points_of(study("momentum"), records, "laptop")[1]
    assert (point.x, point.published, point.known) == (0.9, 55.2, "second-hand")
    assert point.mean == pytest.approx(0.81)
    assert point.std == pytest.approx(0.01)  # n - 1


def test_points_come_in_the_order_of_the_file_whatever_the_records() -> None:
    records = records_of("momentum", "laptop", lambda run: 0.8)
    points = points_of(study("momentum"), records[::-1][:13], "laptop")
    assert [point.x for point in points] == [0, 0.9, 0.99, 0.999, 0.9999]
    assert [len(point.values) for point in points] == [2, 2, 3, 3, 3]


def test_runs_without_accuracy_make_no_point_and_a_single_seed_has_no_deviation() -> None:
    assert points_of(study("momentum"), records_of("momentum", "laptop", lambda run: None), "laptop") == []
    (point, *_) = points_of(study("width"), records_of("width", "laptop", lambda run: 0.8), "laptop")
    assert point.std is None


def test_an_epochs_pretext_accuracy_is_the_mean_of_its_rows() -> None:
    curves = [{"epoch": e, "top1": t} for e, t in (("0.5", "0.1"), ("1.0", "0.3"), ("1.5", "0.4"), ("2.0", "0.6"))]
    assert epochs_of(curves, [{"epoch": "2", "knn_top1": "0.7"}]) == [
        {"epoch": 1.0, "pretext_top1": pytest.approx(0.2), "knn_top1": None},
        {"epoch": 2.0, "pretext_top1": pytest.approx(0.5), "knn_top1": 0.7},
    ]


def test_a_course_is_the_mean_of_the_seeds_at_the_epochs_that_all_have() -> None:
    records = records_of("shuffle-bn", "laptop", lambda run: 0.8)
    late = [row | {"pretext_top1": 1.0} for row in records[0].epochs[2:]]
    records[0] = records[0].model_copy(update={"epochs": late})
    pretext, knn = courses(records)[:2]
    assert (pretext.series, pretext.x, pretext.measure, knn.measure) == ("MoCo", "with", "pretext_top1", "knn_top1")
    assert pretext.epochs == knn.epochs == tuple(range(3, 9))
    assert pretext.means[0] == pytest.approx((1 + 2 * (1 - 0.5**3)) / 3)
    assert pretext.stds[0] > 0 and knn.stds[0] == pytest.approx(0)
