"""Drawn stand-ins for Fashion-MNIST, without download: five shapes in gray on black."""

import cv2
import numpy as np

CLASSES = ["T-shirt/top", "Ring & chain", "Bar", "Boot", "Ball"]


def drawn_items(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images, uint8 count x 28 x 28, and labels, uint8 [count]; no two images are equal."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(count) % len(CLASSES)).astype(np.uint8)
    images = np.zeros((count, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        a, b = draw.integers(6, 13, 2).tolist()
        match label:
            case 0:
                cv2.rectangle(image, (14 - a // 2, 4), (14 + a // 2, 24), 255, -1)
                cv2.rectangle(image, (2, 4), (25, 10), 255, -1)
            case 1:
                cv2.circle(image, (14, 14), a, 255, 3)
            case 2:
                cv2.rectangle(image, (14 - a // 4, 1), (14 + a // 4, 26), 255, -1)
            case 3:
                cv2.fillPoly(image, [np.array([[4, 2], [14, 2], [14, 14], [26, 20], [26, 25], [4, 25]])], 255)
            case _:
                cv2.ellipse(image, (14, 14), (a, b), 0, 0, 360, 255, -1)
        image[image > 0] = draw.integers(60, 256, int((image > 0).sum()))
    return images, labels
