"""Parts of files on web servers, over connections that stay open: one for each thread."""

import base64
import threading
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import unquote, urlsplit

SECONDS = 30.0
"""Longest wait for a connection, or for a server that is silent."""


class RefusedError(OSError):
    """A server answers, but not with what was asked for.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int) -> None:
        said = "the whole file for a part of it" if status == 200 else f"error {status}"
        super().__init__(f"the server answers with {said}")
        self.status = status


class Connections:
    """Reads parts of files; safe to use from threads."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, url: str, first: int, last: int) -> bytes:
        """Read bytes first to last - 1.

        Raises:
            OSError: the server cannot be reached, or refuses (`RefusedError`).
            EOFError: the file is shorter.
        """
        place = urlsplit(url)
        headers = {"Range": f"bytes={first}-{last - 1}"}
        if place.username:
            key = f"{unquote(place.username)}:{unquote(place.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}"
        connection = self._connection(place.scheme, place.netloc.rpartition("@")[2])
        try:
            connection.request("GET", f"{place.path}?{place.query}".removesuffix("?"), headers=headers)
            answer = connection.getresponse()
            if answer.status != 206:
                raise RefusedError(answer.status)
            data = answer.read()
        except (OSError, HTTPException) as error:
            connection.close()  # it opens again by itself
            raise error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}") from None
        if len(data) != last - first:
            raise EOFError("it ended early")
        return data

    def _connection(self, scheme: str, host: str) -> HTTPConnection:
        kept: dict[tuple[str, str], HTTPConnection] = self._local.__dict__.setdefault("kept", {})
        if (scheme, host) not in kept:
            kind = HTTPSConnection if scheme == "https" else HTTPConnection
            kept[scheme, host] = kind(host, timeout=SECONDS)
        return kept[scheme, host]
