"""torchrun's engine as this project configures it."""

import signal

import pytest
from torch.distributed.elastic.multiprocessing.api import _terminate_process_handler
from torch.distributed.launcher import api

from moco.cluster.agent import run_agent
from moco.errors import MocoError


@pytest.mark.parametrize(("endpoint", "address"), [(None, "127.0.0.1"), ("host:29500", None)])
def test_a_host_alone_needs_no_name_of_its_own(tmp_path, monkeypatch, endpoint, address):
    found = []

    def launched(config, command):
        found.append(config)
        raise MocoError("seen")

    monkeypatch.setattr(api, "elastic_launch", launched)
    for name in ("LOGLEVEL", "MOCO_SUPERVISED", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(MocoError, match="seen"):
        run_agent(tmp_path, 2, endpoint=endpoint)
    assert found[0].local_addr == address


def test_ctrl_c_after_a_run_is_no_exception_of_torch_s(tmp_path, monkeypatch):
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in numbers]

    def launched(config, command):
        for number in numbers:
            signal.signal(number, _terminate_process_handler)  # as its agent does
        return lambda *arguments: None

    monkeypatch.setattr(api, "elastic_launch", launched)
    for name in ("LOGLEVEL", "MOCO_SUPERVISED", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    run_agent(tmp_path, 2)
    assert [signal.getsignal(number) for number in numbers] == before
