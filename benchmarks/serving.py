"""How long the registered encoder takes to answer over http: `python -m benchmarks.serving`.

It serves `models:/moco-encoder@champion`, or another model, as `mlflow models serve` does, and
sends photographs of scikit-learn's as JPEGs, one or 32 in a request.
"""

import argparse
import base64
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from PIL import Image
from sklearn.datasets import load_sample_images

SIZES = ((224, 224), (640, 427))
COUNTS = (1, 32)
QUALITY = 90


def request_of(count: int, size: tuple[int, int]) -> bytes:
    """Make a request of some equal JPEGs of a size, pixels."""
    file = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).resize(size).save(file, "JPEG", quality=QUALITY)
    record = {"image": base64.b64encode(file.getvalue()).decode()}
    return json.dumps({"dataframe_records": [record] * count}).encode()


def milliseconds(url: str, body: bytes, times: int) -> tuple[float, int]:
    """Measure the median of some requests after two, and the bytes of an answer."""
    taken, answer = [], b""
    for _ in range(times + 2):
        begin = time.perf_counter()
        asked = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
        answer = urllib.request.urlopen(asked, timeout=60).read()
        taken.append(1000 * (time.perf_counter() - begin))
    return statistics.median(taken[2:]), len(answer)


def main() -> None:
    """Serve, ask, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--model", default="models:/moco-encoder@champion", help="(default: %(default)s)")
    parser.add_argument("--times", type=int, default=20, help="requests of each kind (default: %(default)s)")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ.setdefault("DO_NOT_TRACK", "true")
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{os.path.abspath('mlflow.db')}")  # noqa: PTH100
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--port", port]
    server = subprocess.Popen(
        [*command, "--model-uri", options.model],
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if server.poll() is not None:
                sys.exit(f"error: `{' '.join(command)}` ended; run it by hand to see why")
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        print("| JPEGs in a request | pixels | ms a request | ms an image | bytes sent | bytes answered |")
        print("|---|---|---|---|---|---|")
        for size in SIZES:
            for count in COUNTS:
                body = request_of(count, size)
                took, answered = milliseconds(url, body, options.times)
                sides = " x ".join(map(str, size))
                print(
                    f"| {count} | {sides} | {took:.1f} | {took / count:.1f} | {len(body):,} | {answered:,} |",
                    flush=True,
                )
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    main()
