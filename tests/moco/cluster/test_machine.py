"""machine.yaml, which is optional and checked."""

import pytest

from moco.cluster.machine import Machine, load_machine
from moco.errors import MocoError


def test_without_a_file_the_defaults_hold(tmp_path):
    assert load_machine(tmp_path / "machine.yaml") == Machine()
    assert Machine().workers() >= 1


def test_a_file_changes_what_it_names(tmp_path):
    (tmp_path / "machine.yaml").write_text("processes: 2\nnum_workers: 0\n")
    machine = load_machine(tmp_path / "machine.yaml")
    assert (machine.processes, machine.workers()) == (2, 0)


@pytest.mark.parametrize(
    ("text", "told"), [("gpus: 2", "gpus is no known key"), ("processes: 0", "processes = 0")]
)
def test_a_wrong_key_or_value_is_one_line(tmp_path, text, told):
    (tmp_path / "machine.yaml").write_text(text)
    with pytest.raises(MocoError, match=told):
        load_machine(tmp_path / "machine.yaml")
