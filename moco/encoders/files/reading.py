"""From a file of any program to a `Checkpoint`: `read(path)`."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from moco.encoders.files.architecture import COUNTER, architecture_of, shapes_of_weights
from moco.encoders.files.checkpoint import Checkpoint
from moco.encoders.files.keys import Keys, keys_of
from moco.encoders.files.momentum import kind_of, momentum_buffers, optimizer_of
from moco.encoders.files.opening import Opened, open_file
from moco.encoders.files.ours import Described, described, epoch_of
from moco.encoders.files.recognize import recognized
from moco.encoders.files.spelling import of_network
from moco.encoders.files.values import Values, queue_rows
from moco.encoders.kinds import Network, network_of
from moco.encoders.stem import STEMS, Stem, stem_of
from moco.errors import MocoError

VARIANTS = "Anti-aliased, dilated and Caffe's ResNets (stride in the 1x1) have these names too; load such with their own library."


def read(path: Path | str, stem: Stem | str | None = None) -> Checkpoint:
    """Read a file of weights of any layout that `layouts` names; docs/files.md lists them.

    Nothing in the file is run: classes other than tensors, arrays and plain containers are left
    out.

    Args:
        path: the file, or an encoder's folder of ours.
        stem: what a person knows of the first layers, where names do not tell.

    Raises:
        MocoError: no such file, none of weights, several encoders in an unknown layout, values that
            cannot be right, or a stem that does not fit.
    """
    opened = open_file(Path(path))
    try:
        keys = keys_of(opened.content)
    except RecursionError:
        raise MocoError(f"{path}: holds itself; save model.state_dict()") from None
    if not keys.values:
        first = next(iter(opened.content), None)
        raise MocoError(f"{path}: holds no tensors (its first entry is {first!r}); save model.state_dict()")
    return _Reading(opened, keys).checkpoint(None if stem is None else stem_of(stem))


class _Reading:
    """One reading of one file, part by part."""

    def __init__(self, opened: Opened, keys: Keys) -> None:
        self.opened, self.keys, self.path = opened, keys, opened.path
        self.said = described(opened)
        self.layout, self.spelling, self.others = recognized(keys, opened.path)
        self.values = Values(opened.path)
        self.origin: dict[str, str] = {}
        """Names in the file of what is trained, and ours."""
        self.left_out: list[str] = []
        """Sentences on what could have been read."""

    def checkpoint(self, stated: Stem | None) -> Checkpoint:
        layout, said = self.layout, self.said or Described("")
        head = self._part("head", (*layout.head, *self._numbered_heads(layout.backbone)))
        key_heads = (inner for prefix in layout.key_backbone for inner in self._numbered_heads(prefix))
        key_head = self._part("key head", (*layout.key_head, *key_heads))
        predictor = self._part("predictor", layout.predictor)
        backbone, architecture, difference = self._backbone()
        key_backbone = self._key_backbone(backbone) if architecture else {}
        stem, known = self._stem(backbone, architecture, stated)
        queue, pointer, filled = self._queue()
        optimizer, kind, left = self._optimizer()
        return Checkpoint(
            path=self.path,
            size=self.opened.size,
            layout=self._name(),
            backbone=backbone,
            architecture=architecture,
            network=self._network(architecture, stem),
            stem=None if stem is None else str(stem) if str(stem) in STEMS else stem,
            stem_known=known,
            head=head,
            predictor=predictor,
            key_backbone=key_backbone,
            key_head=key_head,
            queue=queue,
            pointer=pointer,
            filled=filled,
            optimizer=optimizer,
            optimizer_kind=kind,
            epoch=epoch_of(self.opened.content),
            mean=said.mean,
            std=said.std,
            image_size=said.image_size,
            eval_crop_ratio=said.eval_crop_ratio,
            difference=difference,
            unused=(*self.keys.unused(layout.ignored), *left),
            notes=self._notes(stem, known, stated),
            cannot_tell=self._cannot_tell(stem, known),
        )

    def _name(self) -> str:
        if self.said and self.opened.kind == "safetensors" and self.said.eval_crop_ratio is not None:
            return f"encoder of this project, by {self.said.said_by}"
        return self.layout.name

    @property
    def _by_official_converter(self) -> bool:
        author = self.opened.content.get("__author__")
        return isinstance(author, str) and author == "MOCO"

    def _numbered_heads(self, prefix: str) -> list[str]:
        """Where a head stands within a network, in programs that put it there.

        What stands behind the network of an unknown program is its classifier.
        """
        if self.spelling is None or not (self.layout.head or self._by_official_converter):
            return []
        return [f"{prefix}{inner}" for inner in self.spelling.head]

    def _part(self, what: str, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
        prefix = next((prefix for prefix in prefixes if self.keys.has(prefix)), None)
        if prefix is None:
            return {}
        raw = self.keys.take(prefix)
        if what in ("head", "predictor"):
            self.origin |= {f"{prefix}{name}": f"{what}.{name}" for name in raw}
        return self.values.weights(raw, what)

    def _backbone(self) -> tuple[dict[str, Tensor], str | None, str]:
        """Give the weights, the architecture or None, and why a ResNet is none of ours."""
        prefix = self.layout.backbone
        raw = {name: value for name, value in self.keys.free().items() if name.startswith(prefix)}
        raw = {name.removeprefix(prefix): raw[name] for name in raw if not name.startswith(self.layout.ignored)}
        if self.spelling is None:
            architecture, difference = None, f"its first entry is {next(iter(raw), None)!r}"
        else:
            ours = {name: new for name, new in self.spelling.renamed_names(raw).items() if of_network(new)}
            architecture, difference = architecture_of(
                shapes_of_weights({new: raw[name] for name, new in ours.items()})
            )
        if architecture is not None and self.said is not None:
            architecture, difference = self._agreed(architecture, self.said)
        if architecture is None or self.spelling is None:
            self.keys.taken |= {f"{prefix}{name}" for name in raw}
            return self.values.weights(raw, "backbone", integers=True), None, difference
        self.keys.taken |= {f"{prefix}{name}" for name in ours}
        self.origin |= {f"{prefix}{name}": f"backbone.{new}" for name, new in ours.items()}
        weights = self.values.weights({new: raw[name] for name, new in ours.items()}, "backbone")
        return self.values.counted(self.values.joined(weights)), architecture, ""

    def _agreed(self, architecture: str, said: Described) -> tuple[str | None, str]:
        """Compare what names tell with what the file says of itself."""
        if said.architecture in (None, architecture):
            return architecture, ""
        if said.kind != "resnet":
            return None, f"{said.said_by} names {said.architecture}, whose arithmetic is another than {architecture}'s"
        raise MocoError(
            f"{self.path}: {said.said_by} says {said.architecture}, its weights are {architecture}'s; restore the file"
            " that belongs there"
        )

    def _network(self, architecture: str | None, stem: Stem | None) -> Network | None:
        said = self.said.network if self.said else None
        ours = self.said is not None and self.said.eval_crop_ratio is not None
        if architecture is not None and not (said and ours):
            return network_of(architecture, str(stem))
        if said is None or said.get("kind") == "module":
            return None
        try:
            return network_of(said)
        except MocoError:  # of another version
            return None

    def _key_backbone(self, backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefix = next((prefix for prefix in self.layout.key_backbone if self.keys.has(prefix)), None)
        if prefix is None or self.spelling is None:
            return {}
        below = [name.removeprefix(prefix) for name in self.keys.free() if name.startswith(prefix)]
        ours = {name: new for name, new in self.spelling.renamed_names(below).items() if of_network(new)}
        raw = {new: self.keys.values[f"{prefix}{name}"] for name, new in ours.items()}
        wanted = {name: tuple(value.shape) for name, value in backbone.items() if not name.endswith(COUNTER)}
        found = {name: shape for name, shape in shapes_of_weights(raw).items() if not name.endswith(COUNTER)}
        if found != wanted:
            first = min(name for name in (*wanted, *found) if wanted.get(name) != found.get(name))
            self.left_out.append(f"the key encoder {prefix}* is unlike the encoder ({first}) and is not read")
            return {}
        self.keys.taken |= {f"{prefix}{name}" for name in ours}
        return self.values.counted(self.values.joined(self.values.weights(raw, "key encoder")))

    def _stem(
        self, backbone: Mapping[str, Tensor], architecture: str | None, stated: Stem | None
    ) -> tuple[Stem | None, bool]:
        """Give the stem, and whether the file, its layout or the caller says so."""
        if architecture is None:
            return None, False
        kernel = backbone["conv1.weight"].shape[-1]
        said = self.said.stem if self.said else None
        for stem, who in ((stated, "stated"), (said, "described")):
            if stem is not None and stem.kernel != kernel:
                raise MocoError(
                    f"{self.path}: its first convolution is {kernel}x{kernel}, not {stem.kernel}x{stem.kernel} as {who};"
                    " state another stem"
                )
        if said is not None and stated not in (None, said):
            raise MocoError(f"{self.path}: says itself that its stem is {said}, not {stated}; leave that out")
        known = said or stated or self._stem_of_layout(kernel)
        return known or Stem(kernel, 1, kernel // 2, pool=False), known is not None

    def _stem_of_layout(self, kernel: int) -> Stem | None:
        small = self.layout.small_stem or (self.spelling.small_stem if self.spelling else None)
        return next((stem for stem in (small, STEMS["imagenet"]) if stem and stem.kernel == kernel), None)

    def _queue(self) -> tuple[Tensor | None, int | None, int]:
        """Give the keys, the next one's row, and how many are real."""

        def last(name: str) -> str | None:
            return next((key for key in self.keys.free() if key == name or key.endswith(f".{name}")), None)

        name = last(self.layout.queue)
        if name is None:
            return None, None, 0
        queue = self.values.one(self.keys.values[name], name, "queue")
        order = self.layout.order
        rows = queue_rows(queue, order, self.opened.path, name)
        self.keys.taken.add(name)
        steps = len(rows) if order == "rows" else queue.shape[-1]

        def count(name: str) -> int:
            self.keys.taken.add(name)
            number = self.keys.values[name].reshape(-1)
            if len(number) != 1 or not 0 <= int(number[0]) <= steps:
                raise MocoError(f"{self.path}: {name} is no place in a queue of {steps}; remove it from the file")
            return int(number[0])

        place, real = last(self.layout.pointer), self.layout.filled and last(self.layout.filled)
        filled = count(real) if real else len(rows)
        return rows, None if place is None else count(place) % steps * (len(rows) // steps), filled

    def _optimizer(self) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
        """Give the momentum buffers, whose they are, and what to name as unused."""
        state = optimizer_of(self.opened.content)
        if state is None or not state["state"]:
            return {}, "", ()
        kind = kind_of(state)
        buffers = momentum_buffers(state, self.keys, self.origin) if kind in ("sgd", "lars") else {}
        found = self.values.weights(buffers, "momentum")
        return found, kind, () if found else ("optimizer",)

    def _notes(self, stem: Stem | None, known: bool, stated: Stem | None) -> tuple[str, ...]:
        notes = [*self.values.notes, *self.left_out]
        if stem is not None and known and stem != STEMS["imagenet"] and self.said is None and stated is None:
            notes.append(f"the stem is that of {self.layout.name} for small images: {_words(stem)}")
        if self.others:
            notes.append(f"of {len(self.others) + 1} encoders {self.layout.backbone}* is read")
        if self.opened.left_out:
            some = ", ".join(self.opened.left_out[:3]) + ", …" * (len(self.opened.left_out) > 3)
            notes.append(f"classes left unread, none of their code ran: {some}")
        return tuple(notes)

    def _cannot_tell(self, stem: Stem | None, known: bool) -> tuple[str, ...]:
        sentences = []
        if stem is not None and not known:
            size = f"{stem.kernel}x{stem.kernel}"
            sentences.append(
                f"A {size} stem does not tell its stride, padding and max-pooling; read as {_words(stem)}."
                " State others if you know them (--stem; inspect: --stride, --padding, --pool; transfer: moco.stem)."
            )
        if stem is not None and self.layout.variants and self.said is None and not self._by_official_converter:
            sentences.append(VARIANTS)
        return tuple(sentences)


def _words(stem: Stem) -> str:
    pool = "max-pooling" if stem.pool else "no max-pooling"
    return f"stride {stem.stride}, padding {stem.padding}, {pool}"
