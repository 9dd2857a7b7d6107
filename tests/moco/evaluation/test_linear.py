"""The linear protocol: the probes against plain PyTorch, and what is chosen where."""

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from small_material import write_gray_numbers
from torch import nn

from moco.config import load_params
from moco.encoders.frozen import EncoderSpec, random_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.errors import MocoError
from moco.evaluation.linear import LinearProbes, evaluate, train_probes, validation_accuracies
from moco.features import extract as reading
from moco.features.extract import Extractor, Labelled, embed_images, extract, pixels, sample_indices
from moco.images.decode import decode
from moco.images.index import open_split

SETTINGS = load_params(Path(__file__).parents[3] / "params.yaml").linear
DIMENSION = ResNet("thin", "small").feature_dim
SPEC = EncoderSpec(network_of("thin", "small"), 16, 1.0, IMAGENET_MEAN, IMAGENET_STD, DIMENSION, "test")


def test_every_probe_is_what_sgd_on_cross_entropy_gives_at_its_rate():
    settings = SETTINGS.model_copy(update={"learning_rates": [0.1, 3.0], "weight_decay": 0.01})
    probes = LinearProbes(6, 4, settings)
    layers, optimizers = [], []
    for number, rate in enumerate(settings.learning_rates):
        layer = nn.Linear(6, 4)
        layer.weight.data.copy_(probes.weight.view(2, 4, 6)[number])
        nn.init.zeros_(layer.bias)
        layers.append(layer)
        optimizers.append(torch.optim.SGD(layer.parameters(), rate, momentum=0.9, weight_decay=0.01))
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        x, y = torch.randn(5, 6, generator=generator), torch.randint(0, 4, (5,), generator=generator)
        decay = 0.1 if step >= 4 else 1.0
        probes.step(x, y, decay)
        for layer, optimizer, rate in zip(layers, optimizers, settings.learning_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * decay
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(x), y).backward()
            optimizer.step()
    for number, layer in enumerate(layers):
        assert torch.allclose(probes.weight.view(2, 4, 6)[number], layer.weight, atol=1e-5)
        assert torch.allclose(probes.bias.view(2, 4)[number], layer.bias, atol=1e-5)


def test_probabilities_that_teach_nothing_are_zero_since_a_cpu_is_slow_with_such_numbers():
    probes = LinearProbes(1, 3, SETTINGS.model_copy(update={"learning_rates": [1.0], "weight_decay": 0.0}))
    before = probes.weight.copy_(torch.tensor([[0.0], [-20.0], [-95.0]])).clone()
    probes.step(torch.ones(1, 1), torch.tensor([0]), 1.0)
    moved = (probes.weight != before).flatten().tolist()
    assert moved == [False, False, False]  # to rounding
    assert (probes._weight_motion != 0).flatten().tolist() == [False, True, False]


def test_rates_fall_to_a_tenth_after_three_and_four_fifths(small_project, monkeypatch):
    decays = []
    monkeypatch.setattr(LinearProbes, "step", lambda self, features, labels, decay: decays.append(decay))
    train = Labelled.of(open_split(small_project / "data/shards", "train"))
    settings = SETTINGS.model_copy(update={"epochs": 5, "batch_size": 10**6})
    train_probes(Extractor("pixels", pixels, "pixels", 16, 1.0), train, settings)
    assert decays == pytest.approx([1, 1, 1, 0.1, 0.01])


def test_weights_start_small_and_biases_at_zero():
    probes = LinearProbes(500, 10, SETTINGS)
    assert probes.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not probes.bias.any()


def test_a_rate_that_diverges_does_not_win(small_project):
    train, val = (Labelled.of(open_split(small_project / "data/shards", split)) for split in ("train", "val"))
    settings = SETTINGS.model_copy(update={"learning_rates": [0.1, float("inf")], "epochs": 3})
    extractor = Extractor("pixels", pixels, "pixels", 16, 1.0)
    probes, _ = train_probes(extractor, train, settings)
    accuracies = validation_accuracies(extractor, probes, val)
    assert accuracies[0] > 0.5
    assert math.isnan(accuracies[1])


