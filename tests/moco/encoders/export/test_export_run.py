"""What may be exported to where; and nothing half-written, whatever happens."""

import shutil

import pytest
import torch
from torch import nn

from moco.encoders.export import run as running
from moco.encoders.export.run import export
from moco.encoders.export.source import read_source
from moco.encoders.export.target import Target, largest_difference
from moco.encoders.frozen import load_encoder
from moco.errors import MocoError


@pytest.fixture
def thin(source_of):
    return source_of("thin")


def test_a_checkpoint_is_read_as_the_encoder_that_it_trains(run, images):
    path, model, _ = run
    source = read_source(path)
    spec = source.spec
    assert (spec.mean, spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert (spec.training_hash, spec.image_size, spec.network.label) == ("0123456789abcdef", 32, "resnet18")
    assert all(
        torch.equal(value, source.weights[name]) for name, value in model.encoder_q.backbone.state_dict().items()
    )
    assert torch.isfinite(source.encoder.embed(images)).all()


def test_one_file_of_weights_is_enough(thin, tmp_path, images):
    export("safetensors", thin, tmp_path / "one.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (thin.path / "encoder.safetensors").read_bytes()
    alone = load_encoder(tmp_path / "one.safetensors")
    assert alone.spec == thin.spec
    assert torch.equal(alone.embed(images), thin.encoder.embed(images))
    assert read_source(tmp_path / "one.safetensors").spec == thin.spec


def test_features_that_differ_or_are_not_finite_are_no_export(thin, tmp_path, monkeypatch):
    with pytest.raises(MocoError, match=r"differ by 1\.0e-03 of the largest, more than rounding"):
        largest_difference(thin, lambda images: (f := thin.encoder.embed(images)) + 1e-3 * f.abs().max())
    with pytest.raises(MocoError, match=r"differ by nan"):
        largest_difference(thin, lambda images: thin.encoder.embed(images) * float("nan"))
    wrong = Target((".bin",), lambda _, path: path.write_text("x"), lambda *_: lambda images: images, lambda *_: "")
    monkeypatch.setattr(running, "target_of", lambda name: wrong)
    (tmp_path / "out.bin").touch()
    with pytest.raises(MocoError, match="is an empty file, which is not replaced by a file for official"):
        export("official", thin, tmp_path / "out.bin")
    (tmp_path / "out.bin").unlink()
    with pytest.raises(MocoError, match=r"gives \(5, 3, 32, 32\) there"):
        export("official", thin, tmp_path / "out.bin")
    thin.encoder.backbone.conv1.weight.fill_(float("nan"))
    with pytest.raises(MocoError, match="features that are not finite"):
        export("official", thin, tmp_path / "out.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_a_failure_leaves_the_export_from_before(source_of, tmp_path):
    good, file = source_of("resnet18"), tmp_path / "weights.pth"
    export("torchvision", good, file)
    export("torchvision", good, file)
    before = file.read_bytes()
    good.encoder.backbone.conv1.weight.fill_(float("nan"))
    for target, output in (("torchvision", file), ("hub", tmp_path / "hub")):
        with pytest.raises(MocoError, match="not finite"):
            export(target, good, output)
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "weights.pth"]


def other_things(folder, source, run):
    """Things that an export must not replace: (target, path, words of the refusal)."""
    (folder / "notes.pt2").write_text("mine")
    torch.save({"epoch": 1, "weights": [1]}, folder / "others.pth")
    torch.save(nn.Linear(2, 2).state_dict(), folder / "plain.tar")
    shutil.copy(run[0], folder / "run.pt")
    (folder / "photos").mkdir()
    (folder / "photos/cat.jpg").touch()
    shutil.copytree(source.path, folder / "second")
    return [
        ("pt2", folder / "notes.pt2", "is another kind of file"),
        ("torchvision", folder / "others.pth", "holds more than weights"),
        ("official", folder / "plain.tar", "is torchvision, which is not replaced"),
        ("torchvision", folder / "run.pt", "is a run's checkpoint"),
        ("hub", folder / "photos", "a folder with cat.jpg in it"),
        ("hub", folder / "second", "a folder with encoder.json in it"),
        ("safetensors", folder / "second/encoder.safetensors", "a part of an encoder's folder"),
        ("hub", source.path, "is what is exported"),
        ("torchvision", folder / "weights.bin", "ends in .pth or .pt"),
        ("pt2", folder / "nowhere/encoder.pt2", "there is no folder"),
        ("torchvision", folder / "photos", "ends in .pth or .pt"),
    ]


def test_only_an_export_of_the_same_kind_is_replaced(source_of, tmp_path, run):
    source = source_of("resnet18")
    things = other_things(tmp_path, source, run)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for target, path, problem in things:
        with pytest.raises(MocoError, match=problem) as error:
            export(target, source, path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("target", ["official", "torchvision", "detectron2", "pt2", "onnx", "safetensors", "hub"])
def test_the_same_export_again_replaces_itself(source_of, tmp_path, target):
    if target == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    source = source_of("resnet18" if target in ("official", "torchvision", "detectron2") else "thin")
    suffix = {"detectron2": ".pkl", "pt2": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors", "hub": ""}
    output = tmp_path / f"out{suffix.get(target, '.pth')}"
    for _ in range(2):
        export(target, source, output)


def test_what_is_no_source_is_one_line(tmp_path, run):
    torch.save({"state_dict": {}}, tmp_path / "others.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes(run[0].read_bytes()[:1000])
    (tmp_path / "text.pt").write_text("hello")
    nothing = {"others.pt": "is no checkpoint of a run", "list.pt": "holds a list", "none.pt": "No such file"}
    for name, problem in (nothing | {"cut.pt": "not a readable", "text.pt": "not a readable"}).items():
        with pytest.raises(MocoError, match=problem) as error:
            read_source(tmp_path / name)
        assert "\n" not in str(error.value) and name in str(error.value)
