"""What the writers of shards report: how many are done, and whether too many files were bad."""

from moco.errors import MocoError
from moco.shards.worker import Written
from moco.sources.names import is_image_name

NAMED = 3
"""Bad files that an error names."""


class Tally:
    """How many shards are done, and how many files were bad.

    Args:
        images: to be written, by their names.
        limit: share of them that may be bad.
    """

    def __init__(self, images: int, limit: float) -> None:
        self.total, self.limit = images, limit
        self.bad = self.shards = self.kept = self.of_frames = 0
        self.named: list[str] = []

    def add(self, shard: Written) -> None:
        """Count a finished shard."""
        self.of_frames += shard.of_frames
        self.shards, self.kept = self.shards + 1, self.kept + shard.kept
        # A text beside the images is listed too, but is no sign of a bad source.
        bad = [f"{item['path']} ({item['reason']})" for item in shard.quarantine if is_image_name(item["path"])]
        self.bad, self.named = self.bad + len(bad), sorted([*self.named, *bad])[:NAMED]

    def check(self) -> None:
        """See whether the source is sound.

        Raises:
            MocoError: too many files are unreadable.
        """
        if self.bad > self.limit * self.total:
            raise MocoError(
                f"{self.bad} of {self.total} images ({self.bad / self.total:.1%}) are unreadable, more than"
                f" shard.max_bad_fraction = {self.limit:g}:"
                f" {'; '.join(self.named)}{'; …' if self.bad > NAMED else ''};"
                " repair or remove them, or raise the fraction"
            )

    def say(self) -> None:
        """Print what a person may want to know at the end."""
        if self.kept:
            print(f"{self.kept} of {self.shards} shards were finished by an earlier run and are kept")
        if self.of_frames:
            print(f"{self.of_frames} images have several frames or pages; the first of each is taken")
