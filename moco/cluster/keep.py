"""How long this machine keeps what can be made again; a part of machine.yaml."""

from pydantic import Field

from moco.settings import Settings


class Keep(Settings):
    """What `moco prune` leaves: no result depends on it."""

    versions: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Newest versions whose data and encoders stay in DVC's cache; null: all of them. Tags and records stay.",
    )
    days: float = Field(
        30.0,
        ge=0,
        le=100_000,
        description="Days after their last use that checkpoints, cached features and folders of failed runs may go.",
    )
