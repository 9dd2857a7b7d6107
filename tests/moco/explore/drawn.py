"""Images in known places: three classes, each a blot on the map, and names of any kind."""

import numpy as np

from moco.explore.images import Explored, Group

CLASSES = ["blue", "</script><script>alert(1)</script>", 'a "b"\n, c']
ODD_NAMES = ['x/"quoted", comma.png', "x/line\nend.png", "x/<img src=x onerror=alert(1)>.png", "x/gr\udcfcn.png"]


def drawn(count: int) -> tuple[Explored, np.ndarray]:
    """Give images and their map: a blot around (0.2, 0.2), (0.8, 0.2) and (0.5, 0.8) a class."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    features = (np.eye(3, 16)[labels] + 0.1 * rng.normal(size=(count, 16))).astype(np.float32)
    middle = np.array([[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]])
    points = (middle[labels] + 0.08 * rng.uniform(-1, 1, (count, 2))).astype(np.float32)
    names = [ODD_NAMES[i] if i < len(ODD_NAMES) else f"x/{i:04d}.png" for i in range(count)]

    def read(i: int) -> np.ndarray:
        return np.full((40, 30, 3), (60 * labels[i] + 40, i % 256, 200), dtype=np.uint8)

    group = Group(CLASSES, labels.astype(np.int32))
    keys = [f"{i:016x}" for i in range(count)]
    return Explored("<b>drawn", features, read, names, np.ones(count, dtype=bool), keys, {"class": group}), points