def test_a_classifier_that_diverged_is_never_chosen_and_if_all_have_nothing_is_scored(small_project):
    splits = [Labelled.of(open_split(small_project / "data/shards", split)) for split in ("train", "val", "test")]
    extractor = Extractor("pixels", pixels, "pixels", 16, 1.0)
    mixed = SETTINGS.model_copy(update={"learning_rates": [float("inf"), 1e-9], "epochs": 1})
    found = evaluate(extractor, *splits, mixed)
    assert found.learning_rate == 1e-9
    assert math.isnan(found.val_top1[0]) and not math.isnan(found.val_top1[1])
    diverged = SETTINGS.model_copy(update={"learning_rates": [float("inf"), 1e30], "epochs": 1})
    with pytest.raises(MocoError, match=r"the classifiers of all learning rates diverged.*lower linear.learning_rates"):
        evaluate(extractor, *splits, diverged)


@pytest.mark.parametrize(
    ("value", "told"),
    [(float("nan"), "are not finite"), (float("inf"), "are not finite"), (0.5, "have the very same features")],
)
def test_features_that_say_nothing_are_never_scored(small_project, value, told):
    splits = [Labelled.of(open_split(small_project / "data/shards", split)) for split in ("train", "val", "test")]
    for name, remedy in (("moco", "the encoder has"), ("random", "training has no part in them")):
        broken = Extractor(name, lambda images: torch.full((len(images), 4), value), "broken", 16, 1.0)
        with pytest.raises(MocoError, match=f"linear: {name}: .*{told}.*; {remedy}"):
            evaluate(broken, *splits, SETTINGS)


@pytest.mark.parametrize("views", ["center", "augmented"])
def test_the_rate_is_chosen_on_validation_and_test_is_scored_with_it(small_project, views):
    train, val, test = (
        Labelled.of(open_split(small_project / "data/shards", split)) for split in ("train", "val", "test")
    )
    settings = SETTINGS.model_copy(update={"learning_rates": [1e-9, 0.3], "epochs": 4, "views": views})
    encoder = random_encoder(SPEC, 0)
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    found = evaluate(Extractor("random", encoder.embed, "hash", 16, 1.0), train, val, test, settings)
    assert found.learning_rate == settings.learning_rates[int(np.argmax(found.val_top1))] == 0.3
    assert found.linear_top1 == (found.predicted == test.labels).mean()
    assert found.linear_top5 == 1.0  # of three classes
    assert all(torch.equal(value, before[name]) for name, value in encoder.backbone.state_dict().items())


@pytest.mark.parametrize("views", ["center", "augmented"])
def test_several_devices_find_what_one_does(small_project, views):
    train, val, test = (
        Labelled.of(open_split(small_project / "data/shards", split)) for split in ("train", "val", "test")
    )
    settings = SETTINGS.model_copy(update={"learning_rates": [1e-9, 0.3, 0.1], "epochs": 2, "views": views})
    found = []
    for count in (1, 2, 5):  # 2: the rates do not divide; 5: more than rates
        devices = [torch.device("cpu")] * count
        extractor = Extractor("random", random_encoder(SPEC, 0, devices).launch, "hash", 16, 1.0)
        found.append(evaluate(extractor, train, val, test, settings, devices))
    for other in found[1:]:
        assert (other.predicted == found[0].predicted).all()
        assert replace(other, predicted=found[0].predicted) == found[0]


def test_each_device_trains_its_share_of_the_rates(small_project):
    train = Labelled.of(open_split(small_project / "data/shards", "val"))
    settings = SETTINGS.model_copy(update={"learning_rates": [0.1, 1.0, 2.0], "epochs": 1})
    probes, _ = train_probes(Extractor("pixels", pixels, "p", 16, 1.0), train, settings, [torch.device("cpu")] * 2)
    assert [one.settings.learning_rates for one in probes] == [[0.1, 1.0], [2.0]]


def levels(images: torch.Tensor) -> torch.Tensor:
    """A gray image's number, one-hot: features that say exactly which image they are of."""
    return nn.functional.one_hot(images[:, 0, 0, 0].long(), 40).float()


def test_features_stay_with_their_labels_in_any_order(tmp_path):
    images = open_split(write_gray_numbers(tmp_path), "train")
    ordered = Labelled.of(images)
    settings = SETTINGS.model_copy(update={"learning_rates": [3.0], "epochs": 40, "knn_k": 1})
    extractor = Extractor("levels", levels, "levels", 8, 1.0)
    order = np.random.default_rng(0).permutation(len(ordered.labels))
    shuffled = Labelled(images, ordered.indices[order], ordered.labels[order])
    for train, val, test in ((ordered, ordered, shuffled), (shuffled, ordered, ordered), (ordered, shuffled, ordered)):
        found = evaluate(extractor, train, val, test, settings)
        assert found.predicted.tolist() == test.labels.tolist()
        assert (found.val_top1, found.linear_top1, found.linear_top5, found.knn_top1) == ([1.0], 1.0, 1.0, 1.0)


