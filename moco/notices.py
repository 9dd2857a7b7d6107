"""Values that are allowed and do nothing, or not what they seem to: said before time is spent."""

from collections.abc import Iterator

from moco.config import MAY_IGNORE_LABELS, Params, Pretrain
from moco.encoders.kinds import ResNet
from moco.encoders.stem import stem_of

STAGES_OF_A_RESNET = 8
"""How much smaller an image is behind a ResNet's four stages than behind its first layers."""


def of_params(params: Params) -> list[str]:
    """Say what the values of a parameter file do not do, a line each."""
    return [*_fetch(params), *_pretrain(params.pretrain), *_linear(params)]


def of_data(settings: Pretrain, images: int, val: int) -> list[str]:
    """Say what these settings do not do on this many images, a line each.

    Args:
        settings: of the run.
        images: that it learns from.
        val: images of the validation split.
    """
    found = []
    if settings.dictionary.about.fills == "queue" and settings.negatives > images:
        found.append(
            f"pretrain.dictionary.num_keys = {settings.negatives} keys are more than the {images} training images: older keys"
            " of a query's own image are among its negatives"
        )
    if settings.knn_every_epochs and not val:
        found.append(
            f"pretrain.knn_every_epochs = {settings.knn_every_epochs} does nothing: there is no validation image; raise"
            " fetch.val_fraction"
        )
    return found


def _fetch(params: Params) -> Iterator[str]:
    fetch, side = params.fetch, params.shard.max_side
    if fetch.labels == "none" and fetch.source not in MAY_IGNORE_LABELS:
        yield f"fetch.labels = none does nothing: the source {fetch.source} has labels of its own, or none"
    if side is not None and side < params.pretrain.image_size:
        yield (
            f"shard.max_side = {side} is less than pretrain.image_size = {params.pretrain.image_size}: every view is enlarged"
            " from fewer pixels"
        )


def _pretrain(settings: Pretrain) -> Iterator[str]:
    about, views = settings.dictionary.about, settings.views
    if about.fills == "queue" and settings.negatives < settings.global_batch:
        yield (
            f"pretrain.dictionary.num_keys = {settings.negatives} is less than pretrain.global_batch = {settings.global_batch}: only"
            f" the last {settings.negatives} keys of a step are kept"
        )
    if settings.shuffle_bn and not about.encodes_keys:
        yield f"pretrain.shuffle_bn = true does nothing: keys of a {about.name} are not encoded"
    elif settings.shuffle_bn and settings.global_batch == settings.bn_group_size:
        yield (
            f"pretrain.shuffle_bn = true does nothing: pretrain.bn_group_size = {settings.bn_group_size} is the whole of"
            " pretrain.global_batch, one group"
        )
    if settings.warmup_epochs >= settings.epochs:
        yield (
            f"pretrain.warmup_epochs = {settings.warmup_epochs:g} is as long as pretrain.epochs = {settings.epochs}: the rate"
            " never reaches pretrain.lr_per_256, and pretrain.schedule does nothing"
        )
    if settings.milestones and settings.schedule == "cosine":
        yield f"pretrain.milestones = {settings.milestones} does nothing: pretrain.schedule is cosine"
    if not settings.milestones and settings.schedule == "steps":
        yield "pretrain.schedule = steps does nothing: pretrain.milestones is empty, and the rate stays"
    if views.order == "v1" and views.blur_p:
        yield f"pretrain.views.blur_p = {views.blur_p:g} does nothing: the views of pretrain.views.order = v1 have no blur"
    if views.jitter_p and not (views.brightness or views.contrast or views.saturation or views.hue):
        yield f"pretrain.views.jitter_p = {views.jitter_p:g} does nothing: brightness, contrast, saturation and hue are 0"
    if isinstance(settings.encoder, ResNet):
        stem = stem_of(settings.encoder.stem)
        whole = STAGES_OF_A_RESNET * stem.stride * (2 if stem.pool else 1)
        if settings.image_size < whole:
            yield (
                f"pretrain.image_size = {settings.image_size} is less than the {whole} pixels that one feature of"
                f" pretrain.encoder.stem = {settings.encoder.stem} stands for; choose a smaller stem, such as small"
            )


def _linear(params: Params) -> Iterator[str]:
    rates = params.linear.learning_rates
    if len(set(rates)) < len(rates):
        yield f"linear.learning_rates = {rates} names a rate twice, which is trained twice"
