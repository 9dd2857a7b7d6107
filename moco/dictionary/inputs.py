"""What a loop of one's own may give to MoCo by mistake, said in its own words."""

from torch import Tensor

from moco.dictionary.protocol import Keys

_PLAUSIBLE = 16.0
"""Normalized values are smaller: 1 less the mean, over a deviation of at least 1/16."""


def same_images(view_1: Tensor, view_2: Tensor) -> None:
    """Refuse views that are no two batches of as many images, N x 3 x H x W.

    Raises:
        ValueError: says which, and the shapes.
    """
    for name, view in (("view_1", view_1), ("view_2", view_2)):
        if view.dim() != 4:
            raise ValueError(f"{name} is {_sizes(view)}, not N x 3 x H x W; give a batch of images")
    if len(view_1) != len(view_2):
        raise ValueError(
            f"view_1 has {len(view_1)} images and view_2 has {len(view_2)}; row n of both must show the same image"
        )


def normalized(view: Tensor, name: str) -> None:
    """Refuse floats outside the range of normalized images; bytes are normalized by the encoder.

    Raises:
        ValueError: says which view, and the range.
    """
    if not view.is_floating_point():
        return
    low, high = (float(value) for value in view.detach().aminmax())
    if not -_PLAUSIBLE <= low <= high <= _PLAUSIBLE:  # nor if they are not numbers
        raise ValueError(
            f"{name} holds values from {low:g} to {high:g}, which nothing normalized; give bytes (view.to(torch.uint8)"
            " for values from 0 to 255), which the encoder normalizes, or normalize them first"
        )


def same_length(queries: Tensor, keys: Keys) -> None:
    """Refuse a dictionary of another dimension than the queries'.

    Raises:
        ValueError: gives both.
    """
    dim = queries.shape[1]
    for held in (*keys.positives, *(() if keys.negatives is None else (keys.negatives,))):
        if held.shape[1] != dim:
            raise ValueError(
                f"the head gives queries of {dim} numbers, and the dictionary holds keys of {held.shape[1]}; make the"
                f" dictionary with dim={dim}, or end the head in {held.shape[1]}"
            )


def _sizes(view: Tensor) -> str:
    return " x ".join(map(str, view.shape)) or "a single number"
