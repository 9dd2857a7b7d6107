"""Plain hosts a, b and c on one network, as fixtures of tests use them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandbox import Sandbox

NAMES = ("a", "b", "c")


class NetworkHosts:
    """Three hosts that are on; each other one answers to its name, `a`, `b` or `c`."""

    def __init__(self) -> None:
        self._sandbox = Sandbox(NAMES)
        try:
            for name in NAMES:
                self._sandbox.power_on(name)
        except BaseException:
            self._sandbox.close()
            raise
        self.power_on = self._sandbox.power_on
        self.power_off = self._sandbox.power_off
        self.cut = self._sandbox.cut
        self.reconnect = self._sandbox.reconnect
        self.close = self._sandbox.close

    def start(self, name: str, command: Sequence[str | Path], **options: Any) -> subprocess.Popen:
        """Start a command on a host; see `Host.start`."""
        return self._sandbox.hosts[name].start(command, **options)

    def run(self, name: str, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess:
        """Run a command on a host; see `Host.run`."""
        return self._sandbox.hosts[name].run(command, **options)
