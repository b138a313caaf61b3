"""Clusters that a Dask Gateway makes, as in a DaskHub: asked for, used, and stopped when the run ends."""

from __future__ import annotations

import json
import logging
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.address import CONNECT, UNREACHED
from ndvi_scale.cluster.arrival import Waiting, note_of, wait_for_workers
from ndvi_scale.cluster.gateway_server import OVER, WORKERS, open_server
from ndvi_scale.cluster.signals import ended_by_signals
from ndvi_scale.cluster.submit import GONE, DaskSubmit
from ndvi_scale.cluster.versions import require_same
from ndvi_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distributed import Client

    from ndvi_scale.batch import Submit
    from ndvi_scale.cluster.gateway_server import GatewayServer
    from ndvi_scale.cluster.spec import GatewaySpec

ASK_EVERY: Final = 5.0
"""Seconds between questions how a cluster fares."""

LOG = logging.getLogger(__name__)


@contextmanager
def open_gateway(spec: GatewaySpec) -> Iterator[Submit]:
    """A `Submit` on a new cluster of the gateway, which is stopped when the block is left, however it is.

    Waits until workers are there, as long as `spec.wait`; those that come later join. Raises ConfigError for what
    the gateway does not offer or may not be sent, ClusterError where it refuses, or no worker comes.
    """
    from ndvi_scale.cluster.plugin import prepare

    with ended_by_signals(), open_server(spec) as server:
        asked = server.offered(dict(spec.options))
        try:
            name = server.submit(asked)
            watch = _Watch(spec, server, name)
            with _connected(server, watch.wait_for_scheduler()) as client:
                note = watch.wait_for_workers(client)
                LOG.info(note)
                require_same(client)
                prepare(client, spec)
                yield DaskSubmit(client, watch.expected, watch, note)
        except ClusterError as error:
            if GONE in str(error) and (fate := server.fate()):
                raise ClusterError(f"{fate}: {error}") from None
            raise
        finally:
            server.stop()


def render(spec: GatewaySpec) -> str:
    """What the gateway would be asked for, as JSON; it is asked for what it offers. Raises as `open_gateway`."""
    with open_server(spec) as server:
        options = dict(server.offered(dict(spec.options)))
        bounds = spec.bounds()
        asked = {"adapt": list(bounds)} if bounds else {"workers": spec.workers or WORKERS}
        return json.dumps({"gateway": server.address, **asked, "options": options}, indent=1) + "\n"


@contextmanager
def _connected(server: GatewayServer, report: Any) -> Iterator[Client]:
    """A client of a cluster's scheduler, through the gateway's proxy. Raises ClusterError."""
    from distributed import Client

    try:
        client = Client(report.scheduler_address, security=report.security, timeout=CONNECT, set_as_default=False)
    except UNREACHED as error:
        place = server.gateway.proxy_address
        raise ClusterError(
            f"cluster {report.name} runs, but its scheduler is not reached through {place} "
            f"({type(error).__name__}): give proxy_address = host:port of the gateway's TCP proxy"
        ) from None
    with client:
        yield client


@dataclass
class _Watch:
    """Waits for a cluster and its workers; later, told which workers live, ends what has none."""

    spec: GatewaySpec
    server: GatewayServer
    name: str
    objection: str = ""
    """Of the gateway, to the number of workers."""
    _alive_at: float = field(default_factory=time.monotonic)
    _asked_at: float = field(default_factory=time.monotonic)
    _came: bool = False

    @property
    def expected(self) -> int:
        """Regions to hold ready where workers come as there is work: two for each."""
        bounds = self.spec.bounds()
        return 2 * bounds[1] if bounds is not None and bounds[1] > bounds[0] else 0

    def wait_for_scheduler(self) -> Any:
        """The report of the cluster when its scheduler runs. Raises ClusterError."""
        until = time.monotonic() + self.spec.wait
        waiting = Waiting(until)
        while (report := self._report()).status.name != "RUNNING":
            if time.monotonic() > until:
                raise ClusterError(
                    f"the scheduler of cluster {self.name} has not started in {self.spec.wait:g} s "
                    f"({report.status.name.lower()}): the gateway may wait for room on its nodes; wait longer "
                    "(wait = seconds), or ask its administrator"
                )
            waiting.say("no scheduler yet", lambda: "the gateway may wait for room on its nodes")
            time.sleep(0.3)
        return report

    def wait_for_workers(self, client: Client) -> str:
        """Wait until the workers asked for are there, or some and no more come; how many, and why not more.

        Raises ClusterError when none comes within `spec.wait`, or none can.
        """
        self.objection = self.server.scale(self.spec)
        wanted, least = self._wanted()
        began = self._alive_at = time.monotonic()
        count = wait_for_workers(client, least, began + self.spec.wait, self, self._reason)
        note = note_of(self.spec, count, wanted, began)
        return note if count >= wanted else f"{note}; {self._reason()}"

    def _wanted(self) -> tuple[int, int]:
        """Workers to ask for, and those that the gateway lets us have. Raises ClusterError where it lets none."""
        bounds = self.spec.bounds()
        wanted = bounds[0] if bounds is not None else self.spec.workers or WORKERS
        limit = re.search(r"limit of (\d+)", self.objection)
        if limit is not None and not int(limit[1]):
            raise ClusterError(f"the gateway lets no worker be: {self.objection}")
        return wanted, wanted if limit is None else min(wanted, int(limit[1]))

    def _reason(self) -> str:
        if self.objection:
            return f"the gateway says: {self.objection}"
        return (
            "the others join when they come: a gateway does not say what they wait for; on Kubernetes, for room on "
            "nodes or within a quota (`kubectl describe pod`)"
        )

    def __call__(self, alive: Iterable[str]) -> None:
        """Raises ClusterError when the gateway has given the cluster up, or no worker lives for too long."""
        now = time.monotonic()
        if any(alive):
            self._alive_at, self._came = now, True
            return
        if now - self._asked_at > ASK_EVERY:
            self._asked_at = now
            self._report()
        if now - self._alive_at > self.spec.wait:
            raise ClusterError(
                f"no worker of cluster {self.name} came in {self.spec.wait:g} s: {self._reason()}. What is written "
                "is whole; wait longer (wait = seconds), or ask for less"
            )

    def _report(self) -> Any:
        """Raises ClusterError for a cluster that is over."""
        report = self.server.report()
        if report.status.name not in OVER:
            return report
        if self._came:
            raise ClusterError(f"{self.server.fate()}: {GONE}")
        raise ClusterError(
            f"cluster {self.name} has ended before a worker came ({report.status.name.lower()}): its scheduler or "
            "its workers cannot start; is the image the right one, with dask-gateway and the versions of here? "
            "The gateway's administrator sees its log"
        )
