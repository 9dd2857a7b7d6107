"""Detectors on an encoder: what they are made of, what they are trained on, and what comes out."""

from dataclasses import replace

import pytest
import torch
from small_detectors import KINDS, K, nothing, scene, small, thin
from torch import nn
from torchvision.ops import box_iou

from moco.encoders.kinds import network_of
from moco.encoders.normalize import normalize
from moco.encoders.start import start_from
from moco.errors import MocoError
from moco.transfer.networks.detectors import detector


@pytest.mark.parametrize("neck", ["c4", "fpn"])
@pytest.mark.parametrize("architecture", ["thin", "resnet18", "resnet50"])
def test_every_tensor_of_the_encoder_arrives(architecture, neck):
    source = start_from("random", network_of(architecture, "imagenet"), 0)
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
    model = small("instances", neck, start_from("random", network_of(architecture, "imagenet"), 0), roi_size=4)
    image, target = scene()
    assert all(loss.isfinite() for loss in model([image], [target]).values())


def test_the_last_stage_has_an_extra_norm_and_its_stride_in_the_3x3():
    model = small("instances", "c4", start_from("random", network_of("resnet50", "imagenet"), 0))
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
def test_it_memorizes_two_scenes(neck, steps):
    torch.manual_seed(0)
    images, targets = zip(scene(0), scene(1), strict=True)
    numbers = {"width": 32, "rois_per_image": 32, "proposals_test": (200, 50)}
    model = small("instances", neck, roi_size=8 if neck == "c4" else 14, **numbers)
    optimizer = torch.optim.SGD(model.parameters(), 0.015, momentum=0.9, weight_decay=1e-4)
    # So short a training is settled by rounding, and by the processor, unless it ends slowly: all
    # of 13 seeds pass so.
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
