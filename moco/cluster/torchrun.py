"""Several hosts that meet at one of them; the same command on each trains one run."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from moco.cluster.agent import RENDEZVOUS, RUN_ID, run_agent, shell_line
from moco.cluster.launcher import Found, Launcher, Work
from moco.errors import MocoError


class Torchrun(Launcher):
    """Several hosts that meet at `rendezvous`; start the same command on each."""

    kind: Literal["torchrun"]
    nnodes: str = Field(
        "1",
        pattern=r"^[1-9][0-9]{0,4}(:[1-9][0-9]{0,4})?$",
        strict=False,
        coerce_numbers_to_str=True,
        description="Number of hosts, or FEWEST:MOST where hosts may come and go.",
    )
    rendezvous: str = Field(
        pattern=r"^[^\s:]+:[0-9]{1,5}$",
        description="HOST:PORT of one of the hosts, by a name that all of them can reach.",
    )

    @model_validator(mode="after")
    def _fewest_come_first(self) -> "Torchrun":
        fewest, most = self.hosts()
        if fewest > most:
            raise ValueError(f"nnodes = {self.nnodes}: the fewest are more than the most")
        return self

    def hosts(self) -> tuple[int, int]:
        fewest, _, most = self.nnodes.partition(":")
        return int(fewest), int(most or fewest)

    def help(self, work: Work, held: Callable[[], bool]) -> bool:
        print(f"pretrain: another host drives this run on the same disk; helping it at {self.rendezvous}", flush=True)
        self.run(work, None)
        while held():
            time.sleep(0.5)
        print("pretrain: done; the other host has written the outputs", flush=True)
        return True

    def run(self, work: Work, found: Found | None) -> None:
        host = self.rendezvous.rpartition(":")[0]
        try:
            socket.getaddrinfo(host, None)
        except socket.gaierror as error:
            raise MocoError(
                f"machine.yaml: launcher.rendezvous = {self.rendezvous}: there is no host {host} ({error.strerror});"
                " name one of the hosts as all of them know it, or give its address"
            ) from None
        run_agent(work.folder, work.processes, *self.hosts(), self.rendezvous)

    def line(self, folder: Path, processes: int) -> str:
        fewest, most = self.hosts()
        conf = ",".join(f"{name}={value}" for name, value in RENDEZVOUS.items())
        meeting = [f"--rdzv-id={RUN_ID}", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.rendezvous}"]
        nnodes = str(fewest) if fewest == most else self.nnodes
        return shell_line(folder, processes, [*meeting, f"--rdzv-conf={conf}"], nnodes)
