"""What a server of Prefect is told once: work pools, deployments and automations."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from prefect import __version__ as prefect_version
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.variables import Variable

from moco.config import settings_hash
from moco.files import hash_of_files
from moco.yaml_files import read_yaml

AUTOMATIONS = Path("flows/crashed.yaml")
RUNS = 1
"""At once in a pool that is made here: runs in the project's own folder must not meet."""
_DEPLOYED = "moco_deployed"
"""The variable that holds what was deployed last."""


def pools(prefect_yaml: dict[str, Any]) -> list[str]:
    """Name the work pools of a prefect.yaml's deployments, each once."""
    return sorted({one["work_pool"]["name"] for one in prefect_yaml["deployments"] if one.get("work_pool")})


def register(url: str, names: list[str], automations: Path = AUTOMATIONS) -> None:
    """Make pools and automations that are missing; change automations that their file has changed.

    Args:
        url: of the server's API.
        names: of the pools.
        automations: a file as of `prefect automation create --from-file`, which makes another of
            the same name at each call.
    """
    with temporary_settings({PREFECT_API_URL: url}):
        asyncio.run(_register(names, read_yaml(automations)["automations"]))


async def _register(names: list[str], automations: list[dict[str, Any]]) -> None:
    async with get_client() as client:
        for name in names:
            with contextlib.suppress(ObjectAlreadyExists):
                await client.create_work_pool(WorkPoolCreate(name=name, type="process", concurrency_limit=RUNS))
        await keep_automations(client, automations)


async def keep_automations(client: PrefectClient, automations: list[dict[str, Any]]) -> None:
    """Make automations that are missing, and change those that differ.

    One that a person switched off or on in the UI stays so.
    """
    for wanted in [AutomationCore(**one) for one in automations]:
        there = await client.read_automations_by_name(wanted.name)
        for double in there[1:]:
            await client.delete_automation(double.id)
        if not there:
            await client.create_automation(wanted)
            continue
        wanted.enabled = there[0].enabled
        if AutomationCore(**there[0].model_dump()) != wanted:
            await client.update_automation(there[0].id, wanted)


def is_deployed(url: str, state: str) -> bool:
    """Tell whether the server's deployments were made from this state."""
    with temporary_settings({PREFECT_API_URL: url}):
        return Variable.get(_DEPLOYED, default=None) == state


def note_deployed(url: str, state: str) -> None:
    """Note the state that the server's deployments were made from."""
    with temporary_settings({PREFECT_API_URL: url}):
        Variable.set(_DEPLOYED, state, overwrite=True)


def state_of(folder: Path, code: Path) -> str:
    """Give a hash of all that a deployment and its form are made of.

    Args:
        folder: the project's, with prefect.yaml and params.yaml.
        code: what holds the packages `flows`, `pipelines` and `moco`.
    """
    settings = hash_of_files([folder / "prefect.yaml", folder / "params.yaml"], folder)
    packages = hash_of_files([code / name for name in ("flows", "pipelines", "moco")], code, (".py", ".yaml"))
    return settings_hash(prefect_version, str(folder.resolve()), settings, packages)
