"""Detectors on an encoder: what they are made of, what they are trained on, and what comes out."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import box_iou

from moco.encoders.normalize import normalize
from moco.encoders.start import start_from
from moco.errors import MocoError
from moco.transfer.networks import detectors
from moco.transfer.networks.detectors import detector, paste_masks

KINDS = [("detection", "c4"), ("detection", "fpn"), ("instances", "c4"), ("instances", "fpn"), ("keypoints", "fpn")]
COLORS = torch.tensor([[230, 30, 60], [20, 200, 90], [40, 60, 240]], dtype=torch.uint8)
K = 3


def thin(seed=0):
    return start_from("random", "thin", "small-stride2", seed)


def small(task, neck, source=None, seed=0, **changes):
    """A detector that trains on small images in tenths of a second."""
    numbers = {
        "anchor_sizes": (8, 16, 32, 64, 128),
        "width": 16,
        "roi_size": 8,
        "rois_per_image": 16,
        "proposals_train": (100, 30),
        "proposals_test": (50, 10),
        "num_keypoints": K if task == "keypoints" else 0,
    }
    return detector(task, neck, source or thin(), 3, seed=seed, **{**numbers, **changes})


def scene(shift=0, size=(96, 96)):
    """A disc, a bar and a diamond on noise; every object's keypoints are its top, its middle and one unseen."""
    generator = torch.Generator().manual_seed(shift)
    image = torch.randint(90, 140, (3, *size), generator=generator, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    boxes, masks, keypoints = [], [], []
    for label, (middle_x, middle_y, radius) in enumerate([(25, 30, 14), (66, 28, 20), (45, 72, 17)]):
        dx, dy = (x - middle_x - 3 * shift).abs(), (y - middle_y + 2 * shift).abs()
        mask = (dx**2 + dy**2 < radius**2, (dx < radius) & (dy < 0.6 * radius), dx + dy < radius)[label]
        image[:, mask] = COLORS[label][:, None]
        rows, columns = mask.nonzero().T
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxes.append(torch.stack([left, top, right, bottom]).float())
        masks.append(mask)
        middle = [(left + right) / 2, (top + bottom) / 2, 2]
        keypoints.append(torch.tensor([[middle[0], top + 1, 2], middle, [0, 0, 0]]))
    target = {"boxes": torch.stack(boxes), "labels": torch.tensor([1, 2, 3])}
    return image, {**target, "masks": torch.stack(masks).byte(), "keypoints": torch.stack(keypoints)}


def nothing(size=(64, 80)):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return image, {**target, "masks": torch.zeros(0, *size, dtype=torch.uint8), "keypoints": torch.zeros(0, K, 3)}


@pytest.mark.parametrize("neck", ["c4", "fpn"])
@pytest.mark.parametrize("architecture", ["thin", "resnet18", "resnet50"])
def test_every_tensor_of_the_encoder_arrives(architecture, neck):
    source = start_from("random", architecture, "imagenet", 0)
    model = small("detection", neck, source)
    body, head = model.backbone.stages.state_dict(), model.roi_heads.box_head.state_dict()
    for name, value in source.network.state_dict().items():
        in_head = neck == "c4" and name.startswith("layer4.")
        assert torch.equal((head if in_head else body)[name], value)
        assert not (in_head and name in body)


@pytest.mark.parametrize(("task", "neck"), KINDS)
def test_under_one_seed_initializations_differ_in_the_backbone_alone(task, neck):
    before = torch.get_rng_state()
    one, other = small(task, neck, thin(0)), small(task, neck, thin(1))
    assert torch.equal(torch.get_rng_state(), before)
    new = {name for name in one.state_dict() if "stages." not in name and "layer4." not in name}
    assert len(new) > 10
    theirs = other.state_dict()
    assert all(
        torch.equal(value, theirs[name]) == (name in new)
        for name, value in one.named_parameters()
        if value.unique().numel() > 1
    )
    reseeded = small(task, neck, thin(0), seed=1).state_dict()
    assert not torch.equal(reseeded["rpn.head.cls_logits.weight"], theirs["rpn.head.cls_logits.weight"])


def test_detectors_do_not_share_the_backbone_they_were_made_from():
    source = thin()
    for model in (small("detection", "c4", source), small("detection", "fpn", source)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    assert source.network.conv1.weight.any()
    assert source.network.layer4[0].conv1.weight.any()


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(("task", "neck"), KINDS)
def test_nothing_is_frozen(task, neck, amp):
    torch.manual_seed(0)
    model = small(task, neck)
    images, targets = zip(scene(), nothing(), strict=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        losses = model(list(images), list(targets))
    extra = {"detection": set(), "instances": {"loss_mask"}, "keypoints": {"loss_keypoint"}}[task]
    plain = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert losses.keys() == plain | extra
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("task", "neck"), KINDS)
def test_images_without_objects_train_too(task, neck):
    model = small(task, neck)
    images, targets = zip(nothing(), nothing(), strict=True)
    losses = model(list(images), list(targets))
    assert losses["loss_classifier"] > 0
    assert not losses["loss_box_reg"] and not losses["loss_rpn_box_reg"]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnext50_32x4d"])
@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_larger_encoders_fit_both_necks(architecture, neck):
    model = small("instances", neck, start_from("random", architecture, "imagenet", 0), roi_size=4)
    image, target = scene()
    assert all(loss.isfinite() for loss in model([image], [target]).values())


def test_the_last_stage_has_an_extra_norm_and_its_stride_in_the_3x3():
    model = small("instances", "c4", start_from("random", "resnet50", "imagenet", 0))
    head = model.roi_heads.box_head
    assert [name for name, _ in head.named_children()] == ["layer4", "norm"]
    assert type(head.norm) is nn.BatchNorm2d
    assert (head.norm.weight == 1).all() and not head.norm.bias.any()
    first = head.layer4[0]
    assert (first.conv1.stride, first.conv2.stride) == ((1, 1), (2, 2))
    assert head(torch.randn(2, 1024, 14, 14)).shape == (2, 2048, 7, 7)
    assert model.roi_heads.mask_predictor(torch.randn(1, 2048, 7, 7)).shape == (1, 4, 14, 14)
    assert model.rpn.head.cls_logits.in_channels == 1024
    assert model.rpn.head.cls_logits.out_channels == 15


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


def test_every_convolution_of_the_pyramid_has_a_batch_norm():
    fpn = small("detection", "fpn").backbone.fpn
    convolutions = [m for m in fpn.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in fpn.modules() if type(m) is nn.BatchNorm2d]
    assert len(convolutions) == len(norms) == 8
    assert all(convolution.bias is None for convolution in convolutions)


def test_numbers_not_given_are_those_of_the_paper():
    c4, fpn = detector("detection", "c4", thin(), 3, seed=0), detector("detection", "fpn", thin(), 3, seed=0)
    assert (c4.rpn._pre_nms_top_n["testing"], c4.rpn._post_nms_top_n["testing"]) == (6000, 1000)
    assert (fpn.rpn._pre_nms_top_n["testing"], fpn.rpn._post_nms_top_n["testing"]) == (1000, 1000)
    assert c4.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)
    assert fpn.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    for model in (c4, fpn):
        assert model.roi_heads.box_coder.weights == (10, 10, 5, 5)
        assert model.roi_heads.fg_bg_sampler.batch_size_per_image == 512
    assert c4.roi_heads.box_roi_pool.output_size == 14
    assert fpn.roi_heads.box_head.fc7.out_features == 1024


def test_images_are_normalized_with_the_encoders_mean_and_padded_but_not_resized():
    mean, std = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
    model = small("detection", "fpn", replace(thin(), mean=mean, std=std))
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((33, 20), (16, 47))]
    batch, _ = model.transform(images)
    assert batch.tensors.shape == (2, 3, 48, 48)
    assert batch.image_sizes == [(33, 20), (16, 47)]
    assert torch.equal(batch.tensors[0, :, :33, :20], normalize(images[0][None], mean, std)[0])
    assert not batch.tensors[0, :, 33:].any() and not batch.tensors[0, :, :, 20:].any()


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


