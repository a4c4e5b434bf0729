"""A SLURM cluster of one node on this machine, with two GPUs that are none: munge, slurmctld and slurmd on loopback.

It needs Debian's packages `slurm-wlm` and `munge`, and root, since GPUs have to be device files and `srun` within jobs
looks for its configuration in /etc/slurm. A machine that is part of a cluster already is left alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol")
SETTINGS = Path("/etc/slurm/slurm.conf")
MUNGE_KEY, MUNGE_SOCKET = Path("/etc/munge/munge.key"), Path("/run/munge/munge.socket.2")
GPUS = 2
# Seconds that a daemon may take to answer.
PATIENCE_S = 60.0

TEXT = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.pid
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
ReturnToService=2
MinJobAge=300
KillWait=20
InactiveLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={processors} RealMemory={memory} Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
"""


def why_not() -> str:
    """Why no cluster can be brought up here; empty if one can."""
    missing = [name for name in COMMANDS if _path(name) is None]
    if missing:
        return f"no {', '.join(missing)} (apt-get install slurm-wlm munge)"
    if os.getuid() != 0:
        return "a loopback cluster needs root: device files, /etc/slurm"
    if SETTINGS.exists() or SETTINGS.is_symlink():
        return f"{SETTINGS} is there: this machine is part of a cluster"
    return ""


def _path(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


@dataclass(frozen=True)
class Cluster:
    """The cluster.

    Attributes:
        base: its folder.
        host: name of its one node.
    """

    base: Path
    host: str

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints."""
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def jobs(self, rule: str = "", state: str = "") -> list[str]:
        """Numbers of the jobs that have not ended, of a rule, in a state."""
        lines = [line.split("|") for line in self.ask("squeue", "--noheader", "--format=%i|%T|%k").splitlines()]
        return [one for one, found, about in lines if state in ("", found) and about.startswith(f"rule_{rule}")]

    def clear(self) -> None:
        """End all jobs."""
        self.ask("scancel", "--user=root")
        until(lambda: not self.jobs(), "all jobs have ended")

    def set_node(self, state: str) -> None:
        """Drain the node, or have it back (``resume``)."""
        self.ask("scontrol", "update", f"NodeName={self.host}", f"State={state}", "Reason=test")


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until something is so."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {patience_s:.0f} s"
        time.sleep(0.2)


@contextmanager
def loopback(base: Path) -> Iterator[Cluster]:
    """A cluster that is up during the block. Its daemons are ended by their process ids."""
    made = Cluster(base, socket.gethostname().split(".")[0])
    started: list[subprocess.Popen[bytes]] = []
    own_munge = not MUNGE_SOCKET.is_socket() or subprocess.run(["munge", "-n"], capture_output=True).returncode != 0
    try:
        _configure(made)
        if own_munge:
            started.append(_start_munge(base))
            until(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0, "munge answers")
        for name, extra in (("slurmctld", ["-D"]), ("slurmd", ["-D", "-N", made.host])):
            with open(base / f"{name}.out", "wb") as out:
                command = [str(_path(name)), *extra, "-f", str(base / "slurm.conf")]
                started.append(subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True))
        until(lambda: "idle" in _states(), "the node is idle")
        yield made
    finally:
        if len(started) > int(own_munge) + 1:
            made.clear()
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        SETTINGS.unlink(missing_ok=True)


def _states() -> str:
    return subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True).stdout


def _configure(made: Cluster) -> None:
    for name in ("state", "spool"):
        (made.base / name).mkdir(parents=True)
    devices = [made.base / f"gpu{number}" for number in range(GPUS)]
    for device in devices:
        # SLURM refuses plain files: the device is that of /dev/null.
        subprocess.run(["mknod", str(device), "c", "1", "3"], check=True)
    lines = "".join(f"NodeName={made.host} Name=gpu Type=fake File={device}\n" for device in devices)
    (made.base / "gres.conf").write_text(lines)
    memory = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) // 1024
    text = TEXT.format(
        base=made.base,
        host=made.host,
        controller=_free_port(),
        node=_free_port(),
        processors=os.cpu_count(),
        memory=memory * 9 // 10,
        gpus=GPUS,
    )
    (made.base / "slurm.conf").write_text(text)
    SETTINGS.parent.mkdir(exist_ok=True)
    SETTINGS.symlink_to(made.base / "slurm.conf")


def _start_munge(base: Path) -> subprocess.Popen[bytes]:
    for folder in (MUNGE_SOCKET.parent, Path("/var/log/munge"), Path("/var/lib/munge")):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "munge", "munge")
        folder.chmod(0o755)
    if not MUNGE_KEY.exists() or not MUNGE_KEY.stat().st_size:
        MUNGE_KEY.write_bytes(os.urandom(1024))
        shutil.chown(MUNGE_KEY, "munge", "munge")
        MUNGE_KEY.chmod(0o400)
    command = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", str(_path("munged")), "--foreground"]
    with open(base / "munged.out", "wb") as out:
        return subprocess.Popen([*command, "--force"], stdout=out, stderr=out, start_new_session=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
