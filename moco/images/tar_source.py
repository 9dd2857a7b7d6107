"""Where tars come from: http(s), S3, a command, a folder, a list, or what webdataset opens."""

import errno
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from moco.errors import MocoError
from moco.files import write_json
from moco.images.http_parts import Connections
from moco.images.index import ShardSet

CURL = ("curl", "-fsSLg", "--connect-timeout", "30", "--speed-limit", "1", "--speed-time", "30")
PASSING = ("408", "425", "429")
"""Those of HTTP's 4xx that are worth another try."""
LIST = "list:"
SIGNED_FOR = 3600  # seconds that a signed address of S3 is valid; half of them are used


class Tar:
    """One tar, read forwards.

    Args:
        file: its bytes.
        start: offset in the tar of the first byte.
        pipe: webdataset's, if a command prints them.
    """

    def __init__(self, file: IO[bytes], start: int, pipe: Any = None) -> None:
        self.file, self.start, self.position = file, start, start
        self._pipe = pipe  # closes the file when it is collected
        self.process: subprocess.Popen[bytes] | None = getattr(pipe, "proc", None)
        self._owner = os.getpid()

    def read(self, count: int) -> bytes:
        """Read the next `count` bytes.

        Raises:
            EOFError: the stream ends earlier.
        """
        data = self.file.read(count)
        self.position += len(data)
        if len(data) != count:
            raise EOFError("it ended early")
        return data

    def skip_to(self, offset: int) -> None:
        """Move forwards to an offset; errors as in `read`."""
        if self.process is None:
            self.file.seek(offset)
            self.position = offset
        while self.position < offset:
            self.read(min(offset - self.position, 2**20))

    def last_words(self) -> tuple[int | None, str]:
        """Return exit code and last line on stderr of the command that failed, where known."""
        if self.process is None:
            return None, ""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        said = b"" if self.process.stderr is None else self.process.stderr.read()
        return self.process.poll(), last_line(said.decode(errors="replace"))

    def close(self) -> None:
        """Stop reading, and the command with it."""
        if self.process is not None:
            self.process.kill()  # one that waits for a silent server does not notice otherwise
            self.process.wait()
            if self.process.stderr is not None:
                self.process.stderr.close()
        self.file.close()

    def __del__(self) -> None:
        if self._owner == os.getpid():  # a forked process must not stop its parent's commands
            self.close()


