"""A real Kubernetes API for tests, with the operator of dask-kubernetes: the one that `KUBECONFIG` names, or one
that ../shared/kubernetes beside the checkout starts on this machine.

    with kubernetes() as running:
        running.call("get", "pods")

or, until Ctrl-C: ``python tests/kube.py``, which prints the line to export.

Its ports are fixed, so a machine has one: whoever has the same environment shares it, others wait until it is
free. Pods are local processes there, which see this machine's files and have the environment's programs; a test
takes names of its own, and counts nothing that others may have made.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

SHARED: Final = Path(__file__).parents[2] / "shared" / "kubernetes"
PROGRAMS: Final = {
    "etcd": "etcd-server",
    "ip": "iproute2",
    "openssl": "openssl",
    "curl": "curl",
    "xz": "xz-utils",
    "kubectl": "kubernetes-client",
}
"""Program → Debian package."""
ABSENT: Final = "no Kubernetes: set KUBECONFIG, or put ../shared/kubernetes beside the checkout"
"""The one reason for which tests of it may be skipped where everything is required: there is nothing to start."""

START_SECONDS: Final = 120.0
STARTS: Final = 4
"""How often to begin."""
PATIENT: Final = """#!/bin/sh
for again in $(seq 60); do
  {kubectl} "$@" && exit 0
  case " $* " in *" wait "*) sleep 0.5 ;; *) exit 1 ;; esac
done
exit 1
"""
"""kubectl that asks again: it gives up at once on a resource definition whose first condition is yet to be written
(".status.conditions accessor error": one start in fifteen, on a busy machine each), and with it the whole start."""
CONTROL_SECONDS: Final = 20.0
TURN_SECONDS: Final = 600.0
"""How long to wait for the one of another environment to be free."""


@dataclass(frozen=True)
class Kube:
    """Whom its API knows."""

    user: Path
    """Kubeconfig of an ordinary user, with the least rights that suffice, in the namespace ``default`` alone."""
    admin: Path
    """Kubeconfig of one who may do everything."""
    work: Path | None = None
    """Folder of what runs on this machine, with a log and a ``.pid`` of each program; None of one elsewhere."""

    @property
    def image(self) -> str:
        """What pods run; on this machine's own it is ignored."""
        return os.environ.get("NDVI_SCALE_TEST_IMAGE", "ndvi-scale")

    def call(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """What kubectl prints, as the administrator; `given` is its standard input."""
        command = ["kubectl", f"--kubeconfig={self.admin}", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, input=given)
        if check and done.returncode:
            raise ServiceError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def items(self, what: str, selector: str = "", namespace: str = "default") -> list[dict[str, Any]]:
        """Objects of a kind, as the API has them."""
        chosen = [f"--selector={selector}"] if selector else []
        return json.loads(self.call("get", what, f"--namespace={namespace}", "--output=json", *chosen))["items"]

    def names(self, what: str, selector: str = "", namespace: str = "default") -> list[str]:
        """Their names."""
        return [one["metadata"]["name"] for one in self.items(what, selector, namespace)]

    def pid(self, program: str) -> int:
        """Process of one of the programs that run here: etcd, apiserver, kcm, kubelet, operator."""
        if self.work is None:
            raise ServiceError(f"{program} does not run on this machine")
        return int((self.work / f"{program}.pid").read_text())


def missing() -> str | None:
    """Why none can be had, or None."""
    if os.environ.get("KUBECONFIG"):
        return None
    if not (SHARED / "up").exists():
        return ABSENT
    if os.geteuid() != 0:
        return "Kubernetes of ../shared/kubernetes makes network namespaces: it needs root"
    packages = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    return f"no Kubernetes: apt-get install {' '.join(packages)}" if packages else None


@contextlib.contextmanager
def kubernetes() -> Iterator[Kube]:
    """The API that there is, or one of this machine, which ends with its last user."""
    if reason := missing():
        raise ServiceError(reason)
    if given := os.environ.get("KUBECONFIG"):
        yield Kube(Path(given), Path(os.environ.get("NDVI_SCALE_KUBECONFIG_ADMIN", given)))
        return
    work = Path(tempfile.gettempdir()) / f"ndvi-scale-kubernetes-{os.geteuid()}"
    work.mkdir(mode=0o700, exist_ok=True)
    with (work / "door").open("w") as door, (work / "users").open("w") as users:
        _enter(work, door, users)
        try:
            yield Kube(work / "kubeconfig", work / "kubeconfig-admin", work)
        finally:
            _leave(work, door, users)


def _enter(work: Path, door: IO[str], users: IO[str]) -> None:
    """Start it as its first user, or join those who have the same environment.

    A user holds a shared lock; who gets it exclusively is alone. What was killed holds none.
    """
    ours = work / "environment"
    deadline = time.monotonic() + TURN_SECONDS
    while time.monotonic() < deadline:
        with _locked(door):
            if _try_alone(users):
                _start(work)
                ours.write_text(sys.prefix)
            if ours.exists() and ours.read_text() == sys.prefix:
                fcntl.flock(users, fcntl.LOCK_SH)
                return
        time.sleep(1)
    raise ServiceError(f"the Kubernetes of this machine has been in use by {ours.read_text()} all the time")


def _leave(work: Path, door: IO[str], users: IO[str]) -> None:
    with _locked(door):
        if _try_alone(users):
            _stop(work)
        fcntl.flock(users, fcntl.LOCK_UN)


@contextlib.contextmanager
def _locked(file: IO[str]) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _try_alone(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(work: Path) -> None:
    for _ in range(STARTS):
        _stop(work)  # what was killed, or only half begun
        if _started(work) and _controls(work):
            return
    _stop(work)
    told = "\n".join(f"{name}.log: {_end(work / f'{name}.log')}" for name in ("up", "kubectl", "kcm", "operator"))
    raise ServiceError(f"Kubernetes did not start in {STARTS} attempts\n{told}")


def _started(work: Path) -> bool:
    patient = work / "patient" / "kubectl"
    patient.parent.mkdir(exist_ok=True)
    patient.write_text(PATIENT.format(kubectl=shlex.quote(shutil.which("kubectl") or "kubectl")))
    patient.chmod(0o700)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # `python` beside this interpreter: what the pods find is this environment.
    with (work / "up.log").open("wb") as output:
        done = subprocess.run(
            [SHARED / "up", work, Path(sys.prefix) / "bin"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=START_SECONDS,
            env=environment | {"PATH": f"{patient.parent}{os.pathsep}{environment['PATH']}"},
        )
    return done.returncode == 0


def _controls(work: Path) -> bool:
    """Whether its controllers are at work: that of the service accounts makes the first one.

    On a busy machine they end within ten seconds of their start where the API is not healthy yet, unnoticed.
    """
    wanted = ["get", "serviceaccount", "default", "--namespace=default"]
    command = ["kubectl", f"--kubeconfig={work / 'kubeconfig-admin'}", *wanted]
    deadline = time.monotonic() + CONTROL_SECONDS
    while time.monotonic() < deadline:
        if subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0:
            return True
        time.sleep(0.5)
    return False


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-1000:] if log.exists() else "there is none"


def _stop(work: Path) -> None:
    if any(work.glob("*.pid")):
        subprocess.run([SHARED / "down", work], check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    with kubernetes() as started:
        sys.stdout.write(f"export KUBECONFIG={started.user}  # administrator: {started.admin}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
