"""Classification by whole networks: shares of the labels, accuracies, training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transfer_material import settings

from moco.cluster.machine import Machine
from moco.encoders.kinds import network_of
from moco.encoders.start import start_from
from moco.features.extract import Labelled
from moco.images.batches import read_image
from moco.images.index import open_split
from moco.images.views import center_view
from moco.processes import Processes
from moco.transfer.finetune import FineTune, finetune
from moco.transfer.networks.classification import Classifier, accuracies, share_of_labels
from moco.transfer.schedules import LabelSizes
from moco.transfer.tasks import optimizer_of

ALONE = Processes(0, 1, torch.device("cpu"))
START = start_from("random", network_of("thin", "small-stride2"), 0)
SIZES = LabelSizes(16, 20)


@pytest.fixture(scope="module")
def train(small_project: Path) -> Labelled:
    return Labelled.of(open_split(small_project / "data/shards", "train"))


@pytest.fixture(scope="module")
def val(small_project: Path) -> Labelled:
    return Labelled.of(open_split(small_project / "data/shards", "val"))


def test_a_share_of_the_labels_is_the_same_share_of_each_class(train):
    tenth = share_of_labels(train, 0.1, seed=0)
    for label in range(3):
        whole = int((train.labels == label).sum())
        assert (tenth.labels == label).sum() == round(whole / 10)
    assert len(set(tenth.indices.tolist())) == len(tenth.indices)
    assert np.array_equal(train.images.labels[tenth.indices], tenth.labels)


def test_a_tiny_share_keeps_one_image_of_each_class(train):
    assert sorted(share_of_labels(train, 1e-6, seed=0).labels.tolist()) == [0, 1, 2]


def test_the_choice_depends_on_the_seed_and_a_larger_share_holds_the_smaller(train):
    small, large, other = (
        set(share_of_labels(train, fraction, seed).indices.tolist())
        for fraction, seed in ((0.1, 0), (0.3, 0), (0.1, 1))
    )
    assert small < large
    assert small != other
    assert len(share_of_labels(train, 1.0, 0).labels) == len(train.labels)


def test_accuracies_are_those_of_the_central_squares(val):
    model = Classifier(START, 6, seed=0).eval()
    found = accuracies(model, val, SIZES, ALONE, num_workers=0)
    views = np.stack([center_view(read_image(val.images, int(n)), 16, 16 / 20) for n in val.indices])
    with torch.no_grad():
        ranked = model(torch.from_numpy(views).permute(0, 3, 1, 2)).argsort(dim=1, descending=True).numpy()
    assert found["top1"] == pytest.approx((ranked[:, 0] == val.labels).mean())
    assert found["top5"] == pytest.approx((ranked[:, :5] == val.labels[:, None]).any(axis=1).mean())
    assert found["top1"] < found["top5"]


def test_processes_share_the_images_and_count_together(val):
    model, counts = Classifier(START, 3, seed=0).eval(), []

    class Peer(Processes):
        def gather_objects(self, value):
            counts.append(value)
            return list(counts)

    both = [accuracies(model, val, SIZES, Peer(rank, 2, torch.device("cpu")), 0) for rank in range(2)][1]
    assert both == pytest.approx(accuracies(model, val, SIZES, ALONE, 0))


def test_the_network_starts_from_the_backbone_and_the_classifier_from_the_seed():
    first, second, other = (Classifier(START, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first.network.conv1.weight, START.network.conv1.weight)
    assert torch.equal(first.fc.weight, second.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)
    assert not first.fc.bias.any()


def test_the_classifier_of_few_labels_has_a_rate_of_its_own():
    model = Classifier(START, 4, 0)
    groups = optimizer_of(model, settings("classification", schedule="labels-1%")).param_groups
    (fast,) = (group for group in groups if group["factor"] != 1)
    assert fast["factor"] == 250
    assert {id(parameter) for parameter in fast["params"]} == {id(model.fc.weight), id(model.fc.bias)}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(group["weight_decay"] == 0 for group in groups)


def test_fine_tuning_learns_from_a_share_of_the_labels(train, val, tmp_path):
    chosen = settings(
        "classification",
        schedule="labels-10%",
        iterations=30,
        batch_size=16,
        label_fraction=0.3,
        learning_rate=0.3,
        precise_bn_batches=4,
    )
    model = finetune(FineTune(chosen, START, train, 0, tmp_path, Machine(num_workers=0), ALONE))
    assert accuracies(model, val, SIZES, ALONE, 0)["top1"] > 0.8
