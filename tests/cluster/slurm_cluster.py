"""A real Slurm cluster for tests: a head and four nodes, n1 to n4, with two CPUs each."""

import signal
from pathlib import Path
from typing import NamedTuple

from sandbox import HEAD, Sandbox, wait_until

NODES = ("n1", "n2", "n3", "n4")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol")

# A job of partition `urgent` takes nodes from those of `ci`: they are told
# (preempt_send_user_signal), have GraceTime seconds, and are queued again. Times are short, and
# what is not tested (accounting, cgroups) is left out.
SLURM_CONF = f"""
ClusterName=testbed
SlurmctldHost=head({HEAD})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that is queued again starts when the credential of its last run has expired.
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillOnBadExit=1
KillWait=3
SlurmdTimeout=10
ReturnToService=2
MailProg=/bin/true
SlurmdParameters=config_overrides
StateSaveLocation=/run/slurm/controller
SlurmdSpoolDir=/run/slurm/%n
SlurmctldPidFile=/run/slurm/controller.pid
SlurmdPidFile=/run/slurm/%n.pid
NodeName=n[1-4] NodeAddr=10.77.0.[11-14] CPUs=2 RealMemory=4000
PartitionName=ci Nodes=ALL Default=YES PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=ALL PriorityTier=10
"""


class Job(NamedTuple):
    """A line of `squeue`: for example ("7", "RUNNING", "n[1-2]"); a job that waits has no nodes."""

    id: str
    state: str
    nodes: str


class SlurmCluster:
    """A Slurm cluster whose nodes are on and idle; its daemons log to `folder`.

    `hosts` are its nodes by name, for processes that Slurm knows nothing of.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sandbox = Sandbox(NODES)
        try:
            self._bring_up()
        except BaseException:
            self._sandbox.close()
            raise
        self.hosts = self._sandbox.hosts
        self.start = self._sandbox.start
        self.run = self._sandbox.run
        self.power_off = self._sandbox.power_off
        self.cut = self._sandbox.cut
        self.reconnect = self._sandbox.reconnect
        self.close = self._sandbox.close

    def _bring_up(self) -> None:
        (self._folder / "slurm.conf").write_text(SLURM_CONF)
        script = """
            mount -t tmpfs tmpfs /etc/slurm
            cp slurm.conf /etc/slurm
            mkdir -p /run/munge /run/slurm/{controller,n1,n2,n3,n4}
            head -c 1024 /dev/urandom > /run/munge/key
            chmod 600 /run/munge/key
            """
        self._sandbox.run(["bash", "-e", "-c", script], cwd=self._folder, check=True)
        munged = [
            "munged",
            "--foreground",
            "--key-file=/run/munge/key",
            "--seed-file=/run/munge/seed",
            "--pid-file=/run/munge/pid",
            "--log-file=/run/munge/log",
        ]
        self._sandbox.start(munged, log=self._folder / "munged.log")
        wait_until(lambda: self._sandbox.run(["munge", "--no-input"]).returncode == 0, 10, "munged answers")
        self._start_controller()
        for name in NODES:
            self.power_on(name)
        self.wait_until_idle(30)

    def _start_controller(self) -> None:
        self._controller = self._sandbox.start(["slurmctld", "-D"], log=self._folder / "slurmctld.log")

    def restart_controller(self) -> None:
        """Restart the controller and wait until it answers; jobs continue meanwhile."""
        self._controller.send_signal(signal.SIGTERM)
        self._controller.wait(30)
        self._start_controller()
        wait_until(lambda: self._sandbox.run(["scontrol", "ping"]).returncode == 0, 30, "the controller answers")

    def power_on(self, name: str) -> None:
        """Start the node; it is idle a moment later."""
        self._sandbox.power_on(name)
        self._sandbox.hosts[name].start(["slurmd", "-D", "-N", name], log=self._folder / f"{name}.log")

    def jobs(self) -> list[Job]:
        """What the controller knows: waiting and running jobs, and those that ended lately."""
        lines = self._sandbox.run(["squeue", "-h", "-t", "all", "-o", "%i|%T|%N"], check=True).stdout.splitlines()
        return [Job(*line.split("|")) for line in lines]

    def node_states(self) -> dict[str, str]:
        """The state of each node in Slurm's words.

        `down*` with its star is a node that does not answer.
        """
        lines = self._sandbox.run(["sinfo", "-h", "-N", "-p", "ci", "-o", "%N|%T"], check=True).stdout.splitlines()
        return dict(line.split("|") for line in lines)

    def wait_until_idle(self, timeout: float = 30) -> None:
        """Wait until every node is on and has nothing to do.

        Raises:
            TimeoutError: that took more than `timeout` seconds; the text holds the states.
        """
        states: dict[str, str] = {}

        def idle() -> bool:
            states.update(self.node_states())
            return set(states.values()) == {"idle"}

        try:
            wait_until(idle, timeout, "all nodes are idle")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {states}, {self.jobs()}") from None
