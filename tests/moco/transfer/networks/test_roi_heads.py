"""Regions and the masks of their objects."""

import math

import pytest
import torch
from small_detectors import scene, small
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from moco.transfer.networks import roi_heads
from moco.transfer.networks.roi_heads import paste_masks


def test_masks_of_c4_are_trained_on_the_box_heads_features():
    calls = []
    model = small("instances", "c4")
    model.roi_heads.box_head.register_forward_hook(lambda *_: calls.append("head"))
    image, target = scene()
    model([image], [target])
    assert calls == ["head"]  # twice would normalize the objects' regions with statistics of their own


@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_masks_start_undecided(neck):
    image, target = scene()
    assert small("instances", neck)([image], [target])["loss_mask"].item() == pytest.approx(math.log(2), rel=0.05)


@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_regions_are_cut_out_where_their_boxes_are(neck):
    """Features that state their own place, averaged over a region, give the middle of its box."""
    model = small("detection", neck)
    strides = model.backbone.stages.strides[-1:] if neck == "c4" else model.backbone.stages.strides
    offset = 0.5 if neck == "c4" else 0.0  # only C4's pooling has pixel centers at halves
    ramps = {
        str(level): (stride * (torch.arange(128 // stride) + offset)).expand(1, 1, 128 // stride, -1)
        for level, stride in enumerate(strides)
    }
    boxes = torch.tensor([[30.0, 10, 50, 40], [20, 20, 90, 70], [16, 16, 100, 110]])
    for size in ((20, 20), (120, 120)):  # as if the first image were small
        pooled = model.roi_heads.box_roi_pool(ramps, [boxes], [size])
        assert torch.allclose(pooled.mean(dim=(1, 2, 3)), (boxes[:, 0] + boxes[:, 2]) / 2, atol=0.01)


def test_regions_go_to_the_level_whose_anchors_they_resemble():
    model = small("detection", "fpn")  # anchors from 8 pixels: a quarter of the paper's
    levels = {str(level): torch.full((1, 1, 8, 8), float(level)) for level in range(4)}
    sides = torch.tensor([10.0, 27, 29, 55, 57, 111, 113, 300])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    pooled = model.roi_heads.box_roi_pool(levels, [boxes], [(128, 128)])
    assert pooled[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_box_is_pasted_as_the_pixels_whose_centers_it_holds():
    boxes = torch.tensor([[3.0, 5, 17, 12], [2.4, 1.6, 9.4, 7.7], [-4, -3, 6.2, 4.4], [10, 10, 40, 40]])
    masks = paste_masks(torch.ones(4, 14, 14), boxes, (20, 24))
    assert masks.shape == (4, 20, 24) and masks.dtype == torch.uint8
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        y, x = torch.meshgrid(torch.arange(20) + 0.5, torch.arange(24) + 0.5, indexing="ij")
        assert torch.equal(mask.bool(), (x > left) & (x < right) & (y > top) & (y < bottom))
    assert paste_masks(torch.ones(0, 14, 14), boxes[:0], (20, 24)).shape == (0, 20, 24)


def test_mask_targets_pasted_back_lie_on_the_mask(monkeypatch):
    """The loss's targets are cut out of the true mask; torchvision's cut is half a pixel off."""
    cut, regions = [], []

    def recorded(logits, boxes, masks, labels, matched):
        for box in (boxes[0], regions[0]):
            cut.append(project_masks_on_boxes(masks[0], box, matched[0], 28))
        cut.append(masks[0][matched[0]])
        return logits.sum()

    monkeypatch.setattr(roi_heads, "maskrcnn_loss", recorded)
    model = small("instances", "fpn")
    model.roi_heads.mask_roi_pool.register_forward_pre_hook(lambda _, inputs: regions.append(inputs[1][0]))
    image, target = scene()
    model([image], [target])
    ours, torchvisions, truth = cut
    inside = paste_masks(torch.ones_like(ours), regions[0], image.shape[1:]).bool()

    def wrong(masks):
        pasted = paste_masks(masks, regions[0], image.shape[1:])
        return ((pasted != truth) & inside).sum() / (inside & truth.bool()).sum()

    assert wrong(ours) < 0.03 < wrong(torchvisions)
