"""What is no file of weights is one line; what could run code does not run."""

import argparse
import io
import pickle
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import thin
from safetensors.torch import save_file
from torch import nn

from moco.encoders.files import read
from moco.encoders.files.inert import Unpickler
from moco.errors import MocoError


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return dict(thin().state_dict())


def refused(path: Path) -> str:
    with pytest.raises(MocoError) as error:
        read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), file)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("photos/a.txt", "a")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "`git lfs pull` fetches it"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"epoch,loss\n1,2\n", "is a text file"),
        (b"\x1f\x8b\x08\x00", "is an archive or compressed; unpack it"),
        (bytes(100), "no file of torch.save, safetensors or pickled arrays"),
        (b"\x80\x02}q\x00(X\x05", "cut short, damaged"),
        (archive(), "a zip archive without weights"),
        (pickle.dumps([1]), "holds a list, not a state dict"),
        (pickle.dumps({"epoch": 3}), "holds no tensors (its first entry is 'epoch')"),
        ((50).to_bytes(8, "little") + b'{"a": 1}' + b" " * 60, "is not a readable checkpoint (SafetensorError)"),
    ],
)
def test_what_is_no_file_of_weights_is_named_with_the_remedy(tmp_path, content, said):
    (tmp_path / "a.pth").write_bytes(content)
    assert said in refused(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_of_torchscript_is_not_run(tmp_path):
    (tmp_path / "a.pt").write_bytes(scripted())
    assert "is a TorchScript program" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors", "pickle"])
def test_a_file_that_is_cut_short_is_one_line_wherever_it_is_cut(tmp_path, weights, kind):
    path = tmp_path / "a"
    write(path, weights, kind)
    whole = path.read_bytes()
    assert read(path).architecture == "thin"
    for share in (0.001, 0.3, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "cut short" in refused(path)


def write(path: Path, weights: dict[str, torch.Tensor], kind: str) -> None:
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model": {name: value.numpy() for name, value in weights.items()}}))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")


def test_a_place_that_is_no_file_is_named(tmp_path, monkeypatch):
    assert refused(tmp_path / "a") == "No such file or directory; name a checkpoint file that can be read"
    assert refused(tmp_path) == "is a folder; name a file of weights in it"
    (tmp_path / "step-000000007.pt").touch()
    assert refused(tmp_path).endswith("such as step-000000007.pt")

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert "Permission denied" in refused(tmp_path)
    monkeypatch.setattr(Path, "open", forbidden)
    assert "Permission denied" in refused(tmp_path / "step-000000007.pt")


class Runs:
    """Runs a command where pickle has its way."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def test_classes_of_others_are_left_out_and_named_and_nothing_of_them_runs(tmp_path, weights):
    beside = {
        "args": argparse.Namespace(lr=0.03),
        "best": np.float64(0.6),
        "curve": np.arange(3.0),
        "name": np.str_("run"),
        "history": defaultdict(list, {"a": [1]}),
        "config": Runs(tmp_path / "ran"),
        "set": {1, 2},
    }
    for zipped in (True, False):
        torch.save({"model": weights, **beside}, tmp_path / "a", _use_new_zipfile_serialization=zipped)
        found = read(tmp_path / "a")
        assert found.architecture == "thin" and found.unused == ("curve",)
        assert any("pathlib" in note and "none of their code ran" in note for note in found.notes)
    (tmp_path / "b").write_bytes(
        pickle.dumps({"model": weights["conv1.weight"].numpy(), "bad": Runs(tmp_path / "ran")})
    )
    read(tmp_path / "b")
    assert not (tmp_path / "ran").exists()


def test_a_file_cannot_change_what_reads_it():
    """Opcode `b` sets attributes of what stands before it: here of what a file may call."""
    attributes = b"(N}X\x04\x00\x00\x00spamI1\nstb."
    made = Unpickler(io.BytesIO(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + attributes)).load()
    assert not hasattr(made, "spam")
    with pytest.raises(TypeError):  # a stand-in is a class of its own, made for this file
        Unpickler(io.BytesIO(b"\x80\x02cos\nsystem\n" + attributes)).load()


def test_a_file_that_holds_itself_is_refused(tmp_path):
    content: dict[str, Any] = {"a": torch.ones(1)}
    content["b"] = content
    torch.save(content, tmp_path / "a")
    assert "holds itself" in refused(tmp_path / "a")


def test_a_module_that_was_saved_whole_gives_its_weights(tmp_path):
    network = thin()
    torch.save({"model": network, "epoch": 2}, tmp_path / "a")
    torch.save(network, tmp_path / "b")
    for name in "ab":
        found = read(tmp_path / name)
        assert found.architecture == "thin" and torch.equal(found.backbone["conv1.weight"], network.conv1.weight)
