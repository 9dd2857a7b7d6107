"""A throw-away world for tests: hosts on one Linux machine, each with its network and processes.

Everything in it descends from one process that ends as soon as the pipe to its standard input
closes, and with that process the kernel ends all others, mounts and interfaces. So nothing survives
the tests, even if they are killed, and two worlds never meet. Files are shared: a path means the
same on every host and outside, except in /run and /dev/shm.
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = "10.77.0.1"
UNSHARE = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
CLONE_NEWPID = 0x20000000  # linux/sched.h


def what_is_missing(programs: Sequence[str] = ()) -> str | None:
    """Why this machine cannot hold a sandbox that uses these programs; None if it can."""
    if sys.platform != "linux":
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in ("unshare", "nsenter", "ip", *programs) if shutil.which(name) is None]
    if absent:
        return f"needs the programs {', '.join(absent)}"
    allowed = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, text=True)
    return None if allowed.returncode == 0 else f"namespaces are forbidden here: {allowed.stderr.strip()}"


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Look again and again for at most `timeout` seconds.

    Raises:
        TimeoutError: `what` has not happened.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"after {timeout} s, not yet: {what}")
        time.sleep(0.02)


class Host:
    """Namespaces for network, mounts, host name and processes, within another host's if given.

    `setup` is a bash script that runs in the new namespaces.

    Raises:
        RuntimeError: the script failed; the text holds what it printed.
    """

    def __init__(self, setup: str, within: "Host | None" = None) -> None:
        self._started: list[subprocess.Popen] = []
        # Bash as first process adopts and reaps orphans.
        script = f"set -e\n{setup}\necho ready\nread -r || true"
        with within._children_inside() if within else contextlib.nullcontext():
            self._first = subprocess.Popen(
                [*(within._entering(None) if within else []), *UNSHARE, "bash", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        assert self._first.stdout is not None
        said = self._first.stdout.readline()
        if said != "ready\n":
            said += self._first.stdout.read()
            self.close()
            raise RuntimeError(f"a host of the sandbox could not be made: {said.strip()}")

    def start(
        self,
        command: Sequence[str | Path],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> subprocess.Popen:
        """Start a command on this host.

        The process returned is the command itself, so signals sent to it need no messenger. What it
        prints is appended to `log`, or printed; `env` is the whole environment, the tests' own by
        default.
        """
        with self._children_inside(), log.open("ab") if log else contextlib.nullcontext() as output:
            process = subprocess.Popen(
                [*self._entering(cwd), *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(
        self,
        command: Sequence[str | Path],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        **options: Any,
    ) -> subprocess.CompletedProcess:
        """`subprocess.run` on this host, with what the command prints captured as text."""
        with self._children_inside():
            completed = subprocess.run(
                [*self._entering(cwd), *command],
                env=env,
                timeout=timeout,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                start_new_session=True,
                **options,
            )
        completed.args = command
        return completed

    def close(self) -> None:
        """Kill every process of this host and of those within, and wait until the last has gone."""
        assert self._first.stdin is not None and self._first.stdout is not None
        if self._first.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            # A line, since the end of the pipe is not seen while a fork of the tests holds it too.
            self._first.stdin.write("\n")
            self._first.stdin.close()
        # The kernel keeps a process table until the parents of its processes have seen them end.
        for process in self._started:
            process.wait()
        self._first.wait()
        self._first.stdout.close()

    @contextlib.contextmanager
    def _children_inside(self) -> Iterator[None]:
        """Let what this thread starts be born among the host's processes, still the tests' child.

        `nsenter --pid` would stay in between as a parent that passes no signals on.
        """
        if self._first.poll() is not None:
            raise RuntimeError("this host of the sandbox is off")
        with contextlib.ExitStack() as files:
            inside = os.open(f"/proc/{self._first.pid}/ns/pid_for_children", os.O_RDONLY)
            files.callback(os.close, inside)
            own = os.open("/proc/self/ns/pid", os.O_RDONLY)
            files.callback(os.close, own)
            _join_process_table(inside)
            try:
                yield
            finally:
                _join_process_table(own)

    def _entering(self, cwd: Path | None) -> list[str]:
        """The words before a command to run in the host's namespaces, each replaced by the next."""
        of_host = f"/proc/{self._first.pid}/ns"
        spaces = [f"--{name}={of_host}/{file}" for name, file in (("mount", "mnt"), ("net", "net"), ("uts", "uts"))]
        return ["nsenter", *spaces, "--", "env", f"--chdir={(cwd or Path.cwd()).absolute()}"]


def _join_process_table(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "setns failed")


class Sandbox(Host):
    """A host `head` (10.77.0.1) and a switch that joins it to the hosts named, off at first.

    Every name leads to its address on every host, its own too. There is no way out to other
    networks.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 11)}
        known = {"localhost": "127.0.0.1", "head": HEAD} | self._addresses
        hosts_file = "".join(f"{address} {name}\n" for name, address in known.items())
        super().__init__(f"""
            hostname head
            mount -t tmpfs tmpfs /run
            mount -t tmpfs tmpfs /dev/shm
            printf %s {shlex.quote(hosts_file)} > /run/hosts
            mount --bind /run/hosts /etc/hosts
            ip link set lo up
            ip link add switch type bridge
            ip address add {HEAD}/24 dev switch
            ip link set switch up
            ip netns attach head $$
            """)
        self.hosts: dict[str, Host] = {}

    def power_on(self, name: str) -> None:
        """Make the host, with a cable to the switch."""
        address = self._addresses[name]
        # The same at each power-on: the others remember it.
        hardware_address = f"02:00:00:00:00:{address.split('.')[-1]}"
        self.hosts[name] = Host(
            f"""
            hostname {name}
            mount -t tmpfs tmpfs /dev/shm
            ip link set lo up
            ip link add eth0 address {hardware_address} type veth peer name {name} netns head
            ip address add {address}/24 dev eth0
            ip link set eth0 up
            ip -netns head link set dev {name} master switch up
            """,
            within=self,
        )

    def power_off(self, name: str) -> None:
        """SIGKILL to everything on the host, which then answers no more.

        The others see its connections close; cut the cable before for a host that dies silently.
        """
        self.hosts.pop(name).close()
        # The kernel would remove it too, a little later than the next power_on could come.
        self.run(["ip", "link", "delete", "dev", name])

    def cut(self, name: str) -> None:
        """Pull the host's cable: what is sent is lost in silence, and no connection is closed."""
        self.run(["ip", "link", "set", "dev", name, "down"], check=True)

    def reconnect(self, name: str) -> None:
        """Put the host's cable back."""
        self.run(["ip", "link", "set", "dev", name, "up"], check=True)

    def close(self) -> None:
        """End the world and everything in it."""
        for host in self.hosts.values():
            host.close()
        super().close()
