"""Real clusters for the tests of this folder, which are all marked `cluster`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from network_hosts import NetworkHosts
from sandbox import what_is_missing
from slurm_cluster import PROGRAMS, SlurmCluster


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("cluster")


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm cluster with four idle nodes."""
    if reason := what_is_missing(PROGRAMS):
        pytest.skip(reason)
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.close()


@pytest.fixture
def hosts() -> Iterator[NetworkHosts]:
    """Three hosts on one network."""
    if reason := what_is_missing():
        pytest.skip(reason)
    network = NetworkHosts()
    yield network
    network.close()
