"""A real Dask Gateway on this machine, for tests: its server, its proxy, clusters as processes.

    with gateway(Path("/tmp/gateway")) as running:
        dask_gateway.Gateway(running.address, proxy_address=running.proxy_address, auth=…)

or, until Ctrl-C: ``python tests/gateway.py /tmp/gateway``, which prints where it is. All of it lies in the folder
given, and listens on loopback.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError

import psutil

from services import _OPEN, START_SECONDS, ServiceError, _running, _wait, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_WORKERS: Final = 3
"""Of a cluster."""

_CONFIG: Final = """\
import os, sys

c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.address = "127.0.0.1:{ports[0]}"
c.Proxy.address = "127.0.0.1:{ports[1]}"
c.Proxy.tcp_address = "127.0.0.1:{ports[2]}"
c.UnsafeLocalBackend.clusters_directory = {folder!r} + "/clusters"
c.UnsafeLocalBackend.sigint_timeout = 2
c.UnsafeLocalBackend.check_timeouts_period = 1
c.UnsafeLocalBackend.cluster_status_period = 1
c.UnsafeLocalBackend.worker_status_period = 1
c.UnsafeLocalBackend.cluster_heartbeat_period = 1
c.UnsafeLocalBackend.cluster_heartbeat_timeout = 30
c.UnsafeLocalBackend.worker_start_failure_limit = 1
# distributed has no dask-scheduler and dask-worker any more, which are the defaults.
c.ClusterConfig.scheduler_cmd = [sys.executable, "-m", "dask", "scheduler"]
c.ClusterConfig.worker_cmd = [sys.executable, "-m", "dask", "worker", "--host", "127.0.0.1"]
c.ClusterConfig.cluster_max_workers = {most}
c.ClusterConfig.adaptive_period = 0.5
"""

_SIMPLE: Final = """
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = os.environ["TEST_PASSWORD"]
"""

_OPTIONS: Final = """
from dask_gateway_server.options import Float, Integer, Mapping, Options, Select, String

def configured(options):
    if options.image.endswith("forbidden"):
        raise ValueError("this image is not for you")
    found = {"worker_cores": options.worker_cores, "worker_memory": int(options.worker_memory * 2**30)}
    if options.broken == "worker":
        found["worker_cmd"] = [sys.executable, "-c", "raise SystemExit(3)"]
    if options.broken == "scheduler":
        found["scheduler_cmd"] = [sys.executable, "-c", "raise SystemExit(3)"]
    if options.broken == "slow":
        found["scheduler_cmd"] = [sys.executable, "-c", "import time; time.sleep(600)"]
    if options.broken == "none":
        found["cluster_max_workers"] = 0
    return found

c.Backend.cluster_options = Options(
    Integer("worker_cores", default=1, min=1, max=4),
    Float("worker_memory", default=1, min=0.5, max=8),
    String("image", default="ndvi-scale:latest"),
    Select("broken", options=["no", "worker", "scheduler", "slow", "none"]),
    handler=configured,
)
"""


@dataclass(frozen=True)
class RunningGateway:
    """Where it is, and what lets one in."""

    address: str
    proxy_address: str
    password: str
    folder: Path

    def processes(self) -> list[psutil.Process]:
        """Schedulers and workers that live: all of them work in folders of their clusters."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self.folder / "clusters"):
                    found.append(process)
        return found

    def kill_a_worker(self) -> int:
        """Kill what the gateway started as a worker, with what that started, as when a pod is lost; its number."""
        nanny = next(one for one in self.processes() if "dask worker" in " ".join(_command(one)))
        os.killpg(nanny.pid, signal.SIGKILL)
        return nanny.pid

    def is_empty(self, seconds: float = 20) -> bool:
        """Whether nothing of any cluster is left, or soon will be."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return not left

    def empty(self) -> None:
        """End what is left."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.is_empty()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextlib.contextmanager
def gateway(folder: Path, config: str = _SIMPLE + _OPTIONS, **variables: str) -> Iterator[RunningGateway]:
    """Run a gateway with everything in `folder`; at the end its clusters end, too."""
    ports = free_ports(3)
    (folder / "clusters").mkdir(parents=True, exist_ok=True)
    file = folder / "dask_gateway_config.py"
    file.write_text(_CONFIG.format(ports=ports, folder=str(folder), most=MAX_WORKERS) + config)
    password = secrets.token_urlsafe(16)
    address, log = f"http://127.0.0.1:{ports[1]}", folder / "gateway.log"
    running = RunningGateway(address, f"127.0.0.1:{ports[2]}", password, folder)
    command = [sys.executable, "-m", "dask_gateway_server", "--config", str(file)]
    environment = {"TEST_PASSWORD": password, "COLORLOG": "0", **variables}
    with _running(command, log, folder, environment) as process:
        _wait(f"{address}/api/health", process, log)
        _wait_for_routes(f"{address}/api/health")
        try:
            yield running
        finally:
            running.empty()


def _wait_for_routes(url: str) -> None:
    """The proxy answers 404 until the server has told it where things are."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(HTTPError), _OPEN(url, timeout=2):
            return
        time.sleep(0.1)
    raise ServiceError(f"{url} has no route within {START_SECONDS:g} s")


if __name__ == "__main__":
    with gateway(Path(sys.argv[1]).absolute()) as started:
        sys.stdout.write(f"{started}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
