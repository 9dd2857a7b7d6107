"""A trial: what names it, what it starts from, and what its pictures show."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transfer_material import annotated_set, settings

from moco.encoders.build import build_encoder
from moco.encoders.frozen import load_encoder, random_encoder, save_encoder
from moco.encoders.kinds import network_of
from moco.errors import MocoError
from moco.transfer import finetune
from moco.transfer.config import Comparison, Semantic
from moco.transfer.data.annotations import Detections
from moco.transfer.data_config import VocMaps
from moco.transfer.finetune import FineTune
from moco.transfer.trial import LEAST_SCORE, Trial, least_score, work, write_job


def detections(scores: list[float]) -> Detections:
    count = len(scores)
    return Detections(
        np.zeros(count, np.int64),
        np.zeros((count, 4), np.float32),
        np.array(scores, np.float32),
        np.zeros(count, np.int64),
    )


def test_pictures_show_about_as_many_detections_as_there_are_objects(tmp_path):
    images = annotated_set(tmp_path, images=2)
    objects = len(images.labels)
    assert least_score(images, detections([0.9] * (objects + 1))) == LEAST_SCORE
    assert least_score(images, detections([0.9, *[0.237] * objects])) == 0.23
    assert least_score(images, detections([])) == LEAST_SCORE


def test_an_untrained_encoder_is_drawn_for_each_seed_and_a_trained_one_is_not(tmp_path: Path):
    comparison: Comparison = None  # type: ignore[assignment]  # weights depend on the rest alone
    spec = load_spec(tmp_path)
    first, again, other = (Trial(comparison, str(tmp_path / "trained"), seed).start() for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint == other.fingerprint
    (tmp_path / "random").mkdir()
    (tmp_path / "random/encoder.json").write_text(json.dumps(spec | {"training_hash": "random"}))
    drawn = [Trial(comparison, str(tmp_path / "random"), seed).start() for seed in (0, 0, 1)]
    assert drawn[0].fingerprint == drawn[1].fingerprint != drawn[2].fingerprint
    assert torch.equal(drawn[0].network.conv1.weight, drawn[1].network.conv1.weight)


def test_a_job_keeps_what_a_person_knows_of_the_file_that_it_starts_from(tmp_path, monkeypatch):
    network = network_of("timm:test_efficientnet")
    torch.save(build_encoder(network).state_dict(), tmp_path / "a.pth")
    comparison = Comparison[VocMaps, Semantic](
        data=VocMaps(format="voc", path="voc", train=["2012/train"], test=["2012/test"], max_bad_fraction=0),
        training=settings("semantic"),
    )
    trial = Trial(comparison, str(tmp_path / "a.pth"), 0, "small", network)
    assert trial.start().kind == network
    with pytest.raises(MocoError, match="fits none of the known architectures"):
        Trial(comparison, trial.weights, 0).start()
    write_job(tmp_path, trial)
    seen = []
    monkeypatch.setattr("moco.transfer.trial.Sets.of", lambda comparison: None)
    monkeypatch.setattr("moco.transfer.trial.run_trial", lambda trial, *_: seen.append(trial))
    work(tmp_path)
    assert seen == [trial]


def test_a_file_that_tells_its_network_need_not_be_of_the_comparisons(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "hash_of", lambda images: "data")
    torch.save(build_encoder("resnet18").state_dict(), tmp_path / "a.pth")
    torch.save(build_encoder("thin", "small-stride2").state_dict(), tmp_path / "b.pth")
    comparison: Comparison = None  # type: ignore[assignment]  # weights depend on the rest alone
    thin = network_of("thin", "small-stride2")
    assert Trial(comparison, str(tmp_path / "a.pth"), 0, None, thin).start().kind == network_of("resnet18")
    told, asked = (Trial(comparison, str(tmp_path / "b.pth"), 0, None, one).start() for one in (None, thin))
    assert (told.kind.stem, asked.kind.stem) == ("small", "small-stride2")
    assert told.fingerprint == asked.fingerprint
    names = {FineTune(settings("semantic"), start, None, 0, tmp_path, None, None).name() for start in (told, asked)}
    assert len(names) == 2  # the same weights in another network are another run


def load_spec(folder: Path) -> dict[str, object]:
    """Leave a trained encoder in the folder, and give its description."""
    from moco.encoders.frozen import EncoderSpec
    from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD

    spec = EncoderSpec(network_of("thin", "small-stride2"), 28, 1.0, IMAGENET_MEAN, IMAGENET_STD, 256, "0" * 16)
    save_encoder(folder / "trained", random_encoder(spec, 3).backbone, spec)
    load_encoder(folder / "trained")
    return json.loads((folder / "trained/encoder.json").read_text())


def test_a_job_that_was_changed_by_hand_is_named(tmp_path):
    (tmp_path / "transfer.yaml").write_text("seed: 0\nweights: x\ncomparison: {data: 1}\n")
    with pytest.raises(MocoError, match=r"transfer\.yaml: was changed by hand .*; start the run again"):
        work(tmp_path)
