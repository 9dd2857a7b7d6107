"""A small file that claims much is refused before anything is made of it."""

import io
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.encoders.files.inert import Unpickler
from moco.encoders.files.opening import open_file
from moco.errors import MocoError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's form without zip
STORED = 4  # elements that the file really has


class Storage:
    """Stands for the numbers of a tensor."""


class Tensor:
    """Is pickled as torch pickles a tensor."""

    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.size, self.stride = size, stride

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (Storage(), 0, self.size, self.stride, False, OrderedDict())


def write(path: Path, claimed: int, tensor: Tensor, keys: list[str]) -> None:
    """Write torch's old form, with a storage of `claimed` elements, and `keys` at its end."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", claimed, None) if isinstance(value, Storage) else None

    with path.open("wb") as file:
        for value in (MAGIC, PROTOCOL, {"little_endian": True}):
            pickle.dump(value, file, protocol=2)
        Pickler(file, protocol=2).dump({"w": tensor})
        pickle.dump(keys, file, protocol=2)
        file.write(struct.pack("<q", STORED) + np.arange(STORED, dtype="<f4").tobytes())


def test_what_is_written_here_is_torchs_form(tmp_path):
    write(tmp_path / "a", STORED, Tensor((2, STORED), (0, 1)), ["0"])
    assert open_file(tmp_path / "a").content["w"].tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("claimed", "tensor", "keys"),
    [
        (10**10, Tensor((STORED,), (1,)), ["0"]),
        (-1, Tensor((0,), (1,)), ["0"]),
        (STORED, Tensor((10**12,), (0,)), ["0"]),
        (STORED, Tensor((STORED,), (1,)), []),  # its numbers would be what was in memory
    ],
)
def test_a_storage_that_the_file_does_not_hold_is_refused_at_once(tmp_path, claimed, tensor, keys):
    write(tmp_path / "a", claimed, tensor, keys)
    begin = time.monotonic()
    with pytest.raises(MocoError, match=r"not a readable checkpoint.*download or copy"):
        open_file(tmp_path / "a")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # the object of number 2,147,483,647
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x3f\x85R.",  # bytearray(1,073,741,823)
        b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x3f\x85R.",
    ],
)
def test_a_number_in_a_file_reserves_no_memory(content):
    tracemalloc.start()
    try:
        made = Unpickler(io.BytesIO(content)).load()
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
    assert len(made) == 0


def test_arrays_of_bytes_come_back():
    for protocol in (2, 4, 5):
        assert Unpickler(io.BytesIO(pickle.dumps(bytearray(b"a\xff"), protocol))).load() == b"a\xff"
