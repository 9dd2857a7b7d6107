"""Detectors that train on small images in tenths of a second, and images for them."""

import torch

from moco.encoders.kinds import network_of
from moco.encoders.start import start_from
from moco.transfer.networks.detectors import detector

KINDS = [("detection", "c4"), ("detection", "fpn"), ("instances", "c4"), ("instances", "fpn"), ("keypoints", "fpn")]
COLORS = torch.tensor([[230, 30, 60], [20, 200, 90], [40, 60, 240]], dtype=torch.uint8)
K = 3


def thin(seed=0):
    return start_from("random", network_of("thin", "small-stride2"), seed)


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
    """A disc, a bar and a diamond on noise; keypoints: top, middle and one unseen."""
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