@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_regions_are_cut_out_where_their_boxes_are(neck):
    """Features that state their own place in the image, averaged over a region, give the middle of its box."""
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
    """What the loss is given is cut out of the true mask; torchvision's own cut is half a pixel off."""
    cut, regions = [], []

    def recorded(logits, boxes, masks, labels, matched):
        for box in (boxes[0], regions[0]):
            cut.append(project_masks_on_boxes(masks[0], box, matched[0], 28))
        cut.append(masks[0][matched[0]])
        return logits.sum()

    monkeypatch.setattr(detectors, "maskrcnn_loss", recorded)
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


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(("task", "neck"), KINDS)
def test_detections_are_in_pixels_of_the_image_given(task, neck, amp):
    torch.manual_seed(0)
    model = small(task, neck).eval()
    images = [nothing((40, 72))[0], nothing((65, 31))[0]]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        found = model(images)
    for image, result in zip(images, found, strict=True):
        count, (height, width) = len(result["boxes"]), image.shape[1:]
        assert count > 0
        assert result["boxes"].dtype == result["scores"].dtype == torch.float32
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert set(result["labels"].tolist()) <= {1, 2, 3}
        expected = {"instances": ("masks", (count, height, width)), "keypoints": ("keypoints", (count, K, 3))}
        assert set(result) - {"boxes", "labels", "scores"} == ({expected[task][0]} if task in expected else set())
        if task in expected:
            assert result[expected[task][0]].shape == expected[task][1]


