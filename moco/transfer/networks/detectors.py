"""Faster, Mask and Keypoint R-CNN on an encoder, from torchvision's parts, as in the paper."""

from collections import OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from moco.encoders.normalize import normalize
from moco.encoders.resnet import ResNet
from moco.encoders.start import Start
from moco.errors import MocoError
from moco.transfer.networks.necks import ANCHOR_SIZES, LEVELS, Anchors, LastStage, ProposalHead, Pyramid
from moco.transfer.networks.roi_heads import (
    AlignedPool,
    BoxPredictor,
    Heads,
    mask_predictor_of,
    paste_masks,
    pyramid_pool,
)

Task = Literal["detection", "instances", "keypoints"]
Neck = Literal["c4", "fpn"]

PROPOSALS_TRAIN = {"c4": (12000, 2000), "fpn": (2000, 1000)}
PROPOSALS_TEST = {"c4": (6000, 1000), "fpn": (1000, 1000)}


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
    """Build a detector on an encoder; its other layers start from `seed` alone.

    - "c4": the body ends at layer3 (res4) and carries the proposals; layer4 (res5) with a batch
      norm after it (the paper's "extra norm") is the box head, and masks are predicted from its
      output too.
    - "fpn": layer1 … layer4 and a pyramid with batch norm in each convolution ("BN in the newly
      initialized layers", section 4.2). The box head is two fully connected layers, the mask head
      four 3x3 convolutions and the keypoint head eight, without batch norm, as in Detectron2's
      default: an image without objects gives the latter two no region to take statistics from.

    Nothing is frozen. Where the paper is silent, numbers are Detectron2's (the code it was run
    with): proposals, 512 regions an image, a quarter of them with objects, box weights (10, 10, 5,
    5), 100 detections with a score above 0.05, NMS at 0.7 and 0.5. Two things stay torchvision's:
    smooth L1 with beta 1/9, where Detectron2 has 0, and RoIAlign of the pyramid without the
    half-pixel shift.

    In training `model(images, targets)` gives a dict of losses, scalars; in evaluation
    `model(images)` gives for each image a dict of `boxes` (float32 D x 4: x0, y0, x1, y1 in pixels
    of that image), `labels` (int64 [D], 1 … C), `scores` (float32 [D]) and, by task, `masks` (uint8
    D x H x W, 0 or 1) or `keypoints` (float32 D x K x 3: x, y, score, a logit). Images are uint8 3
    x H x W of any sizes, on the model's device; they are normalized and padded, not resized.
    Targets hold `boxes`, `labels` and by task `masks` (uint8 M x H x W) or `keypoints` (float32 M x
    K x 3: x, y, visibility); M may be 0. All of it may run under `torch.autocast`.

    Args:
        task: what is predicted for each object beside its box and class.
        neck: see above; the paper's keypoints are on "fpn" only.
        start: its network is copied, so that one can serve several detectors.
        num_classes: C, without the background.
        seed: of the new layers.
        num_keypoints: K, for "keypoints".
        anchor_sizes: sides of the square anchors, pixels; smaller ones for small images. "fpn" has
            one for each of its five levels, and sends a region to the level where, with the default
            sizes, the FPN paper does.
        width: channels of the new convolutions; fully connected layers are four times as wide and
            keypoint convolutions twice.
        roi_size: cells on the side of a region; "fpn" gives its box head half of them.
        rois_per_image: regions an image that the heads are trained on.
        proposals_train: before and after NMS in training ("fpn": before, on each level); None:
            12000, 2000 ("fpn": 2000, 1000).
        proposals_test: the same in evaluation; None: 6000, 1000 (1000, 1000).

    Raises:
        MocoError: the task, neck and numbers do not go together.
    """
    _check(task, neck, num_keypoints, anchor_sizes)
    if neck == "c4" and not isinstance(start.network, ResNet):
        raise MocoError(
            f"neck = c4 needs encoder.kind = resnet, whose last stage is the head, and this is {start.kind.label}; set fpn"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classes = num_classes + 1
        body: LastStage | Pyramid = LastStage(start.network) if neck == "c4" else Pyramid(start.network, width)
        stages = body.stages
        if neck == "c4":
            channels = stages.channels[-1]
            anchors = Anchors([anchor_sizes], stages.strides[-1:])
            pool: nn.Module = AlignedPool(roi_size, 1 / stages.strides[-1], sampling_ratio=0, aligned=True)
            features = start.network.feature_dim
            res5 = deepcopy(start.network.get_submodule("layer4"))
            head: nn.Module = nn.Sequential(OrderedDict(layer4=res5, norm=nn.BatchNorm2d(features)))
        else:
            channels, features = width, 4 * width
            strides = [*stages.strides, 2 * stages.strides[-1]]
            anchors = Anchors([[size] for size in anchor_sizes], strides)
            pool = pyramid_pool(roi_size // 2, stages.strides, anchor_sizes[0])
            head = TwoMLPHead(width * (roi_size // 2) ** 2, features)
        heads = Heads(pool, head, BoxPredictor(features, classes), 0.5, 0.5, rois_per_image, 0.25, None, 0.05, 0.5, 100)
        if task == "instances":
            if neck == "fpn":
                heads.mask_roi_pool = pyramid_pool(roi_size, stages.strides, anchor_sizes[0])
                heads.mask_head = MaskRCNNHeads(width, (width,) * 4, dilation=1)
                features = width
            heads.mask_predictor = mask_predictor_of(features, width, classes)
        if task == "keypoints":
            heads.keypoint_roi_pool = pyramid_pool(roi_size, stages.strides, anchor_sizes[0])
            heads.keypoint_head = KeypointRCNNHeads(width, (2 * width,) * 8)
            heads.keypoint_predictor = KeypointRCNNPredictor(2 * width, num_keypoints)
        before_train, after_train = proposals_train or PROPOSALS_TRAIN[neck]
        before_test, after_test = proposals_test or PROPOSALS_TEST[neck]
        proposals = RegionProposalNetwork(
            anchors,
            ProposalHead(channels, anchors.num_anchors_per_location()[0]),
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
    if task == "keypoints" and (neck != "fpn" or num_keypoints < 1):
        raise MocoError(
            f"keypoints need neck = 'fpn' and at least one keypoint, not {neck!r} and {num_keypoints}; set both"
        )
    if neck == "fpn" and len(anchor_sizes) != len(LEVELS) + 1:
        raise MocoError(
            f"anchor_sizes = {list(anchor_sizes)} for neck = 'fpn'; give five, one for each level, such as"
            f" {list(ANCHOR_SIZES)}"
        )


class _Batching(nn.Module):
    """Instead of torchvision's transform: images to one padded batch, not resized."""

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
