"""An image costs a stated number of bytes, whatever it claims and however many threads decode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SIDES = (10_000, 11_000)  # pixels of the JPEG of each; without a limit six would take 6 GB
MEASURE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from moco.encoders.frozen import EncoderSpec
from moco.encoders.kinds import network_of
from moco.evaluation.embed import _view
from moco.evaluation.inputs import Skips, find_images

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

spec = EncoderSpec(network_of("thin", "small"), 224, 0.875, (0.5,) * 3, (0.5,) * 3, 8, "hash")
images = find_images([Path(sys.argv[1])], Skips())
before = peak()
with ThreadPoolExecutor(6) as threads:
    shapes = {view.shape for view in threads.map(lambda image: _view(image, spec), images)}
assert shapes == {(224, 224, 3)}, shapes
print(len(images), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(("kind", "options"), [("jpg", {"progressive": True, "subsampling": 0}), ("png", {})])
def test_six_threads_on_images_of_a_hundred_megapixels_take_less_than_the_stated_memory(tmp_path, kind, options):
    Image.linear_gradient("L").resize(SIDES).convert("RGB").save(tmp_path / f"0.{kind}", **options)
    for number in range(1, 6):
        os.link(tmp_path / f"0.{kind}", tmp_path / f"{number}.{kind}")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, mebibytes = done.stdout.split()
    assert int(count) == 6 and float(mebibytes) < 2048
