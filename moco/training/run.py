"""One pretraining run: what decides its result, where it stands, whether it can work here."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from moco.cluster.machine import Machine
from moco.config import Pretrain
from moco.errors import MocoError
from moco.images.batches import ViewBatches
from moco.images.exact_reads import ExactReads
from moco.images.index import ShardSet, open_split
from moco.images.plan import EpochPlan
from moco.images.stream import TarStreams
from moco.images.stream_plan import StreamPlan
from moco.images.subset import subset
from moco.momentum_contrast import MoCo
from moco.processes import Processes
from moco.runs import checkpoints
from moco.runs.folder import training_hash
from moco.training.beginning import Beginning, beginning_of
from moco.training.checks import check_images, check_machine, processes_per_host
from moco.training.monitor import Monitor
from moco.training.setup import build


@dataclass(frozen=True)
class Run:
    """A run, made once and passed on whole.

    Attributes:
        settings: everything that decides the result, but the images.
        images: training images.
        monitor: reads the features on the validation split.
        name: hash of settings and data; every process must have the same.
        folder: untracked; holds checkpoints and curves of this run alone.
        machine: workers, memory, checkpoint intervals and launcher.
    """

    settings: Pretrain
    images: ShardSet
    monitor: Monitor
    name: str
    folder: Path
    machine: Machine

    @classmethod
    def of(cls, settings: Pretrain, shards: Path | str, runs: Path, machine: Machine) -> "Run":
        """Open the images and name the run.

        Args:
            settings: the pretrain section.
            shards: the shard set.
            runs: folder that holds all runs' folders.
            machine: this one.

        Raises:
            MocoError: there are no shards, or no image of the kind that `settings.images` names.
        """
        train, val = open_split(shards, "train"), open_split(shards, "val")
        images = subset(train, settings.images, settings.images_fraction, settings.seed)
        if not len(images):
            raise MocoError(
                f"pretrain.images = {settings.images}: {shards} holds no such training image; set it to all"
            )
        name = training_hash(settings, images.data_hash)
        return cls(settings, images, Monitor(train, val, settings.seed), name, runs / f"pretrain-{name}", machine)

    @cached_property
    def beginning(self) -> Beginning:
        """What its first weights are, read once."""
        return beginning_of(self.settings)

    def model(self) -> MoCo:
        """Make its model with drawn weights and keys."""
        return build(self.settings, len(self.images), self.beginning.mean, self.beginning.std)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, in whichever order the images are read."""
        return EpochPlan(len(self.images), self.settings.global_batch, self.settings.seed).steps_per_epoch

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.settings.epochs

    @property
    def processes_per_host(self) -> int:
        """Training processes on each host."""
        return processes_per_host(self.settings, self.machine)

    def check(self) -> None:
        """Name what cannot work, on any number of hosts that may train together, before it starts.

        Raises:
            MocoError: too few images, or what `check_machine` refuses.
        """
        check_images(self.settings, len(self.images))
        check_machine(self.settings, self.machine)

    def view_batches(
        self,
        plan: EpochPlan | StreamPlan,
        processes: Processes,
        streams: TarStreams | ExactReads | None,
        compiled: bool,
    ) -> ViewBatches:
        """Make what a process's batches of views come from."""
        settings, place = self.settings, (processes.rank, processes.world_size)
        size, views = settings.image_size, settings.dictionary.about.views
        return ViewBatches(self.images, plan, settings.views, size, *place, streams, compiled, views)

    def done(self) -> bool:
        """Whether the newest checkpoint is that of the run's end."""
        return checkpoints.newest_step(self.folder) == self.total
