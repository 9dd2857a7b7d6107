"""The rendered TrainJob: what the Trainer's own models make of it, and what its command does."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models.trainer_v1alpha1_cluster_training_runtime import TrainerV1alpha1ClusterTrainingRuntime
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from pydantic import ValidationError

from moco.cluster.kubernetes import Kubernetes, train_job
from moco.cluster.machine import Machine
from moco.errors import MocoError

NAME = "pretrain-0123456789abcdef"
FOLDER = f"runs/{NAME}"
PAGE = Path(__file__).parents[3] / "docs/kubernetes.md"
EXAMPLE = {
    "image": "moco:1",
    "nodes": 2,
    "gpus_per_node": 8,
    "cpus_per_node": 64,
    "memory_per_node": "256Gi",
    "volume_claim": "moco-project",
}


def settings(**changes: Any) -> Kubernetes:
    return Kubernetes.model_validate(EXAMPLE | changes)


def rendered(name: str = NAME, folder: str = FOLDER, processes: int = 8, **changes: Any) -> dict[str, Any]:
    return yaml.safe_load(train_job(settings(**changes), name, folder, processes))


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return node["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("gpus", [0, 8])
def test_the_trainers_models_know_every_field_of_the_manifest(gpus):
    job = rendered(gpus_per_node=gpus)
    assert TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job


def test_a_pod_is_what_the_settings_say():
    job = rendered(namespace="vision", runtime="long-runs")
    trainer, pod = job["spec"]["trainer"], pod_of(job)
    assert job["metadata"] == {"name": NAME, "namespace": "vision"}
    assert job["spec"]["runtimeRef"] == {"name": "long-runs"}
    assert (trainer["image"], trainer["numNodes"], trainer["numProcPerNode"]) == ("moco:1", 2, 8)
    asked = {"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "8"}
    assert trainer["resourcesPerNode"] == {"requests": asked, "limits": asked}
    assert {"name": "OMP_NUM_THREADS", "value": "8"} in trainer["env"]
    sources = {volume.pop("name"): volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: sources[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {
        "/project": {"persistentVolumeClaim": {"claimName": "moco-project"}},
        "/dev/shm": {"emptyDir": {"medium": "Memory"}},
    }


def test_without_gpus_none_are_asked_for():
    resources = rendered(gpus_per_node=0)["spec"]["trainer"]["resourcesPerNode"]
    assert resources["requests"] == resources["limits"] == {"cpu": "64", "memory": "256Gi"}


def test_the_environment_holds_nothing_that_the_trainer_reserves():
    names = {variable["name"] for variable in rendered()["spec"]["trainer"]["env"]}
    assert not any(name.startswith("PET_") for name in names)


@pytest.mark.parametrize("name", ["", "Pretrain", "1st-run", "a_b", "a.b", "run-", "a" * 49])
def test_a_name_that_kubernetes_refuses_is_refused_in_one_line(name):
    with pytest.raises(MocoError, match="at most 48 small letters, digits and hyphens") as caught:
        train_job(settings(nodes=10), name, FOLDER, 8)
    assert "\n" not in str(caught.value)


def test_the_longest_name_leaves_room_for_the_name_of_the_last_pod():
    name = "a" * 48
    assert rendered(name, nodes=10)["metadata"]["name"] == name
    assert len(f"{name}-node-0-9-abcde") == 63
    with pytest.raises(MocoError, match="at most 46"):
        rendered(name, nodes=101)


@pytest.mark.parametrize("folder", ["/scratch/runs/a", "../runs/a", "runs/../../a"])
def test_a_run_outside_the_volume_is_refused(folder):
    with pytest.raises(MocoError, match=r"not within the project's folder"):
        rendered(folder=folder)


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(MocoError, match="gpus_per_node = 4 for 8 processes"):
        rendered(gpus_per_node=4)


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 0},
        {"gpus_per_node": -1},
        {"memory_per_node": "much"},
        {"mount_path": "project"},
        {"mount_path": "/"},
        {"namespace": "Vision"},
        {"volume_claim": ""},
        {"replicas": 2},
    ],
)
def test_a_setting_that_the_cluster_would_refuse_is_refused_when_it_is_read(change):
    with pytest.raises(ValidationError):
        settings(**change)


def test_two_pods_of_the_manifest_meet_and_run_the_worker_in_the_project_folder(tmp_path):
    worker = tmp_path / "moco/worker.py"
    worker.parent.mkdir(parents=True)
    worker.write_text(
        "import os, sys, torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.ones(1)\n"
        "dist.all_reduce(total)\n"
        "open(f'rank-{dist.get_rank()}', 'w').write(f'{int(total)} {sys.argv[1]} {os.environ[\"OMP_NUM_THREADS\"]}')\n"
        "dist.destroy_process_group()\n"
    )
    trainer = rendered(processes=1, gpus_per_node=0, cpus_per_node=2, mount_path=str(tmp_path))["spec"]["trainer"]
    given = {variable["name"]: variable["value"] for variable in trainer["env"]}
    with_port = {"PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": str(free_port())}
    pods = []
    for rank in range(trainer["numNodes"]):
        pet = with_port | {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(rank),
        }
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | given | pet
        environment.pop("PYTHONPATH", None)
        command = [expanded(word, environment) for word in [*trainer["command"], *trainer["args"]]]
        pods.append(subprocess.Popen(command, cwd="/", env=environment))
    try:
        assert [pod.wait(timeout=120) for pod in pods] == [0, 0]
    finally:
        for pod in pods:
            pod.kill()
    for rank in range(2):
        assert (tmp_path / f"rank-{rank}").read_text() == f"2 {FOLDER} 2"


def free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def expanded(word: str, environment: dict[str, str]) -> str:
    """$(NAME) replaced as Kubernetes does it in a container's command and arguments."""
    return re.sub(r"\$\(([^)]*)\)", lambda match: environment.get(match[1], match[0]), word)


def test_the_settings_and_the_runtime_in_the_documentation_are_valid():
    machine, runtime = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
    kubernetes = Machine.model_validate(machine).kubernetes
    assert kubernetes and train_job(kubernetes, NAME, FOLDER, kubernetes.gpus_per_node)
    assert TrainerV1alpha1ClusterTrainingRuntime.from_dict(runtime).to_dict() == runtime
    assert runtime["metadata"]["name"] == kubernetes.runtime
