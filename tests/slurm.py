"""A real Slurm on this machine, for tests: controller and one node that claims several processors.

    with slurm(Path("/tmp/slurm")) as running:
        subprocess.run(["squeue"], env={**os.environ, **running.environment})

or, until Ctrl-C: ``python tests/slurm.py /tmp/slurm``, which prints the line to export. All of it lies in the
folder given, and listens on loopback; it needs neither systemd, nor cgroups, nor another user than this one.
Debian: ``apt-get install slurmctld slurmd slurm-client munge``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services import START_SECONDS, ServiceError, _running, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CPUS: Final = 8
MEMORY: Final = 16_000  # megabytes; claimed, not there
PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
_SBIN = "/usr/sbin:/sbin"

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={socket}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
PropagateResourceLimits=NONE
KillWait=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """Where its configuration is."""

    conf: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its programs find it by."""
        return {"SLURM_CONF": str(self.conf)}

    def call(self, *command: str) -> str:
        """What a program of it prints."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, timeout=30
        ).stdout

    def jobs(self) -> list[str]:
        """Identifiers of the jobs that wait, run or are ending."""
        return self.call("squeue", "--noheader", "--format=%i").split()

    def empty(self) -> None:
        """Cancel what is left, and wait until it is gone: jobs are no children of the node's daemon."""
        deadline = time.monotonic() + 30
        while (jobs := self.jobs()) and time.monotonic() < deadline:
            self.call("scancel", "--quiet", *jobs)
            time.sleep(0.2)


def missing_programs() -> list[str]:
    """What is not installed."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    folders = f"{os.environ.get('PATH', '')}:{_SBIN}".split(":")
    return next((str(path) for folder in folders if (path := Path(folder) / name).is_file()), None)


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Run munge, a controller and a node with everything in `folder`; at the end jobs that are left end, too."""
    if missing := missing_programs():
        raise ServiceError(f"not installed: {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    # Socket paths end at 107 bytes, so this one cannot lie below pytest's folders.
    with tempfile.TemporaryDirectory(prefix="munge") as short, contextlib.ExitStack() as stack:
        running = Slurm(_configure(folder, Path(short)))
        for command in _commands(folder, Path(short), running.conf):
            log = folder / f"{Path(command[0]).name}.out"
            process = stack.enter_context(_running(command, log, folder, running.environment))
            if "munged" in command[0]:
                _until((Path(short) / "munge").exists, process, log)
        _until(lambda: _is_idle(running), process, log)
        try:
            yield running
        finally:
            running.empty()


def _configure(folder: Path, short: Path) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(
            host=socket.gethostname().split(".")[0],
            user=pwd.getpwuid(os.getuid()).pw_name,
            ports=free_ports(2),
            socket=short / "munge",
            folder=folder,
            cpus=CPUS,
            memory=MEMORY,
        )
    )
    return conf


def _commands(folder: Path, short: Path, conf: Path) -> Iterator[list[str]]:
    munge = {"key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
    flags = [f"--{flag}={folder / name}" for flag, name in munge.items()]
    # Forced: it refuses folders whose parents others may write to, such as /tmp.
    yield [str(_program("munged")), "--foreground", "--force", f"--socket={short / 'munge'}", *flags]
    yield [str(_program("slurmctld")), "-D", "-f", str(conf)]
    yield [str(_program("slurmd")), "-D", "-f", str(conf)]


def _until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if true():
            return
        time.sleep(0.1)
    raise ServiceError(
        f"{log.stem} did not start (exit {process.poll()})\n{log.read_text(errors='replace')[-2000:]}"
    )


def _is_idle(running: Slurm) -> bool:
    try:
        return running.call("sinfo", "--noheader", "--format=%T").strip() == "idle"
    except subprocess.CalledProcessError:
        return False  # the controller does not listen yet


if __name__ == "__main__":
    with slurm(Path(sys.argv[1])) as started:
        sys.stdout.write(f"export SLURM_CONF={started.conf}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
