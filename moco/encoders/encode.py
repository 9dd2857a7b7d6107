"""What comes out of a backbone, whoever made it."""

from torch import Tensor, nn

from moco.errors import MocoError


def features_of(backbone: nn.Module, images: Tensor) -> Tensor:
    """Encode images as N x D; maps of one pixel, N x D x 1 x 1, are flattened.

    Raises:
        MocoError: the network gives something else.
    """
    found = backbone(images)
    # not len(images), which fixes N in an exported network
    if isinstance(found, Tensor) and found.dim() >= 2 and found.shape[0] == images.shape[0]:
        if found.dim() == 2:
            return found
        if found[0].numel() == found.shape[1]:
            return found.flatten(1)
    given = "x".join(map(str, found.shape)) if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise MocoError(
        f"the encoder gives {given} for {len(images)} images, not features N x D; pool and flatten at its end, and"
        " return one tensor"
    )
