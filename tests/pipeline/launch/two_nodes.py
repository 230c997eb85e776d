"""A real Slurm of two nodes on this machine: Debian's daemons, as this user, on free ports, in a folder of its own."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.system.processes import start

DAEMONS = ("munged", "slurmctld", "slurmd")
# pgid, for cgroups are root's: as with them, TERM reaches what Slurm has started and not its children.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
KillWait=30
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""


class TwoNodes:
    """A Slurm while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool/node1", "spool/node2"):
            (folder / name).mkdir(parents=True)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        conf = CONF.format(
            folder=folder, ports=_free_ports(3), user=getpass.getuser(), host=socket.gethostname().split(".")[0]
        )
        (folder / "slurm.conf").write_text(conf)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")  # read though unused

    def start(self) -> None:
        socket_, key, pid = (self.folder / f"munge.{name}" for name in ("socket", "key", "pid"))
        seed, log = self.folder / "munge.seed", self.folder / "munge.log"
        files = {"socket": socket_, "key-file": key, "pid-file": pid, "seed-file": seed, "log-file": log}
        self._start("munged", "--foreground", "--force", *(f"--{name}={file}" for name, file in files.items()))
        _until(lambda: socket_.exists(), 10, "munged")
        self._start("slurmctld", "-D", "-c", "-f", str(self.folder / "slurm.conf"))
        for node in (1, 2):
            self.start_node(node)
        _until(
            lambda: self.ask("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split() == ["node1", "node2"], 30, "idle"
        )

    def start_node(self, node: int) -> None:
        self._start(f"slurmd{node}", "-D", "-N", f"node{node}", "-f", str(self.folder / "slurm.conf"))

    def kill_node(self, node: int) -> None:
        """The node's daemon, and what it has started, are gone at once."""
        self._daemons[f"slurmd{node}"].kill()
        self._daemons[f"slurmd{node}"].wait()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURMD_NODENAME") == f"node{node}":
                    process.kill()

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False).stdout

    def jobs(self) -> list[str]:
        """The ids of jobs that wait or run."""
        return self.ask("squeue", "-h", "-o", "%A").split()

    def processes(self) -> list[psutil.Process]:
        """What jobs of this Slurm have running."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                env = process.environ()
                if "SLURM_JOB_ID" in env and env.get("SLURM_CONF") == self.env["SLURM_CONF"]:
                    found.append(process)
        return found

    def stop(self) -> None:
        self.ask("scancel", "--full", "--user", getpass.getuser())
        with contextlib.suppress(AssertionError):
            _until(lambda: not self.jobs(), 15, "scancel")
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()
        for process in [*self.processes(), *self._keepers()]:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _keepers(self) -> list[psutil.Process]:
        """Slurm's processes beside jobs: children of nobody, without an environment, in the daemons' folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "slurmstepd" and process.cwd() == str(self.folder):
                    found.append(process)
        return found

    def _start(self, name: str, *arguments: str) -> None:
        program = shutil.which(name.rstrip("12"), path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        assert program is not None
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = start(
                [program, *arguments],
                env=self.env,
                cwd=self.folder,
                stdout=out,
                stderr=out,
            )


def missing() -> list[str]:
    """The daemons that are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
    return [name for name in DAEMONS if shutil.which(name, path=path) is None]


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[TwoNodes]:
    """A Slurm for the time of the block; nothing of it, nor of its jobs, is left then."""
    slurm = TwoNodes(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def _until(found, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"{what}: not after {seconds:g} s"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
