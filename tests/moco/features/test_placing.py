"""Features move to a GPU that has room, and results come back in order and as late as useful."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from moco.features.placing import UNDER_WAY, WORKSPACE, fetched, placed

FEATURES = np.ones((10, 4), np.float32)


@dataclass
class Result:
    """A result on a GPU, or on the CPU."""

    number: int
    is_cuda: bool

    def cpu(self):
        return self.number


@pytest.mark.parametrize(("on_gpu", "ahead"), [(True, UNDER_WAY), (False, 0)])
def test_results_come_in_order_while_gpus_work_on_later_ones(on_gpu, ahead):
    launched = []

    def results():
        for number in range(40):
            launched.append(number)
            yield Result(number, on_gpu)

    found = fetched(results())
    assert next(found) == 0
    assert launched == list(range(1 + ahead))
    assert list(found) == list(range(1, 40))


@pytest.mark.parametrize(
    ("spare", "kept", "moves"), [(0, 0, True), (-1, 0, False), (-1, 1, True)], ids=["fits", "does not", "torch's own"]
)
def test_features_are_copied_to_a_gpu_whose_free_memory_holds_them(monkeypatch, spare, kept, moves):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (FEATURES.nbytes + WORKSPACE + spare, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100 + kept)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: "copied")
    assert (placed(FEATURES, torch.device("cuda", 1)) == "copied") is moves


def test_on_the_cpu_features_stay_where_they_are():
    assert placed(FEATURES, torch.device("cpu")).data_ptr() == FEATURES.ctypes.data
