"""What is refused before training: too few images, processes and memory that do not fit."""

from pathlib import Path

import pytest
from mechanisms import dictionary

from moco.cluster.machine import Machine
from moco.config import Stream, load_params
from moco.errors import MocoError
from moco.training import checks

PRETRAIN = load_params(Path(__file__).parents[3] / "params.yaml").pretrain


def settings(mechanism: str = "momentum-queue", **values):
    update = {"global_batch": 24, "bn_group_size": 4, "stream": None, **values, "dictionary": dictionary(mechanism)}
    return PRETRAIN.model_copy(update=update)


def test_a_batch_may_hold_every_image_and_no_more():
    checks.check(settings(), 24, 1)
    with pytest.raises(MocoError, match="global_batch = 24 is more than the 23 training images; lower it"):
        checks.check(settings(), 23, 1)


def test_a_bank_holds_a_steps_negatives_beside_its_batch():
    bank = settings("memory-bank")
    checks.check(bank, bank.negatives + 24, 1)
    with pytest.raises(MocoError, match=rf"lower it to {bank.negatives - 1} at most"):
        checks.check(bank, bank.negatives + 23, 1)


def test_every_process_holds_whole_groups():
    for processes in (1, 2, 3, 6):
        checks.check(settings(), 100, processes)
    for processes in (4, 5, 12):
        with pytest.raises(MocoError, match="use a number of processes that divides 6"):
            checks.check(settings(), 100, processes)


@pytest.mark.parametrize(
    ("processes", "max_batch", "size"),
    [
        (1, None, 24),
        (2, None, 12),
        (1, 24, 24),
        (1, 23, 20),
        (1, 7, 4),
        (1, 4, 4),
        (2, 12, 12),
        (2, 11, 8),
        (2, 100, 12),
    ],
)
def test_a_process_encodes_its_share_or_as_many_whole_groups_as_fit(processes, max_batch, size):
    assert checks.micro_batch_size(settings(), processes, max_batch) == size


def test_a_group_that_does_not_fit_and_a_step_that_cannot_be_divided_are_refused():
    with pytest.raises(MocoError, match=r"max_batch_per_process = 3 holds no group .* = 4 images; raise it"):
        checks.micro_batch_size(settings(), 1, 3)
    whole = settings("end-to-end")
    assert checks.micro_batch_size(whole, 2, 12) == 12
    with pytest.raises(MocoError, match=r"lower pretrain.global_batch to 16, or raise it"):
        checks.micro_batch_size(whole, 2, 8)


def test_every_process_holds_whole_lanes():
    checks.check_processes(settings(stream=Stream(lanes=12, window=8)), 6)
    with pytest.raises(MocoError, match=r"stream.lanes = 8 do not divide among 3 processes"):
        checks.check_processes(settings(stream=Stream(lanes=8, window=8)), 3)


def test_keys_and_views_that_this_machine_cannot_hold_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(checks, "memory", lambda: 10**9)
    checks.check_memory(settings(), 1, 1)
    with pytest.raises(MocoError, match=r"this machine has 1\.0 GB .*num_keys = 100 keys of pretrain.dim = 4000000"):
        checks.check_memory(settings(dim=4_000_000), 1, 1)
    with pytest.raises(MocoError, match=r"3 batches of 240 images of 1024 x 1024 pixels take 4\.5 GB: lower them"):
        checks.check_machine(settings(global_batch=240, image_size=1024), Machine(processes=1))


def test_the_memory_of_other_machines_is_not_judged_here(monkeypatch):
    monkeypatch.setattr(checks, "memory", lambda: 1)
    slurm = Machine.model_validate({"launcher": {"kind": "slurm", "minutes": 5}})
    checks.check_machine(settings(), slurm)
    monkeypatch.setattr(checks, "memory", lambda: None)
    checks.check_memory(settings(), 1, 1)
