"""A pretraining run as a Kubeflow TrainJob, for clusters with the Trainer 2.3 or later installed.

Only the manifest is made here, from plain mappings; the Trainer's controller turns it into one pod
a node, tells each pod its rank and where pod 0 is (PET_NODE_RANK, PET_MASTER_ADDR, …), and replaces
pods that are lost.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any

import yaml
from pydantic import Field

from moco.errors import MocoError
from moco.settings import Settings

API = "trainer.kubeflow.org/v1alpha1"
NODE = "node"
"""What the Trainer calls the job of the training pods in its runtimes, and the container in
them."""

LONGEST = 63
"""Characters in a pod's name, which is the TrainJob's with `-node-0-`, the pod's index and a suffix
of six."""

MAX_RESTARTS = 20
"""Of the processes, within the same pods. A run that no restart repairs costs minutes until its
containers end."""

SECONDS_TO_SAVE = 60
SECONDS_TO_LEAVE = 30
"""Time for a pod that has to stop: for the checkpoint of the current step, then for everything
else."""

RENDEZVOUS = "join_timeout=600,read_timeout=600,keep_alive_interval=1,keep_alive_max_attempt=5"
"""Seconds. Pods have ten minutes to pull their images and meet; one that vanishes is missed after
five seconds."""

START = (
    'cd "$0" && if [ "$PET_NODE_RANK" = 0 ]; then host=1; else host=0; fi'
    f' && exec torchrun --rdzv-conf="is_host=$host,{RENDEZVOUS}" "$@"'
)
"""Neither the Trainer's API nor torchrun has a working directory; and pod 0 cannot tell that the
address it is given is its own before the cluster's DNS knows it. `exec` makes torchrun the process
that gets the pod's SIGTERM."""

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Subdomain = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)]


class Kubernetes(Settings):
    """The pods to ask Kubernetes for."""

    image: str = Field(
        min_length=1,
        max_length=500,
        description="Container image with Python, torch and what else moco imports; the code comes from the volume.",
    )
    nodes: int = Field(
        ge=1, le=100_000, description="Pods that train together, each on a node of its own if it asks for a whole one."
    )
    gpus_per_node: int = Field(
        ge=0, le=1024, description="GPUs (nvidia.com/gpu) of each pod, one process each; 0: train on CPUs."
    )
    cpus_per_node: int = Field(ge=1, le=100_000, description="CPU cores of each pod.")
    memory_per_node: str = Field(
        pattern=r"^[1-9][0-9]{0,8}(Mi|Gi|Ti|M|G|T)$",
        description="Memory of each pod, such as 64Gi; what loader processes hand over lies in it, too.",
    )
    volume_claim: Subdomain = Field(
        description="PersistentVolumeClaim of the volume that holds the project's folder; ReadWriteMany if there are several nodes."
    )
    namespace: Label = Field("default", description="Namespace of the claim, and so of the TrainJob.")
    mount_path: str = Field(
        "/project",
        pattern=r"^(/[^/:$]+)+$",
        description="Where the volume is mounted in each pod, and the working directory there.",
    )
    runtime: Subdomain = Field("torch-distributed", description="The Trainer's ClusterTrainingRuntime.")


def train_job(settings: Kubernetes, name: str, run_folder: str, processes_per_node: int) -> str:
    """Write the manifest of a TrainJob whose processes each run `python -m moco.worker RUN_FOLDER`.

    Args:
        settings: the pods.
        name: of the TrainJob; its pods are named after it.
        run_folder: the run's, with its job, as seen from the project's folder.
        processes_per_node: in each pod.

    Returns:
        YAML for `kubectl apply -f -`.

    Raises:
        MocoError: Kubernetes would refuse the name, the run's folder is not on the volume, or there
            are more processes than GPUs.
    """
    check_name(name, settings.nodes)
    folder = PurePosixPath(run_folder)
    if folder.is_absolute() or ".." in folder.parts:
        raise MocoError(
            f"kubernetes: the run's folder {run_folder} is not within the project's folder, which is what the pods see;"
            " give it relative to that, for example runs/pretrain-0123456789abcdef"
        )
    if 0 < settings.gpus_per_node < processes_per_node:
        raise MocoError(
            f"machine.yaml: kubernetes.gpus_per_node = {settings.gpus_per_node} for {processes_per_node} processes on each"
            " node; lower `processes`, or ask for a GPU for each"
        )
    manifest = {
        "apiVersion": API,
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": settings.namespace},
        "spec": {
            "runtimeRef": {"name": settings.runtime},
            "trainer": {
                "image": settings.image,
                "command": ["sh", "-c", START, settings.mount_path],
                "args": [
                    "--rdzv-backend=c10d",
                    "--rdzv-endpoint=$(PET_MASTER_ADDR):$(PET_MASTER_PORT)",
                    f"--rdzv-id={name}",
                    f"--max-restarts={MAX_RESTARTS}",
                    "-m",
                    "moco.worker",
                    str(folder),
                ],
                "env": [
                    # One thread a process, as torchrun sets it, would leave cores idle.
                    _env("OMP_NUM_THREADS", max(1, settings.cpus_per_node // processes_per_node)),
                    # Without it the agents of the pods that stay crash when a lost pod is replaced.
                    _env("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", 1),
                    _env("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_SAVE),
                ],
                "numNodes": settings.nodes,
                "numProcPerNode": processes_per_node,
                "resourcesPerNode": {"requests": _resources(settings), "limits": _resources(settings)},
            },
            "runtimePatches": [
                {
                    "manager": "moco/launch",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [_pods(settings)]}}},
                }
            ],
        },
    }
    return yaml.safe_dump(manifest, sort_keys=False, width=1000)


def check_name(name: str, nodes: int) -> None:
    """Refuse a name that Kubernetes would refuse for the TrainJob (RFC 1035) or its last pod.

    Raises:
        MocoError: the name, and what is allowed.
    """
    longest = LONGEST - len(f"-{NODE}-0-{nodes - 1}-abcde")
    if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > longest:
        raise MocoError(
            f"kubernetes: {name!r} cannot be the name of a TrainJob; use at most {longest} small letters, digits and"
            " hyphens, with a letter first and no hyphen last"
        )


def _env(name: str, value: int) -> dict[str, str]:
    return {"name": name, "value": str(value)}


def _resources(settings: Kubernetes) -> dict[str, str]:
    """Request what is granted, so that a node short of memory evicts these pods last."""
    resources = {"cpu": str(settings.cpus_per_node), "memory": settings.memory_per_node}
    if settings.gpus_per_node:
        resources["nvidia.com/gpu"] = str(settings.gpus_per_node)
    return resources


def _pods(settings: Kubernetes) -> dict[str, Any]:
    """Give the pods what the runtime lacks: the project, and shared memory beyond 64 MB."""
    pod = {
        "terminationGracePeriodSeconds": SECONDS_TO_SAVE + SECONDS_TO_LEAVE,
        "containers": [
            {
                "name": NODE,
                "volumeMounts": [
                    {"name": "project", "mountPath": settings.mount_path},
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "project", "persistentVolumeClaim": {"claimName": settings.volume_claim}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    return {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
