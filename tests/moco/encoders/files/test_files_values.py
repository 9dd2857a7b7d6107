"""Values: what is converted and said, and what cannot be right."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import LAYOUTS, thin
from torch import Tensor

from moco.encoders.files import read
from moco.encoders.files.describe import groups
from moco.encoders.resnet import ResNet
from moco.errors import MocoError


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return dict(thin().state_dict())


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("conv1.weight", lambda v: v * float("nan"), "conv1.weight holds 4704 of 4704 values that are NaN or infinite"),
        ("layer1.0.bn1.bias", lambda v: v / 0, "layer1.0.bn1.bias holds"),
        ("bn1.running_var", lambda v: v - v.max() + 0.5, "bn1.running_var holds a negative variance (-0."),
        ("conv1.weight", lambda v: v.to(torch.int8), "conv1.weight holds int8 numbers, not weights"),
        ("conv1.weight", lambda v: v.to(torch.complex64), "conv1.weight holds complex64 numbers"),
    ],
)
def test_values_that_cannot_be_right_are_refused_by_name(tmp_path, weights, name, change, said):
    path = saved(tmp_path, {**weights, name: change(weights[name])})
    with pytest.raises(MocoError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: backbone: {said}") and "\n" not in str(error.value)


def test_values_of_the_head_and_queue_are_checked_too(tmp_path, weights):
    for key, part in (("module.encoder_q.fc.0.bias", "head"), ("module.queue", "queue")):
        made = LAYOUTS["official v2"].make(weights)
        made["state_dict"][key][0] = float("inf")
        with pytest.raises(MocoError, match=f"{part}: "):
            read(saved(tmp_path, made))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32_and_that_is_said(tmp_path, weights, kind):
    changed = {name: v.to(getattr(torch, kind)) if v.is_floating_point() else v for name, v in weights.items()}
    found = read(saved(tmp_path, changed))
    assert found.notes == (f"tensors of {kind}, now float32 ({sum(v.is_floating_point() for v in weights.values())})",)
    assert torch.equal(found.backbone["conv1.weight"], changed["conv1.weight"].float())
    ResNet("thin").load_state_dict(found.backbone)


def test_arrays_become_tensors_and_missing_counters_zero(tmp_path, weights):
    arrays = {name: v.numpy() for name, v in weights.items() if "num_batches" not in name}
    arrays["conv1.weight"] = arrays["conv1.weight"].astype(">f4")  # the other order of bytes
    arrays["bn1.weight"] = arrays["bn1.weight"].astype(np.longdouble)
    found = read(saved(tmp_path, arrays))
    assert torch.equal(found.backbone["conv1.weight"], weights["conv1.weight"])
    ResNet("thin").load_state_dict(found.backbone)
    assert found.notes == (
        "arrays of NumPy, now tensors (60)",
        "tensors of float64, now float32 (1)",
        "missing num_batches_tracked, now 0 (12)",
    )


def test_statistics_of_split_batch_norms_are_averaged_over_their_parts(tmp_path, weights):
    parts = torch.stack([weights["bn1.running_mean"], weights["bn1.running_mean"] + 2])
    found = read(saved(tmp_path, {**weights, "bn1.running_mean": parts.flatten()}))
    assert torch.allclose(found.backbone["bn1.running_mean"], weights["bn1.running_mean"] + 1)
    assert found.notes == ("statistics of split batch norm, now the mean of 2 parts (1)",)
    odd = {**weights, "bn1.running_mean": parts.flatten()[:-1]}
    assert "bn1.running_mean is 63 and not 32" in read(saved(tmp_path, odd)).difference


def test_stray_keys_are_named_and_do_no_harm(tmp_path, weights):
    stray = {"num_batches_tracked": torch.tensor(1), "fc.weight": torch.ones(2), "fc.bias": torch.ones(1)}
    found = read(saved(tmp_path, {**weights, **stray}))
    assert found.architecture == "thin" and groups(found.unused) == ["num_batches_tracked", "fc.* (2)"]


def test_a_network_that_fits_nothing_says_its_first_difference(tmp_path, weights):
    for change, expected in (
        ({"layer3.0.bn2.bias": None}, "in the nearest, thin, layer3.0.bn2.bias is missing"),
        ({"layer3.1.se.weight": torch.ones(2)}, "thin, layer3.1.se.weight is unexpected"),
        ({"layer1.0.conv2.weight": torch.ones(3, 32, 3, 3)}, "is 3 x 32 x 3 x 3 and not 32 x 32 x 3 x 3"),
        ({"conv1.weight": torch.ones(32, 1, 7, 7)}, "conv1.weight is 32 x 1 x 7 x 7 and not 32 x 3 x 7 x 7"),
    ):
        found = read(saved(tmp_path, {name: v for name, v in {**weights, **change}.items() if v is not None}))
        assert found.architecture is None and expected in found.difference


def test_a_key_encoder_that_does_not_fit_is_left_out_and_that_is_said(tmp_path, weights):
    made = LAYOUTS["official v2"].make(weights)
    del made["state_dict"]["module.encoder_k.layer3.0.bn2.bias"]
    found = read(saved(tmp_path, made))
    assert found.architecture == "thin" and found.key_backbone == {} and groups(found.unused) == ["encoder_k.* (59)"]
    assert "the key encoder encoder_k.* is unlike the encoder (layer3.0.bn2.bias) and is not read" in found.notes


def test_two_encoders_in_no_known_layout_are_refused_and_in_a_known_one_the_choice_is_said(tmp_path, weights):
    both = {f"{prefix}{n}": v for n, v in weights.items() for prefix in ("left.", "right.")}
    with pytest.raises(MocoError, match=r"holds 2 ResNets, left\.\* and right\.\*, in no known layout"):
        read(saved(tmp_path, both))
    found = read(saved(tmp_path, LAYOUTS["DINO"].make(weights)))
    assert "of 2 encoders teacher.backbone.* is read" in found.notes
    found = read(saved(tmp_path, {"state_dict": weights, "state_dict_ema": weights, "arch": "thin"}))
    assert found.architecture == "thin"


@pytest.mark.parametrize("root", ["state_dict", "model", "module", "net", "encoder", "teacher", "backbone"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.encoder."])
def test_wrappers_around_the_weights_are_taken_off(tmp_path, weights, root, prefix):
    found = read(saved(tmp_path, {root: {f"{prefix}{name}": v for name, v in weights.items()}, "epoch": 3}))
    assert (found.architecture, found.epoch, found.unused) == ("thin", 3, ())
    assert all(torch.equal(found.backbone[name], weights[name]) for name in weights)
