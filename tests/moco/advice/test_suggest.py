"""Suggested values fit the images and the machine, are valid, and each has its reason."""

from collections import Counter
from pathlib import Path

import pytest
from test_look import save

from moco import notices
from moco.advice.look import Looked, settings_for
from moco.advice.rate import images_a_second
from moco.advice.suggest import suggest
from moco.config import Params, Pretrain
from moco.errors import MocoError
from moco.images.decode import Header
from moco.settings import validate
from moco.yaml_files import read_yaml
from pipelines.cli import main


def found(tmp_path, images, side, labels=("cat", "dog"), parts=None):
    return Looked(
        settings_for(tmp_path),
        [],
        files=images,
        read=images,
        headers=[Header("PNG", "RGB", side, side + 10)] * images,
        labels=Counter({label: images // len(labels) for label in labels}),
        parts=Counter(parts or {"all": images}),
    )


@pytest.mark.parametrize("images", [40, 200, 2_000, 60_000])
@pytest.mark.parametrize("side", [12, 32, 100, 500])
@pytest.mark.parametrize(("on_gpu", "speed"), [(False, 500.0), (True, 5_000.0)])
def test_every_suggestion_is_valid_and_nothing_in_it_is_idle(tmp_path, images, side, on_gpu, speed):
    made = suggest(found(tmp_path, images, side), on_gpu, 1.0, lambda section: speed, "here")
    settings = Pretrain.model_validate(made.sections()["pretrain"])
    trained = images * 0.8
    assert settings.image_size <= max(side, 28)
    assert settings.negatives <= max(trained / 8, settings.global_batch, 64)
    assert settings.bn_group_size < settings.global_batch
    assert made.seconds <= 3600
    base = read_yaml("params.yaml") | {"pretrain": made.sections()["pretrain"]}
    base["fetch"] = base["fetch"] | made.sections()["fetch"]
    said = notices.of_params(validate(base, "", Params))
    said += notices.of_data(settings, int(trained), 100)
    assert [one for one in said if "image_size" not in one] == []
    assert all(choice.why for choice in made.choices)


def test_a_slow_machine_gets_a_smaller_network_and_what_the_time_allows(tmp_path):
    fast = suggest(found(tmp_path, 60_000, 40), False, 1.0, lambda section: 1e6, "here")
    slow = suggest(found(tmp_path, 60_000, 40), False, 1.0, lambda section: 100.0, "here")
    assert fast.sections()["pretrain"]["encoder"]["name"] == "resnet18"
    assert slow.sections()["pretrain"]["encoder"]["name"] == "thin"
    assert slow.sections()["pretrain"]["epochs"] == 100 * 3600 // 48_000
    assert any("few" in note for note in slow.notes)


def test_own_splits_and_missing_labels_are_taken_into_account(tmp_path):
    looked = found(tmp_path, 1_000, 64, labels=("",), parts={"train": 900, "val": 100})
    made = suggest(looked, False, 1.0, lambda section: 500.0, "here")
    sections = made.sections()
    assert sections["fetch"]["labels"] == "none"
    assert "val_fraction" not in sections["fetch"]
    assert any("900 training images" in choice.why for choice in made.choices)
    assert any("without labels" in note for note in made.notes)


def test_too_few_images_are_one_line(tmp_path):
    with pytest.raises(MocoError, match="15 images to train on are too few"):
        suggest(found(tmp_path, 25, 64), False, 1.0, lambda section: 500.0, "here")


def test_the_values_are_written_into_the_file_whose_comments_stay(tmp_path):
    for number in range(40):
        save(tmp_path / f"photos/{'cat' if number % 2 else 'dog'}/{number}.png", (40, 40), seed=number)
    params = tmp_path / "params.yaml"
    params.write_text(Path("params.yaml").read_text())
    main(["suggest", str(tmp_path / "photos"), "--params", str(params), "--hours", "0.01"])
    values = read_yaml(params)
    assert values["fetch"]["source"] == "folder" and values["fetch"]["path"] == str(tmp_path / "photos")
    assert values["fetch"]["split_seed"] == 0  # what was not chosen stays
    assert "# where left and right" not in params.read_text() and "# Every value that decides" in params.read_text()
    validate(values, str(params), Params)


def test_a_rate_is_measured(tmp_path):
    made = suggest(found(tmp_path, 60, 30), False, 0.01, lambda section: 500.0, "here")
    assert 0 < images_a_second(made.sections()["pretrain"], "cpu") < 1e6
