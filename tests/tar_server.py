"""A web server of files for tests: with or without ranges, and with the faults of real ones."""

import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class TarServer(ThreadingHTTPServer):
    """Serves a folder on a free port of this machine.

    Attributes:
        asked: path and Range header of each request.
        ranges: whether a request for a part is answered with the part.
        drop_after: bytes of an answer after which the connection breaks; None: never.
        refuse: status codes to answer the next requests with, in order.
        seconds_a_piece: time between two pieces of 4 kB.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.asked, self.refuse = folder, [], []
        self.ranges, self.drop_after, self.seconds_a_piece = True, None, 0.0
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: TarServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        path, part = server.folder / self.path.lstrip("/").partition("?")[0], self.headers.get("Range")
        server.asked.append((self.path, part))
        if server.refuse:
            self.send_error(server.refuse.pop(0))
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(206 if part and server.ranges else 200)
        if part and server.ranges:
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", part).groups())
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        data = data[: server.drop_after]
        with contextlib.suppress(ConnectionError):  # whoever asked has what he wanted
            while data:
                self.wfile.write(data[:4096])
                data = data[4096:]
                time.sleep(server.seconds_a_piece)