class Source:
    """The place that the tars of a shard set come from.

    Args:
        images: the shard set.
        location: http(s)://…, s3://…, pipe:COMMAND, another address that `webdataset.gopen` knows,
            or a folder. `{shard}` in it stands for a tar's name; without it, the name is appended.
            list:FILE names a file that `write_addresses` wrote. None: the shard set's own folder.

    Raises:
        MocoError: the list of addresses is missing.
    """

    def __init__(self, images: ShardSet, location: str | None) -> None:
        self.location = (location or str(images.folder)).rstrip("/")
        self.addresses: dict[str, str] = {}
        self.endpoint: str | None = None
        if self.location.startswith(LIST):
            self.addresses, self.endpoint = read_addresses(Path(self.location.removeprefix(LIST)))
        scheme = re.match(r"([a-z][a-z0-9+.-]*):", next(iter(self.addresses.values()), self.location))
        self.scheme = scheme[1] if scheme else "file"
        self.seeks = self.scheme in ("file", "http", "https", "s3")
        """Whether a tar can be read from its middle."""
        self.answered = False
        """Whether an image came from there."""
        self.reported = False
        """Whether a broken connection was reported."""
        self._signed: dict[str, tuple[float, str]] = {}
        self._connections = Connections()

    def address(self, shard: str) -> str:
        """Return the address of a tar.

        Raises:
            MocoError: a list of addresses does not have it.
        """
        if self.addresses:
            if shard not in self.addresses:
                raise MocoError(f"{shard}: is not among the objects of the DVC remote; `dvc push shard` puts it there")
            return self.addresses[shard]
        if "{shard}" in self.location:
            return self.location.replace("{shard}", shard)
        return f"{self.location}/{shard}"

    def name(self, shard: str) -> str:
        """Return the address without its query, which may hold a password."""
        address = self.address(shard)
        return address if self.scheme in ("pipe", "file") else address.partition("?")[0]

    def open(self, shard: str, first: int, last: int) -> Tar:
        """Open a tar at byte `first`, or at 0 if this source does not seek, up to byte `last`.

        Raises:
            OSError: it cannot be opened.
            MocoError: the command that reads from this address is missing, or there is none.
        """
        address = self.address(shard)
        if self.scheme == "file":
            if not stat.S_ISREG(Path(address).stat().st_mode):  # a pipe or device would be waited for without end
                raise NotADirectoryError(errno.ENOTDIR, "is no file")
            tar = Tar(Path(address).open("rb"), 0)  # noqa: SIM115
            tar.skip_to(first)
            return tar
        try:
            from webdataset.gopen import Pipe, gopen
        except ImportError:
            raise MocoError(
                f"machine.yaml: shards_from = {self.location!r} needs webdataset; `pip install webdataset`"
            ) from None
        if self.scheme in ("http", "https", "s3"):
            url = self._signed_address(address) if self.scheme == "s3" else address
            seeks = self.seeks
            span = ["-r", f"{first}-{last - 1}"] if seeks else []
            try:
                pipe = Pipe([*CURL, *span, url], mode="rb", bufsize=2**16, stderr=subprocess.PIPE)
            except FileNotFoundError:
                raise MocoError(f"{self.name(shard)}: needs the command curl; install it") from None
            return Tar(pipe.stream, first if seeks else 0, pipe)
        try:
            pipe = gopen(address)
        except (ValueError, ImportError, FileNotFoundError) as error:
            raise MocoError(f"machine.yaml: shards_from = {self.location!r}: {error}; use another") from None
        return Tar(pipe.stream, 0, pipe)

    def part(self, shard: str, first: int, last: int) -> bytes:
        """Read bytes first to last - 1 of a tar; safe to use from threads.

        Raises:
            OSError: it cannot be read.
            EOFError: it is shorter.
            MocoError: this source is read forwards only.
        """
        address = self.address(shard)
        if self.scheme == "file":
            with Path(address).open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), last - first, first)
            if len(data) != last - first:
                raise EOFError("it ended early")
            return data
        if self.scheme not in ("http", "https", "s3"):
            raise MocoError(
                f"machine.yaml: shards_from = {self.location!r} is read forwards only; set pretrain.stream, for example"
                " {lanes: 16, window: 1024}"
            )
        url = self._signed_address(address) if self.scheme == "s3" else address
        return self._connections.get(url, first, last)

    def _signed_address(self, address: str) -> str:
        """Sign an https address of an object on S3, and keep it.

        By botocore, which comes with DVC's S3, where it is installed; else by the command aws,
        which takes 0.5 s.
        """
        made, url = self._signed.get(address, (0.0, ""))
        if not url or time.monotonic() - made > SIGNED_FOR / 2:
            if signed := signed_by_botocore(address, self.endpoint, SIGNED_FOR):
                self._signed[address] = (time.monotonic(), signed)
                return signed
            endpoint = ["--endpoint-url", self.endpoint] if self.endpoint else []
            try:
                done = subprocess.run(
                    ["aws", *endpoint, "s3", "presign", address, "--expires-in", str(SIGNED_FOR)],
                    capture_output=True,
                    text=True,
                )
            except FileNotFoundError:
                raise MocoError(
                    f"{address}: needs the package botocore or the command aws; `pip install 'moco-pipeline[data]'`"
                ) from None
            url = done.stdout.strip()
            if done.returncode:
                raise OSError(done.returncode, last_line(done.stderr))
            self._signed[address] = (time.monotonic(), url)
        return url

    def refuses(self, error: Exception, code: int | None, words: str) -> bool:
        """Tell whether another try is useless.

        Args:
            error: what was raised on reading.
            code: exit code of the command that was read from.
            words: its last words.
        """
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError):
            return True
        if self.scheme == "file":  # a disk may come back, a wrong path does not
            return isinstance(error, EOFError) or getattr(error, "errno", 0) in (errno.ELOOP, errno.EISDIR, errno.ENXIO)
        if self.scheme in ("http", "https", "s3"):
            status = re.search(r"returned error: (4\d\d)", words)
            return status is not None and status[1] not in PASSING
        return code in (126, 127)  # the shell found no such command


def write_addresses(file: Path, addresses: Mapping[str, str], endpoint: str | None) -> None:
    """Write where each tar is, for processes that cannot ask: no secret is in it.

    Args:
        file: beside the run's job.
        addresses: by the tar's name.
        endpoint: of S3, where it is not Amazon's.
    """
    write_json(file, {"endpoint": endpoint, "tars": dict(addresses)})


def read_addresses(file: Path) -> tuple[dict[str, str], str | None]:
    """Read what `write_addresses` wrote.

    Raises:
        MocoError: there is no such list.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return dict(values["tars"]), values["endpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MocoError(
            f"{file}: no list of the tars' addresses ({error}); start the run again in the project's folder, where DVC"
            " knows them"
        ) from None


@cache
def _s3_client(endpoint: str | None, process: int) -> Any:
    try:
        from botocore.config import Config
        from botocore.session import get_session
    except ImportError:
        return None
    session = get_session()
    region = session.get_config_variable("region") or "us-east-1"
    config = Config(signature_version="s3v4")
    return session.create_client("s3", endpoint_url=endpoint, region_name=region, config=config)


def signed_by_botocore(address: str, endpoint: str | None, seconds: int) -> str | None:
    """Sign the address of an object on S3 for reading; None without botocore.

    Raises:
        MocoError: there are no credentials.
    """
    client = _s3_client(endpoint, os.getpid())
    if client is None:
        return None
    bucket, _, key = address.removeprefix("s3://").partition("/")
    try:
        return str(client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, seconds))
    except Exception as error:  # of botocore, which has one for each thing that is missing
        raise MocoError(
            f"{address}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from None


def last_line(text: str) -> str:
    """Return the last line that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
