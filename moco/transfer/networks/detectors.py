"""Faster, Mask and Keypoint R-CNN on an encoder: torchvision's parts, put together as the paper fine-tunes them."""

from collections import OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    fastrcnn_loss,
    keypointrcnn_inference,
    keypointrcnn_loss,
    maskrcnn_inference,
    maskrcnn_loss,
)
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, RoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from moco.encoders.normalize import normalize
from moco.encoders.start import Start
from moco.errors import MocoError
from moco.transfer.networks.stages import Stages

Features = dict[str, Tensor]
Task = Literal["detection", "instances", "keypoints"]
Neck = Literal["c4", "fpn"]

ANCHOR_SIZES = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
PROPOSALS_TRAIN = {"c4": (12000, 2000), "fpn": (2000, 1000)}
PROPOSALS_TEST = {"c4": (6000, 1000), "fpn": (1000, 1000)}
_LEVELS = ("0", "1", "2", "3")


def detector(
    task: Task,
    neck: Neck,
    start: Start,
    num_classes: int,
    *,
    seed: int,
    num_keypoints: int = 0,
    anchor_sizes: Sequence[int] = ANCHOR_SIZES,
    width: int = 256,
    roi_size: int = 14,
    rois_per_image: int = 512,
    proposals_train: tuple[int, int] | None = None,
    proposals_test: tuple[int, int] | None = None,
) -> nn.Module:
    """A detector whose backbone starts from an encoder and whose other layers start from `seed` alone.

    - "c4": the body ends at layer3 (res4) and carries the proposals; layer4 (res5) with a batch norm after it (the
      paper's "extra norm") is the box head, and masks are predicted from its output too.
    - "fpn": layer1 … layer4 and a pyramid with batch norm in each convolution ("BN in the newly initialized layers",
      section 4.2). The box head is two fully connected layers, the mask head four 3x3 convolutions and the keypoint
      head eight, without batch norm, as in Detectron2's default: an image without objects gives the latter two no
      region to take statistics from.

    Nothing is frozen. Where the paper is silent, numbers are Detectron2's (the code it was run with): proposals, 512
    regions an image of which a quarter hold objects, box weights (10, 10, 5, 5), 100 detections with a score above
    .05, NMS at .7 and .5. Two things stay torchvision's: smooth L1 with beta 1/9, where Detectron2 has 0, and
    RoIAlign of the pyramid without the half-pixel shift.

    In training `model(images, targets)` gives a dict of losses, scalars; in evaluation `model(images)` gives for
    each image a dict of `boxes` (float32 D x 4: x0, y0, x1, y1 in pixels of that image), `labels` (int64 [D], 1 … C),
    `scores` (float32 [D]) and, by task, `masks` (uint8 D x H x W, 0 or 1) or `keypoints` (float32 D x K x 3: x, y,
    score, a logit). Images are uint8 3 x H x W of any sizes, on the model's device; they are normalized and padded,
    not resized. Targets hold `boxes`, `labels` and by task `masks` (uint8 M x H x W) or `keypoints` (float32
    M x K x 3: x, y, visibility); M may be 0. All of it may run under `torch.autocast`.

    Args:
        task: what is predicted for each object beside its box and class.
        neck: see above; the paper's keypoints are on "fpn" only.
        start: its network is copied, so that one can serve several detectors.
        num_classes: C, without the background.
        seed: of the new layers.
        num_keypoints: K, for "keypoints".
        anchor_sizes: sides of the square anchors, pixels; smaller ones for small images. "fpn" has one for each of
            its five levels, and sends a region to the level where, with the default sizes, the FPN paper does.
        width: channels of the new convolutions; fully connected layers are four times as wide and keypoint
            convolutions twice.
        roi_size: cells on the side of a region; "fpn" gives its box head half as many.
        rois_per_image: regions an image that the heads are trained on.
        proposals_train: before and after NMS in training ("fpn": before, on each level); None: 12000, 2000 ("fpn":
            2000, 1000).
        proposals_test: the same in evaluation; None: 6000, 1000 (1000, 1000).

    Raises:
        MocoError: the task, neck and numbers do not go together.
    """
    _check(task, neck, num_keypoints, anchor_sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classes = num_classes + 1
        body: _LastStage | _Pyramid = _LastStage(start) if neck == "c4" else _Pyramid(start, width)
        stages = body.stages
        if neck == "c4":
            channels = stages.channels[-1]
            anchors = _Anchors([anchor_sizes], stages.strides[-1:])
            pool: nn.Module = _AlignedPool(roi_size, 1 / stages.strides[-1], sampling_ratio=0, aligned=True)
            features = start.network.feature_dim
            res5 = deepcopy(start.network.get_submodule("layer4"))
            head: nn.Module = nn.Sequential(OrderedDict(layer4=res5, norm=nn.BatchNorm2d(features)))
        else:
            channels, features = width, 4 * width
            strides = [*stages.strides, 2 * stages.strides[-1]]
            anchors = _Anchors([[size] for size in anchor_sizes], strides)
            pool = _pyramid_pool(roi_size // 2, stages.strides, anchor_sizes[0])
            head = TwoMLPHead(width * (roi_size // 2) ** 2, features)
        heads = _Heads(
            pool, head, _BoxPredictor(features, classes), 0.5, 0.5, rois_per_image, 0.25, None, 0.05, 0.5, 100
        )
        if task == "instances":
            if neck == "fpn":
                heads.mask_roi_pool = _pyramid_pool(roi_size, stages.strides, anchor_sizes[0])
                heads.mask_head = MaskRCNNHeads(width, (width,) * 4, dilation=1)
                features = width
            heads.mask_predictor = _mask_predictor(features, width, classes)
        if task == "keypoints":
            heads.keypoint_roi_pool = _pyramid_pool(roi_size, stages.strides, anchor_sizes[0])
            heads.keypoint_head = KeypointRCNNHeads(width, (2 * width,) * 8)
            heads.keypoint_predictor = KeypointRCNNPredictor(2 * width, num_keypoints)
        before_train, after_train = proposals_train or PROPOSALS_TRAIN[neck]
        before_test, after_test = proposals_test or PROPOSALS_TEST[neck]
        proposals = RegionProposalNetwork(
            anchors,
            _ProposalHead(channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": before_train, "testing": before_test},
            post_nms_top_n={"training": after_train, "testing": after_test},
            nms_thresh=0.7,
        )
    return GeneralizedRCNN(body, proposals, heads, _Batching(start, stages.strides[-1]))


def _check(task: str, neck: str, num_keypoints: int, anchor_sizes: Sequence[int]) -> None:
    tasks, necks = ("detection", "instances", "keypoints"), ("c4", "fpn")
    if task not in tasks:
        raise MocoError(f"task = {task!r} is none of a detector's; choose one of {', '.join(tasks)}")
    if neck not in necks:
        raise MocoError(f"neck = {neck!r} is unknown; choose one of {', '.join(necks)}")
    if task == "keypoints" and (neck != "fpn" or num_keypoints < 1):
        raise MocoError(
            f"keypoints need neck = 'fpn' and at least one keypoint, not {neck!r} and {num_keypoints}; set both"
        )
    if neck == "fpn" and len(anchor_sizes) != len(_LEVELS) + 1:
        raise MocoError(
            f"anchor_sizes = {list(anchor_sizes)} for neck = 'fpn'; give five, one for each level, such as"
            f" {list(ANCHOR_SIZES)}"
        )


class _Batching(nn.Module):
    """In the place of torchvision's transform: images to one padded batch and back, at the size they have."""

    def __init__(self, start: Start, multiple: int) -> None:
        super().__init__()
        self.mean, self.std, self.multiple = start.mean, start.std, multiple

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (-(-max(side) // self.multiple) * self.multiple for side in zip(*sizes, strict=True))
        batch = torch.zeros(len(images), 3, height, width, device=images[0].device)  # zero: the mean color
        for padded, image, (rows, columns) in zip(batch, images, sizes, strict=True):
            padded[:, :rows, :columns] = normalize(image[None], self.mean, self.std)[0]
        return ImageList(batch, sizes), targets

    def postprocess(
        self, detections: list[dict[str, Tensor]], sizes: list[tuple[int, int]], original_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        for found, size in zip(detections, sizes, strict=False):  # none in training
            if "masks" in found:
                found["masks"] = paste_masks(found["masks"][:, 0], found["boxes"], size)
        return detections


class _LastStage(nn.Module):
    def __init__(self, start: Start) -> None:
        super().__init__()
        self.stages = Stages(start.network, 3)

    def forward(self, x: Tensor) -> Features:
        return {"0": self.stages(x)[-1]}


class _Pyramid(nn.Module):
    def __init__(self, start: Start, width: int) -> None:
        super().__init__()
        self.stages = Stages(start.network, 4)
        self.fpn = FeaturePyramidNetwork(self.stages.channels, width, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)

    def forward(self, x: Tensor) -> Features:
        return self.fpn(OrderedDict(zip(_LEVELS, self.stages(x), strict=True)))


class _Anchors(AnchorGenerator):
    """With the network's own strides, and in float32 whatever the features are: bfloat16 has no 500.5."""

    def __init__(self, sizes: Sequence[Sequence[int]], strides: Sequence[int]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (ASPECT_RATIOS,) * len(sizes))
        self.strides = strides

    def forward(self, images: ImageList, features: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(torch.float32, features[0].device)
        grids = [level.shape[-2:] for level in features]
        anchors = torch.cat(self.grid_anchors(grids, [[stride, stride] for stride in self.strides]))
        return [anchors] * len(images.image_sizes)


class _ProposalHead(RPNHead):
    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """float32, because the box coder takes the boxes to the precision of what it decodes."""
        objectness, deltas = super().forward(features)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class _AlignedPool(RoIAlign):
    def forward(self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        return super().forward(features["0"], boxes)


def _pyramid_pool(size: int, strides: Sequence[int], smallest_anchor: int) -> MultiScaleRoIAlign:
    """torchvision guesses strides from the first batch it sees, wrongly where padding is much of a small image."""
    scale = 224 * smallest_anchor // ANCHOR_SIZES[0]
    pool = MultiScaleRoIAlign(list(_LEVELS), size, sampling_ratio=2, canonical_scale=scale)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = LevelMapper(2, 5, canonical_scale=scale)
    return pool


class _BoxPredictor(FastRCNNPredictor):
    """Starts from N(0, .01) for classes and N(0, .001) for boxes (Girshick, 2015, section 2.3)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """R x D, or R x D x H x W that is averaged first."""
        logits, deltas = super().forward(x.mean(dim=(2, 3)) if x.dim() == 4 else x)
        return logits.float(), deltas.float()


def _mask_predictor(features: int, width: int, classes: int) -> MaskRCNNPredictor:
    """Its last layer starts from N(0, .001), as Detectron2's; torchvision's logits start at 10 and more if classes are few."""
    predictor = MaskRCNNPredictor(features, width, classes)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    nn.init.zeros_(predictor.mask_fcn_logits.bias)
    return predictor


class _Heads(RoIHeads):
    """torchvision's, but masks may share the box head's features (C4), and mask targets lie where the masks do."""

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
            # torchvision cuts the targets out with pixel centers at whole numbers, half a pixel from where boxes have
            # them
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
    """Masks of boxes as masks of the image, bilinear, without rounding the boxes to whole pixels.

    Args:
        masks: float, D x M x M, the probability that a cell belongs to the object.
        boxes: float, D x 4, pixels.
        size: height and width of the image, pixels.

    Returns:
        uint8, D x H x W: 1 where the probability is at least a half.
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
