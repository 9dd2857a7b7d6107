"""A mistake in prefect.yaml, which Prefect passes over, is one line."""

import sys
from pathlib import Path

import pytest

from flows import deployments

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    (tmp_path / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["flows.deployments"])
    return tmp_path


def test_the_projects_own_file_is_valid(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployments.main()
    assert "deploys ingest, pretrain-and-evaluate, transfer, study, nightly" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "more"),
    [
        ("deployments:", "prefect-version: 3.8.8\nname: x\ndefinitions: {a: &a {name: b}}\ndeployments:"),
        ("description: null", "concurrency_limit: 1"),
        ("description: null", "concurrency_limit: {limit: 1, collision_strategy: ENQUEUE}"),
        ("    work_pool:\n      name: moco\n", ""),
        ("description: null # the flow's docstring", "tags: null\n    schedules: null\n    triggers: null\n    pull: null\n    version_type: x"),
        ("description: null", "schedule: {cron: '0 0 * * *', timezone: UTC, slug: a}\n    flow_name: x\n    sla: []"),
        ("description: null", "build: {prefect.deployments.steps.run_shell_script: {script: ls}}\n    push: []"),
        ("flows/study.py:study", "flows.study.study"),
    ],
)  # fmt: skip
def test_what_prefect_reads_is_valid(project: Path, capsys: pytest.CaptureFixture[str], right: str, more: str) -> None:
    text = (project / "prefect.yaml").read_text()
    assert right in text
    (project / "prefect.yaml").write_text(text.replace(right, more))
    deployments.main()
    assert "deploys ingest, pretrain-and-evaluate, transfer, study, nightly" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("work_pool:", "work_poll:", "deployments.0.work_poll is no known key; did you mean work_pool?"),
        ("description: null", "concurrency_limit: {limit: 0, collision_strategy: ENQUEUE}", "deployments.0.concurrency_limit: a limit of 0 lets nothing run"),
        ("description: null", "concurrency_limit: {limit: one, collision_strategy: ENQUEUE}", "deployments.0.concurrency_limit.limit = 'one': input should be a valid integer"),
        ("description: null", "concurrency_limit: {limit: 1, collision_strategy: enqueu}", "concurrency_limit.collision_strategy = 'enqueu': input should be 'ENQUEUE' or 'CANCEL_NEW'"),
        ("description: null", "concurrency_limit: {limit: 1}", "deployments.0.concurrency_limit.collision_strategy = None: input should be 'ENQUEUE' or 'CANCEL_NEW'"),
        ("pull:", "pul:", "prefect.yaml: pul is no known key; did you mean pull?"),
        ("description: null", "schedule: {croon: '* * * * *'}", "schedule.croon is no known key; did you mean cron?"),
        ("description: null", "schedules: [{cron: '* * * * *', interval: 5}]", "deployments.0.schedules.0 = {'cron': '* * * * *', 'interval': 5}: exactly one of"),
        ("entrypoint: flows/study.py:study", "flow_name: study", "deployments.3.entrypoint is missing; add it"),
        ("flows/transfer.py", "flow/transfer.py", "entrypoint = 'flow/transfer.py:transfer': there is no such file"),
        ("- name: study", "- name: study\n    name: other", "the key name is there twice"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], right: str, wrong: str, told: str
) -> None:
    text = (project / "prefect.yaml").read_text()
    assert right in text
    (project / "prefect.yaml").write_text(text.replace(right, wrong))
    with pytest.raises(SystemExit) as ended:
        deployments.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert told in said
    assert said.count("\n") == 1
