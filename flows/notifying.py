"""Who hears of runs: an address that is a secret, and the automations that use it."""

import asyncio
from pathlib import Path
from typing import Any

from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from flows.registering import keep_automations
from moco.yaml_files import read_yaml

BLOCK = "moco-notify"
AUTOMATIONS = Path("flows/notify.yaml")


def register(url: str, told: SecretStr, automations: Path = AUTOMATIONS) -> None:
    """Keep the address in a block of Prefect's, encrypted, and make the automations that use it.

    Args:
        url: of the server's API.
        told: the address.
        automations: whose actions have no `block_document_id` yet.
    """
    with temporary_settings({PREFECT_API_URL: url}):
        asyncio.run(_register(told, read_yaml(automations)["automations"]))


async def _register(told: SecretStr, automations: list[dict[str, Any]]) -> None:
    # The one kind of block whose address may be any of Apprise's; that of the name is a base class.
    block = str(await SlackWebhook(url=told).save(BLOCK, overwrite=True))
    async with get_client() as client:
        await keep_automations(
            client,
            [
                one | {"actions": [action | {"block_document_id": block} for action in one["actions"]]}
                for one in automations
            ],
        )
