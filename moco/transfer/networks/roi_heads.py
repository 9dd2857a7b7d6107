"""From proposals to detections: regions, and their heads for boxes, masks and keypoints."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    fastrcnn_loss,
    keypointrcnn_inference,
    keypointrcnn_loss,
    maskrcnn_inference,
    maskrcnn_loss,
)
from torchvision.ops import MultiScaleRoIAlign, RoIAlign
from torchvision.ops.poolers import LevelMapper

from moco.transfer.networks.necks import ANCHOR_SIZES, LEVELS, Features


class AlignedPool(RoIAlign):
    """RoIAlign of C4's only level."""

    def forward(self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        return super().forward(features["0"], boxes)


def pyramid_pool(size: int, strides: Sequence[int], smallest_anchor: int) -> MultiScaleRoIAlign:
    """Build the pyramid's pooling with its true strides, which torchvision only guesses."""
    scale = 224 * smallest_anchor // ANCHOR_SIZES[0]
    pool = MultiScaleRoIAlign(list(LEVELS), size, sampling_ratio=2, canonical_scale=scale)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = LevelMapper(2, 5, canonical_scale=scale)
    return pool


class BoxPredictor(FastRCNNPredictor):
    """Classes and boxes, from N(0, 0.01) and N(0, 0.001) (Girshick, 2015, section 2.3)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from R x D, or from R x D x H x W, which is averaged first."""
        logits, deltas = super().forward(x.mean(dim=(2, 3)) if x.dim() == 4 else x)
        return logits.float(), deltas.float()


def mask_predictor_of(features: int, width: int, classes: int) -> MaskRCNNPredictor:
    """Build the predictor of masks with its last layer from N(0, 0.001), as Detectron2 does.

    torchvision's logits start at 10 and more if classes are few.
    """
    predictor = MaskRCNNPredictor(features, width, classes)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    nn.init.zeros_(predictor.mask_fcn_logits.bias)
    return predictor


class Heads(RoIHeads):
    """torchvision's, but C4's masks share the box head's features, and mask targets fit them."""

    def forward(
        self,
        features: Features,
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if not self.training:
            return self._detect(features, proposals, image_sizes), {}
        assert targets is not None
        proposals, matched, labels, regression = self.select_training_samples(proposals, targets)
        regions = self.box_head(self.box_roi_pool(features, proposals, image_sizes))
        classifier_loss, box_loss = fastrcnn_loss(*self.box_predictor(regions), labels, regression)
        losses = {"loss_classifier": classifier_loss, "loss_box_reg": box_loss}
        objects = [label > 0 for label in labels]
        boxes = [box[chosen] for box, chosen in zip(proposals, objects, strict=True)]
        matched = [match[chosen] for match, chosen in zip(matched, objects, strict=True)]
        if self.mask_predictor is not None:
            if self.mask_roi_pool is None:
                logits = self.mask_predictor(regions[torch.cat(objects)])
            else:
                logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_sizes)))
            # torchvision cuts the targets out with pixel centers at whole numbers, half a pixel
            # from the boxes'
            shifted = [box - 0.5 for box in boxes]
            masks, classes = [target["masks"] for target in targets], [target["labels"] for target in targets]
            losses["loss_mask"] = maskrcnn_loss(logits.float(), shifted, masks, classes, matched)
        if self.keypoint_predictor is not None:
            heatmaps = self._heatmaps(features, boxes, image_sizes)
            keypoints = [target["keypoints"] for target in targets]
            losses["loss_keypoint"] = keypointrcnn_loss(heatmaps, boxes, keypoints, matched)
        return [], losses

    def _detect(
        self, features: Features, proposals: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        regions = self.box_head(self.box_roi_pool(features, proposals, image_sizes))
        boxes, scores, labels = self.postprocess_detections(*self.box_predictor(regions), proposals, image_sizes)
        found = [{"boxes": b, "labels": c, "scores": s} for b, c, s in zip(boxes, labels, scores, strict=True)]
        if self.mask_predictor is not None:
            if self.mask_roi_pool is None:
                described = self.box_head(self.box_roi_pool(features, boxes, image_sizes))
            else:
                described = self.mask_head(self.mask_roi_pool(features, boxes, image_sizes))
            masks = maskrcnn_inference(self.mask_predictor(described).float(), labels)
            for result, mask in zip(found, masks, strict=True):
                result["masks"] = mask
        if self.keypoint_predictor is not None:
            heatmaps = self._heatmaps(features, boxes, image_sizes)
            for result, place, score in zip(found, *keypointrcnn_inference(heatmaps, boxes), strict=True):
                result["keypoints"] = torch.cat([place[..., :2], score[..., None]], dim=2)
        return found

    def _heatmaps(self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        regions = self.keypoint_head(self.keypoint_roi_pool(features, boxes, image_sizes))
        return self.keypoint_predictor(regions).float().contiguous()  # torchvision takes a view of it


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste masks of boxes into the image, bilinearly, without rounding the boxes.

    Args:
        masks: float, D x M x M, the probability that a cell belongs to the object.
        boxes: float, D x 4, pixels.
        size: height and width of the image, pixels.

    Returns:
        uint8, D x H x W: 1 where the probability is at least 0.5.
    """
    parts = [masks.new_zeros((0, *size), dtype=torch.uint8)]
    with torch.autocast(masks.device.type, enabled=False):
        for mask, box in zip(masks.float().split(16), boxes.float().split(16), strict=True):
            rows = _taps(box[:, 1], box[:, 3], size[0], masks.shape[1])
            columns = _taps(box[:, 0], box[:, 2], size[1], masks.shape[2])
            parts.append((rows @ mask @ columns.mT >= 0.5).byte())
    return torch.cat(parts)


def _taps(low: Tensor, high: Tensor, pixels: int, cells: int) -> Tensor:
    """D x pixels x cells: what each cell between `low` and `high` counts in each pixel."""
    centers = torch.arange(pixels, device=low.device) + 0.5
    place = (centers - low[:, None]) / (high - low)[:, None] * cells - 0.5
    return (1 - (place[:, :, None] - torch.arange(cells, device=low.device)).abs()).clamp(min=0)