def test_the_rate_falls_to_a_tenth_at_60_and_at_80_percent_of_the_epochs(small_project, monkeypatch):
    decays = []
    monkeypatch.setattr(LinearProbes, "step", lambda self, features, labels, decay: decays.append(decay))
    train = Labelled.of(open_split(small_project / "data/shards", "val"))
    settings = SETTINGS.model_copy(update={"epochs": 10, "batch_size": len(train.labels)})
    train_probes(Extractor("pixels", pixels, "pixels", 16, 1.0), train, settings)
    assert decays == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 2)


def test_each_epoch_has_another_order_and_every_image_once(small_project, monkeypatch):
    seen = []
    monkeypatch.setattr(LinearProbes, "step", lambda self, features, labels, decay: seen.append(labels.tolist()))
    train = Labelled.of(open_split(small_project / "data/shards", "val"))
    settings = SETTINGS.model_copy(update={"epochs": 2, "batch_size": 7})
    train_probes(Extractor("pixels", pixels, "pixels", 16, 1.0), train, settings)
    first, second = (list(chain(*part)) for part in np.array_split(np.array(seen, dtype=object), 2))
    assert first != second
    assert sorted(first) == sorted(second) == sorted(train.labels.tolist())
    assert max(len(batch) for batch in seen) == len(seen[0]) == 7


def test_classes_are_ranked_by_their_logits_for_each_rate():
    settings = SETTINGS.model_copy(update={"learning_rates": [0.1, 1.0, 2.0]})
    probes = LinearProbes(6, 9, settings)
    probes.weight.normal_(generator=torch.Generator().manual_seed(0))
    features = np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)  # more than a block
    ranked = probes.ranked(features)
    expected = probes.logits(torch.from_numpy(features)).argsort(dim=2, descending=True)[:, :, :5]
    assert ranked.shape == (5000, 3, 5)
    assert (ranked == expected.numpy()).all()
    assert (probes.ranked(features[:8], at_most=2) == expected.numpy()[:8, :, :2]).all()


def test_features_of_files_and_of_decoded_images_agree(small_project):
    images, encoder = open_split(small_project / "data/shards", "val"), random_encoder(SPEC, 0)
    some = np.array([3, 0, 7])
    by_index = extract(encoder, images, some)
    by_pixels = embed_images(encoder, [decode(images.read(int(number))) for number in some])
    assert by_index.shape == (3, SPEC.feature_dim)
    assert np.allclose(by_index, by_pixels, atol=1e-6)
    assert np.array_equal(extract(encoder, images, some, num_workers=1), by_index)


def test_features_are_extracted_once_and_kept_for_the_same_images_and_weights(small_project, tmp_path):
    images, calls = open_split(small_project / "data/shards", "val"), []

    def featurizer(batch):
        calls.append(len(batch))
        return pixels(batch)

    some, plain = np.arange(20), Extractor("pixels", featurizer, "one", 16, 1.0)
    kept = replace(plain, cache=tmp_path / "features")
    expected = plain.center(images, some)
    assert isinstance(kept.center(images, some), np.memmap)
    calls.clear()
    assert np.array_equal(kept.center(images, some), expected)
    assert not calls
    for other, which in ((replace(kept, fingerprint="two"), some), (replace(kept, size=8), some), (kept, some[:5])):
        assert len(other.center(images, which)) == len(which)
        assert calls == [len(which)]
        calls.clear()
    assert kept.center(images, some[:0]).shape == (0, 0)


def test_an_extraction_that_breaks_off_leaves_nothing_behind(small_project, tmp_path):
    images = open_split(small_project / "data/shards", "val")

    def breaks_off(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Extractor("broken", breaks_off, "x", 16, 1.0, 1, tmp_path).center(images, np.arange(20))
    assert not list(tmp_path.iterdir())


def test_the_pixel_baseline_is_the_image_itself_reduced_to_32_at_most():
    images = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    assert torch.equal(pixels(images), images.flatten(1) / 255)
    assert pixels(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).shape == (1, 3 * reading.PIXELS_SIDE**2)


def test_a_sample_has_no_repetition_and_depends_on_the_seed():
    chosen = sample_indices(1000, 50, seed=1)
    assert len(set(chosen.tolist())) == 50
    assert (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, sample_indices(1000, 50, seed=2))
    assert sample_indices(10, 50, seed=1).tolist() == list(range(10))
