"""Small real material for all tests: a project folder whose shards the stages made."""

import contextlib
import os
from pathlib import Path

import pytest
from small_material import SMALL_PRETRAIN, write_images, write_params

os.environ.setdefault("MOCO_TRACKING", "off")  # tests of tracking turn it on for themselves
os.environ.setdefault("DO_NOT_TRACK", "1")

HEAVY = tuple(
    f"tests/{name}"
    for name in (
        "flows",
        "moco/cluster/test_dask.py",
        "moco/cluster/test_kubernetes.py::test_two_pods",
        "moco/dictionary/test_shuffle_bn.py",
        "moco/encoders/test_build_encoder.py::test_every_name",
        "moco/explore/test_explore_browser.py",
        "moco/images/test_exact_reads.py",
        "moco/images/test_index.py::test_a_set_travels",
        "moco/images/test_loader.py",
        "moco/images/test_decode_memory.py",
        "moco/images/test_stream.py",
        "moco/shards/test_killed_shards.py",
        "moco/shards/test_write.py",
        "moco/test_progress.py::test_every_command",
        "moco/tracking",
        "moco/training/test_l",  # leak, loop
        "moco/training/test_ranks.py",
        "moco/transfer/networks/test_transfer_batch_norm.py",
        "moco/transfer/test_finetune.py",
        "moco/transfer/test_trial.py",
        "pipelines/test_baselines.py",
        "pipelines/test_cache.py",
        "pipelines/test_data_in_place.py",
        "pipelines/test_driver.py",
        "pipelines/test_killed_growth.py",
        "pipelines/test_own_folder.py",
        "pipelines/test_pretrain_stage.py",
        "pipelines/test_prune.py",
        "pipelines/test_remote_tars.py",
        "pipelines/test_report_stage.py",
        "pipelines/test_versions.py",
        "test_benchmarks.py::test_a_part_of_the_proof",
        "test_benchmarks.py::test_sides_apart",
        "test_fuzz.py",
    )
)
"""Tests that start processes or servers, train, or build every network."""


LONG = tuple(
    f"tests/{name}"
    for name in (
        "cluster/test_training_on_hosts.py::test_a_full_disk",
        "cluster/test_training_on_slurm.py::test_a_job_at_its_time_limit",
        "flows/test_browser.py",
        "flows/test_study.py::test_a_run_does_not_train_if_code_or_parameters_were_edited",
        "flows/test_study.py::test_a_study_may_change_the_shards",
        "flows/test_study.py::test_an_interrupted_study_goes_on",
        "flows/test_study.py::test_changed_code_or_parameters",
        "flows/test_study.py::test_checkpoints_of_a_training",
        "flows/test_study.py::test_mlflow_holds_the_study",
        "flows/test_study.py::test_runs_that_share_a_training",
        "flows/test_study.py::test_what_these_images_rule_out",
        "moco/dictionary/test_mechanisms.py::test_a_compiled_step",
        "moco/images/test_decode_memory.py::test_six_threads",
        "moco/images/test_sanitized.py",
        "moco/transfer/networks/test_detectors.py::test_it_memorizes_two_scenes",
        "pipelines/test_data_in_place.py::test_the_cache_stays_as_it_is_whatever_runs_beside_dvc[symlink]",
        "pipelines/test_full_disk.py",
        "pipelines/test_pretrain_stage.py::test_a_run_that_fails_again_and_again",
        "pipelines/test_pretrain_stage.py::test_tars_behind_a_web_server",
        "pipelines/test_transfer_stages.py::test_processes_of_machine_yaml",
        "test_benchmarks.py::test_the_proof_for_gpus_runs_dry",
        "test_docs.py::test_the_commands_of_a_page_work[docs/encoders.md]",
        "test_docs.py::test_the_commands_of_a_page_work[docs/fine-tuning.md]",
        "test_docs.py::test_the_commands_of_a_page_work[docs/study.md]",
    )
)
"""Slow tests of what a shorter one covers in part: `make test-long`, before a release and after a
change of what they are about."""


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from every test, except under `pytest -m gpu`."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out: HEAVY, and tests whose material processes make.

    And LONG, which `make test` leaves out.
    """
    for item in items:
        if item.nodeid.startswith(LONG):
            item.add_marker(pytest.mark.long)
        if item.nodeid.startswith(HEAVY) or "small_project" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.processes)


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only folder with params.yaml, data/raw and data/shards of 360 labelled images."""
    from moco.config import load_params
    from pipelines.fetch import fetch
    from pipelines.shard import shard

    folder = tmp_path_factory.mktemp("project")
    write_images(folder / "data/inbox")
    split = {"fetch.source": "folder", "fetch.val_fraction": 0.15, "fetch.test_fraction": 0.15}
    write_params(folder, split | SMALL_PRETRAIN)
    with contextlib.chdir(folder):
        params = load_params()
        fetch(params)
        shard(params)
    return folder


@pytest.fixture
def project(small_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the small project that a test may write to.

    The shards are shared.
    """
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shards").symlink_to(small_project / "data/shards")
    (tmp_path / "params.yaml").write_bytes((small_project / "params.yaml").read_bytes())
    (tmp_path / "machine.yaml").write_text("processes: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path