@pytest.mark.parametrize(("task", "neck"), KINDS)
def test_images_in_which_nothing_is_found_give_empty_results(task, neck):
    model = small(task, neck).eval()
    model.roi_heads.score_thresh = 1.1
    with torch.inference_mode():
        (found,) = model([nothing((40, 72))[0]])
    assert all(len(value) == 0 for value in found.values())
    if task == "instances":
        assert found["masks"].shape == (0, 40, 72)


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


@pytest.mark.parametrize(
    ("arguments", "changes", "problem"),
    [
        (("keypoints", "c4"), {}, "need neck = 'fpn'"),
        (("keypoints", "fpn"), {"num_keypoints": 0}, "at least one keypoint"),
        (("detection", "fpn"), {"anchor_sizes": (8, 16)}, r"anchor_sizes = \[8, 16\]"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, changes, problem):
    with pytest.raises(MocoError, match=problem):
        small(*arguments, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("neck", "steps"), [("c4", 100), ("fpn", 300)])
def test_it_learns_two_scenes_by_heart(neck, steps):
    torch.manual_seed(0)
    images, targets = zip(scene(0), scene(1), strict=True)
    numbers = {"width": 32, "rois_per_image": 32, "proposals_test": (200, 50)}
    model = small("instances", neck, roi_size=8 if neck == "c4" else 14, **numbers)
    optimizer = torch.optim.SGD(model.parameters(), 0.015, momentum=0.9, weight_decay=1e-4)
    # So short a training is settled by rounding, and by the processor, unless it ends slowly: all of 13 seeds pass so.
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], [10])
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model(list(images), list(targets)).values()).backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        results = model.eval()(list(images))
    for found, target in zip(results, targets, strict=True):
        sure = found["scores"] > 0.5
        best = box_iou(target["boxes"], found["boxes"][sure]).max(dim=1)
        assert (best.values > 0.7).all()
        assert torch.equal(found["labels"][sure][best.indices], target["labels"])
        masks, truth = found["masks"][sure][best.indices].bool(), target["masks"].bool()
        overlap = (masks & truth).sum(dim=(1, 2)) / (masks | truth).sum(dim=(1, 2))
        assert (overlap > 0.7).all()
