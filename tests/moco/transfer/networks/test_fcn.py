"""The dilated network for semantic segmentation."""

import pytest
import torch
from torch.nn import functional as F

from moco.encoders.kinds import network_of
from moco.encoders.start import start_from
from moco.transfer.networks.fcn import FCN, enlarge


def thin(seed=0, stem="small-stride2"):
    return start_from("random", network_of("thin", stem), seed)


def images_and_labels(size=(40, 56), classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, classes, (2, *size), generator=generator, dtype=torch.uint8)


def test_every_tensor_of_the_encoder_arrives():
    source = thin()
    state = FCN(source, 3, seed=1, width=8).stages.state_dict()
    assert state.keys() == source.network.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in source.network.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "stem", "stride"), [("thin", "small-stride2", 8), ("resnet50", "imagenet", 16)]
)
def test_the_last_stage_is_dilated_and_keeps_the_stride_of_the_one_before(architecture, stem, stride):
    model = FCN(start_from("random", network_of(architecture, stem), 0), 3, seed=0, width=8)
    assert model.stride == stride
    features = model.stages.eval()(torch.randn(1, 3, 64, 64))
    assert features[3].shape[2:] == features[2].shape[2:] == (64 // stride, 64 // stride)
    wide = [m for m in model.stages.layer4.modules() if getattr(m, "kernel_size", None) == (3, 3)]
    assert wide and all(m.dilation == (2, 2) and m.stride == (1, 1) for m in wide)
    extra = [m for m in model.head if getattr(m, "kernel_size", None) == (3, 3)]
    assert [(m.dilation, m.out_channels, m.bias) for m in extra] == [((6, 6), 8, None)] * 2


def test_new_layers_depend_on_their_seed_alone_and_start_small():
    first, second = FCN(thin(0), 3, seed=1), FCN(thin(5), 3, seed=1)
    for name, value in first.head.state_dict().items():
        assert torch.equal(value, second.head.state_dict()[name])
    assert first.head[0].weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not first.head[-1].bias.any()
    assert not torch.equal(first.head[0].weight, FCN(thin(0), 3, seed=2).head[0].weight)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("size", [(40, 56), (33, 47), (17, 64)])
def test_images_of_any_size_give_logits_of_that_size_and_every_parameter_a_gradient(size, amp):
    model = FCN(thin(), 3, seed=0, width=8)
    images, labels = images_and_labels(size)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        logits, loss = model(images), model.loss(images, labels)
    assert logits.shape == (2, 3, *size)
    assert logits.dtype == loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_loss_is_the_mean_over_the_pixels_that_count():
    model = FCN(thin(), 3, seed=0, width=8).eval()
    images, labels = images_and_labels()
    labels[:, :10] = 255
    expected = F.cross_entropy(model(images), labels.long(), ignore_index=255)
    assert torch.allclose(model.loss(images, labels), expected)
    assert model.loss(images, torch.full_like(labels, 255)) == 0


def test_features_are_enlarged_to_the_pixels_they_are_centered_on():
    features = torch.arange(4.0).repeat(1, 1, 3, 1)  # the value of column j is j
    pixels = enlarge(features, 16, (35, 60))
    assert pixels.shape == (1, 1, 35, 60)
    assert torch.allclose(pixels[0, 0, 5, :49], torch.arange(49) / 16)
    assert (pixels[0, 0, :, 48:] == 3).all()


@pytest.mark.parametrize("size", range(31, 50))
def test_a_feature_is_centered_on_the_pixel_it_is_enlarged_to(size):
    """With flat kernels, a bright pixel moves the feature that is centered there most."""
    model = FCN(thin(), 3, seed=0, width=8).eval()
    with torch.no_grad():
        for module in model.stages.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.fill_(1 / module.weight[0].numel())
    images = torch.zeros(1, 3, size, 48)
    images[0, :, 24, 16] = 1000
    response = model.stages(images)[2][0, 0] - model.stages(torch.zeros_like(images))[2][0, 0]
    assert divmod(int(response.argmax()), response.shape[1]) == (24 // model.stride, 16 // model.stride)


@pytest.mark.slow
def test_it_learns_two_images_by_heart():
    images = torch.full((2, 3, 64, 64), 110, dtype=torch.uint8)
    labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    for n, (top, left) in enumerate([(8, 12), (30, 24)]):
        images[n, :, top : top + 25, left : left + 30] = torch.tensor([220, 40, 60], dtype=torch.uint8)[:, None, None]
        labels[n, top : top + 25, left : left + 30] = 1
        images[n, :, 50:, :20] = torch.tensor([20, 90, 230], dtype=torch.uint8)[:, None, None]
        labels[n, 50:, :20] = 2
    model = FCN(thin(), 3, seed=0, width=32)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(60):
        loss = model.loss(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = model.eval()(images).argmax(dim=1)
    for label in range(3):
        both, either = (predicted == label) & (labels == label), (predicted == label) | (labels == label)
        assert both.sum() / either.sum() > 0.85
