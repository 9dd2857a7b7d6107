"""What carries the proposals, and where the anchors stand."""

import pytest
import torch
from small_detectors import small
from torch import nn
from torchvision.models.detection.image_list import ImageList


def test_every_convolution_of_the_pyramid_has_a_batch_norm():
    fpn = small("detection", "fpn").backbone.fpn
    convolutions = [m for m in fpn.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in fpn.modules() if type(m) is nn.BatchNorm2d]
    assert len(convolutions) == len(norms) == 8
    assert all(convolution.bias is None for convolution in convolutions)


@pytest.mark.parametrize("size", [(20, 20), (33, 47), (70, 18)])
@pytest.mark.parametrize("amp", [False, True])
def test_anchors_stand_where_the_networks_strides_put_them(size, amp):
    model = small("detection", "fpn")
    images, _ = model.transform([torch.zeros(3, *size, dtype=torch.uint8)])
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        features = list(model.backbone(images.tensors).values())
        (anchors,) = model.rpn.anchor_generator(images, features)
    assert anchors.dtype == torch.float32
    levels = anchors.split([3 * level.shape[2] * level.shape[3] for level in features])
    for level, feature, stride in zip(levels, features, (2, 4, 8, 16, 32), strict=True):
        centers = (level[:, :2] + level[:, 2:])[::3] / 2
        rows, columns = feature.shape[2:]
        assert torch.equal(centers[:, 0].view(rows, columns)[0], stride * torch.arange(columns).float())
        assert torch.equal(centers[:, 1].view(rows, columns)[:, 0], stride * torch.arange(rows).float())


def test_under_autocast_proposals_keep_the_precision_of_float32():
    """In bfloat16 a coordinate of 700 pixels could be two pixels off."""
    model = small("detection", "c4").eval()
    head = model.rpn.head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()  # proposals are the anchors, clipped
    images = ImageList(torch.zeros(1, 3, 16, 768), [(16, 768)])
    features = {"0": torch.zeros(1, 128, 2, 96, dtype=torch.bfloat16)}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (boxes,), _ = model.rpn(images, features)
        (anchors,) = model.rpn.anchor_generator(images, list(features.values()))
    clipped = torch.stack([anchors[:, 0::2].clamp(0, 768), anchors[:, 1::2].clamp(0, 16)], dim=2).flatten(1)
    assert len(boxes) and all((box == clipped).all(dim=1).any() for box in boxes)
