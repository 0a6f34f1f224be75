"""A private SLURM cluster: real daemons, several nodes on the loopback of one machine, nothing outside its folder."""

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from getpass import getuser
from pathlib import Path

import psutil

from tests.gates import PATIENCE

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=6
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
ReturnToService=2
KillWait=20
MinJobAge=300
SlurmdTimeout=10
"""
"""``cred_expire`` lets a requeued job start after seconds, not minutes."""


def missing() -> str | None:
    """Which programs a cluster lacks here; None where it can run."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    return f"SLURM is not installed ({', '.join(absent)})" if absent else None


class SlurmCluster:
    """Nodes ``n1``, ``n2`` … with partitions ``low``, preempted with 30 s of grace, and ``high``.

    Args:
        folder: Where its files go; short, as the path of a socket is.
        nodes: Number of nodes.
        cpus: Cores that each one lends, whatever this machine has.
    """

    def __init__(self, folder: Path, nodes: int, cpus: int) -> None:
        self.folder = folder
        self.names = [f"n{number + 1}" for number in range(nodes)]
        self._cpus = cpus
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        # Virtual nodes' names do not resolve: the ranks meet on the loopback.
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def __enter__(self) -> "SlurmCluster":
        (self.folder / "state").mkdir(parents=True)
        os.umask(0o022)
        self._configure()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{end}" for option, end in files.items()]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *options)
        self.wait(lambda: (self.folder / "munge.socket").exists(), PATIENCE, "munged")
        self._start("slurmctld", "-D", "-c")
        for name in self.names:
            self.start_node(name)
        self.wait(
            lambda: self.command("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 2 * len(self.names), PATIENCE
        )
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.command("scancel", f"--user={getuser()}")
            self.wait(lambda: not self.command("squeue", "-h"), 30)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def start_node(self, name: str) -> None:
        """Start a node, or start it again."""
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        self._start(name, "-D", "-N", name, program="slurmd")

    def kill_node(self, name: str) -> None:
        """Let a node fail: its daemon and everything that runs there die without a word."""
        daemon = psutil.Process(self._daemons[name].pid)
        victims = [daemon, *daemon.children(recursive=True)]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                variables = process.environ()
                place = variables.get("SLURM_CONF"), variables.get("SLURMD_NODENAME")
                if place == (self.environment["SLURM_CONF"], name):  # another cluster's node may have the same name
                    victims.append(process)
                if process.name() == "slurmstepd" and process.cwd() == str(self.folder / f"spool-{name}"):
                    victims.append(process)
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._daemons[name].wait()

    def command(self, *words: str) -> str:
        """Run one of SLURM's commands; what it printed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """The state of a job: ``PENDING``, ``RUNNING``, ``COMPLETED`` …"""
        return self.command("squeue", "-h", "--states=all", "-j", job, "-o", "%T")

    def field(self, job: str, name: str) -> str:
        """A field of ``scontrol show job``, such as ``ExitCode`` or ``Restarts``."""
        fields = dict(
            item.split("=", 1) for item in self.command("scontrol", "show", "job", job).split() if "=" in item
        )
        return fields[name]

    def wait(self, condition: Callable[[], object], seconds: float, what: str = "") -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: It is not.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(
                    path.read_text(encoding="utf-8")[-1500:] for path in sorted(self.folder.glob("slurm*.log"))
                )
                raise TimeoutError(f"{what} after {seconds} s\n{logs}")
            time.sleep(0.2)

    def _configure(self) -> None:
        host = platform.node().partition(".")[0]
        with _free_ports(len(self.names) + 1) as ports:
            text = CONFIGURATION.format(host=host, port=ports[0], user=getuser(), folder=self.folder)
        for name, port in zip(self.names, ports[1:], strict=True):
            text += (
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self._cpus} "
                "RealMemory=4000 State=UNKNOWN\n"
            )
        text += "PartitionName=low Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=30\n"
        text += "PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF\n"
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")

    def _start(self, name: str, *arguments: str, program: str | None = None) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [program or name, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


@contextlib.contextmanager
def _free_ports(number: int) -> Iterator[list[int]]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        yield [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()
