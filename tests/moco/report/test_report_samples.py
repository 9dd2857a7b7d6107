"""What the report shows of the images is drawn by seed, and neighbors never include the query."""

import numpy as np
import pytest
from patches import patches

from moco.images.index import open_split
from moco.report.samples import gather


def test_queries_come_from_validation_and_neighbors_from_training(encoder, params):
    samples = gather(encoder, patches("train", 40, 1), patches("val", 35, 2), params, 0)
    assert samples.held_out and samples.gallery == 40 and samples.mapped == 30
    assert len(samples.triples) == 3 and len(samples.rows) == 2
    for query, row in samples.rows:
        assert len(row) == 4
        assert [shown.similarity for shown in row] == sorted((s.similarity for s in row), reverse=True)
        assert [shown.same for shown in row] == [shown.name == query.name for shown in row]


def test_a_copy_of_the_query_in_the_training_set_is_its_nearest_neighbor(encoder, params):
    train = patches("train", 40, 1)
    samples = gather(encoder, train, patches("val", 40, 1), params, 0)
    for query, row in samples.rows:
        assert np.array_equal(row[0].image, query.image)
        assert row[0].similarity == pytest.approx(1, abs=1e-5)


def test_without_validation_images_the_training_set_is_parted_so_that_no_image_finds_itself(encoder, params):
    samples = gather(encoder, patches("train", 40, 1), patches("val", 0, 2), params, 0)
    assert not samples.held_out and samples.mapped == 20 and samples.gallery == 20
    for query, row in samples.rows:
        assert not any(np.array_equal(shown.image, query.image) for shown in row)


def test_images_without_labels_have_their_keys_for_names_and_no_right_or_wrong(encoder, params):
    samples = gather(encoder, patches("train", 40, 1, False), patches("val", 35, 2, False), params, 0)
    assert samples.same_class is None and samples.map is not None
    for query, row in samples.rows:
        assert query.name.startswith("val-")
        assert all(shown.same is None and shown.name.startswith("train-") for shown in row)


def test_too_few_images_give_no_map_but_collapse_measures(encoder, params):
    samples = gather(encoder, patches("train", 40, 1), patches("val", 5, 2), params, 0)
    assert samples.map is None
    assert samples.collapse["moco"].of == 5


def test_views_are_those_of_the_first_epoch_of_training(encoder, params):
    from moco.images.views import two_views

    val = patches("val", 3, 2)
    samples = gather(encoder, patches("train", 40, 1), val, params, 0)
    for number, (image, query, key) in enumerate(samples.triples):
        views = two_views(image, params.pretrain.views, 12, params.pretrain.seed, 0, number)
        assert np.array_equal(views, (query, key))


def test_the_map_is_the_same_each_time_and_another_for_another_seed(encoder, params):
    def points(seed):
        report = params.report.model_copy(update={"seed": seed})
        settings = params.model_copy(update={"report": report})
        samples = gather(encoder, patches("train", 40, 1), patches("val", 35, 2), settings, 0)
        return samples.map.points

    assert np.array_equal(points(0), points(0))
    assert not np.array_equal(points(0), points(1))
    assert points(0).min() >= 0 and points(0).max() <= 1


def test_the_images_learned_from_are_those_of_the_runs_share(encoder, params, small_project):
    train, val = (open_split(small_project / "data/shards", split) for split in ("train", "val"))
    half = params.model_copy(update={"pretrain": params.pretrain.model_copy(update={"images_fraction": 0.5})})
    found = [gather(encoder, train, val, one, 0).learned_from for one in (params, half)]
    assert found == [len(train), round(len(train) / 2)]
