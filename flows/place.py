"""The pull step of prefect.yaml: the folder that a worker's runs work in."""

import os

from prefect.deployments.steps import set_working_directory

PROJECT = "MOCO_PROJECT"
"""The project's folder on a worker's machine, in that worker's environment."""


def project_folder(directory: str) -> dict[str, str]:
    """Go to the project's folder: the worker's own, or the one that was deployed.

    Args:
        directory: where `prefect deploy` was called, for workers that have the project there too.

    Returns:
        `directory`, as Prefect takes it.

    Raises:
        FileNotFoundError: there is no such folder on this machine.
    """
    return set_working_directory(os.environ.get(PROJECT) or directory)
