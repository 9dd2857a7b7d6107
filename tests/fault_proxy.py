"""A server in trouble: passes requests on to another one, late, or answers 500 itself.

    python tests/fault_proxy.py http://127.0.0.1:5000 --delay 20
    python tests/fault_proxy.py http://127.0.0.1:5000 --status 500 --seconds 180

It prints its own address, for MLFLOW_TRACKING_URI or the `endpointurl` of a DVC remote.
"""

import argparse
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

OF_A_CONNECTION = ("connection", "transfer-encoding", "content-length", "expect")
"""Headers of one connection, which are not passed on."""


class FaultProxy(ThreadingHTTPServer):
    """Stands before the server at `target`, an http:// address.

    Attributes:
        delay: seconds by which each answer is late.
        status: what is answered instead of asking the server; None: its own answer.
        asked: how many requests came.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.url = urlsplit(target), f"http://127.0.0.1:{self.server_port}"
        self.delay, self.status, self.asked = 0.0, None, 0


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self) -> None:
        self.server.asked += 1
        body = self.body()
        time.sleep(self.server.delay)
        status, headers, answer = self.server.status, [], b""
        if status is None:
            target = http.client.HTTPConnection(self.server.target.hostname, self.server.target.port, timeout=60)
            passed = {name: value for name, value in self.headers.items() if name.lower() not in OF_A_CONNECTION}
            target.request(self.command, self.path, body, passed)
            found = target.getresponse()
            status, headers, answer = found.status, found.getheaders(), found.read()
            target.close()
        try:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in OF_A_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer if self.command != "HEAD" else b"")
        except OSError:  # who asked has gone
            pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer  # noqa: N815 - names of the library

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """Serve before a target; without fault until its attributes are set."""
    proxy = FaultProxy(target)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds by which each answer is late")
    parser.add_argument("--status", type=int, help="answered instead of asking the server")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long the trouble lasts")
    given = parser.parse_args()
    with fault_proxy(given.target) as proxy:
        proxy.delay, proxy.status = given.delay, given.status
        print(proxy.url, flush=True)
        end = time.monotonic() + given.seconds
        while True:
            time.sleep(0.5)
            if time.monotonic() > end:
                proxy.delay, proxy.status = 0.0, None


if __name__ == "__main__":
    main()
