"""Watches over the pods of a cluster: how many workers came, and why not more."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.arrival import Waiting, note_of, note_with_reasons, wait_for_workers
from ndvi_scale.cluster.keeper import SHOWN
from ndvi_scale.cluster.kube_api import CLUSTERS, DEPLOYMENTS, PODS
from ndvi_scale.cluster.pods import refusals, state_of, told
from ndvi_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distributed import Client

    from ndvi_scale.cluster.kube_api import KubeApi
    from ndvi_scale.cluster.pods import PodState
    from ndvi_scale.cluster.spec import KubernetesSpec

OPERATOR: Final = 30.0
"""Seconds in which the operator should take a cluster up; it does in one."""

SURE: Final = 15.0
"""Seconds for which what does not get better by waiting has to last: a registry may fail once, or a secret come a
moment after the pod."""

ASK_EVERY: Final = 5.0
"""Seconds between questions to the API while workers compute."""

ASK_OFTEN: Final = 0.25
"""The same while they are waited for."""

LOG = logging.getLogger(__name__)


@dataclass
class PodWatch:
    """Called by the thread that runs the run."""

    spec: KubernetesSpec
    api: KubeApi
    name: str
    _began: float = field(default_factory=time.monotonic)
    _alive_at: float = field(default_factory=time.monotonic)
    _asked_at: float = 0.0
    _hopeless_since: float | None = None

    def scheduler(self) -> dict[str, Any]:
        """The scheduler's pod, when it is ready. Raises ClusterError with the reason where it does not get so."""
        waiting = Waiting(self._began + self.spec.wait)
        while True:
            pods = self._pods("scheduler")
            ready = next((pod for pod in pods if state_of(pod).ready), None)
            if ready is not None:
                return ready
            self._require_operator(pods)
            self._require_hope(pods, "scheduler")
            if time.monotonic() - self._began > self.spec.wait:
                raise ClusterError(
                    f"the scheduler of the kubernetes cluster did not come in {self.spec.wait:g} s: "
                    f"{self._reasons(pods, 'scheduler')}. Wait longer (wait = seconds), or ask for less"
                )
            waiting.say("no scheduler yet", partial(self._reasons, pods, "scheduler"))
            time.sleep(ASK_OFTEN)

    def wait(self, client: Client, wanted: int) -> str:
        """Wait until that many workers are there, or some and no more come; returns how many, and why not more.

        Raises ClusterError when none comes within `spec.wait`, or none can.
        """
        self._hopeless_since = None
        self._alive_at = time.monotonic()
        look = partial(self._look, every=ASK_OFTEN)
        count = wait_for_workers(client, wanted, self._began + self.spec.wait, look, self._workers_reasons)
        note = note_of(self.spec, count, wanted, self._began)
        return note if count >= wanted else note_with_reasons(note, self._workers_reasons)

    def _workers_reasons(self) -> str:
        return self._reasons(self._pods("worker"), "worker")

    def look(self, alive: Iterable[str]) -> None:
        """Where no worker is, see whether one may come. Raises ClusterError where none will."""
        self._look(alive, ASK_EVERY)

    def _look(self, alive: Iterable[str], every: float) -> None:
        now = time.monotonic()
        if any(alive):
            self._alive_at, self._hopeless_since = now, None
            return
        if now - self._asked_at < every:
            return
        self._asked_at = now
        pods = self._pods("worker")
        self._require_hope(pods, "worker")
        if now - self._alive_at > self.spec.wait:
            raise ClusterError(
                f"no worker of the kubernetes cluster came in {self.spec.wait:g} s: "
                f"{self._reasons(pods, 'worker')}. What is written is whole; wait longer (wait = seconds), or ask "
                "for less"
            )

    def _pods(self, component: str) -> list[dict[str, Any]]:
        return self.api.list(PODS, self._labels(component))

    def _labels(self, component: str) -> dict[str, str]:
        return {"dask.org/cluster-name": self.name, "dask.org/component": component}

    def _require_operator(self, pods: list[dict[str, Any]]) -> None:
        """Raises ClusterError where nobody has taken the cluster up, or it is refused."""
        if pods or time.monotonic() - self._began < min(OPERATOR, self.spec.wait):
            return
        cluster = self.api.get(CLUSTERS, self.name)
        if cluster is None:
            raise ClusterError(f"DaskCluster {self.name} was deleted by somebody else: run again")
        if "phase" not in (cluster.get("status") or {}):
            raise ClusterError(
                f"nobody took DaskCluster {self.name} up: the operator of dask-kubernetes does not run, or watches "
                f"another namespace than {self.api.namespace}; start it (docs/clusters/kubernetes.md), or give "
                "namespace = one that it watches"
            )

    def _require_hope(self, pods: list[dict[str, Any]], component: str) -> None:
        """Raises ClusterError where no pod will ever run, for what it is worth to wait for."""
        states = [state_of(pod) for pod in pods]
        refused = [] if pods else list(self._refusals(component))
        now = time.monotonic()
        if not (refused or (states and all(state.hopeless for state in states))):
            self._hopeless_since = None
            return
        self._hopeless_since = self._hopeless_since or now
        # A quota may be freed by others within `wait`: only what crashed more than once is sure at once.
        sure = 0.0 if states and all(state.crashes for state in states) else min(SURE, self.spec.wait)
        if now - self._hopeless_since >= sure:
            what = "the scheduler" if component == "scheduler" else "no worker"
            verb = "does not start" if component == "scheduler" else "starts"
            raise ClusterError(f"{what} of the kubernetes cluster {verb}: {self._reasons(pods, component)}")

    def _reasons(self, pods: list[dict[str, Any]], component: str) -> str:
        """Why there are no more of them, each reason once, with the log of one that crashed."""
        states = [state_of(pod) for pod in pods]
        said = [*told(states), *(self._refusals(component))]
        crashed = next((state for state in states if state.crashes), None)
        if crashed is not None:
            said.append(self._last_words(crashed))
        return "; ".join(one for one in said if one) or (
            f"its pods run and no worker connects: `kubectl logs --namespace {self.api.namespace} {states[0].name}`"
            if states
            else "no pod was made for it; whether a quota forbids it says `kubectl describe resourcequota "
            f"--namespace {self.api.namespace}`"
        )

    def _refusals(self, component: str) -> Iterator[str]:
        """Why pods are not made, where one may know."""
        try:
            yield from refusals(self.api.list(DEPLOYMENTS, self._labels(component)))
        except ClusterError as error:
            LOG.debug("deployments: %s", error)

    def _last_words(self, state: PodState) -> str:
        for previous in (True, False):
            try:
                lines = self.api.log(state.name, SHOWN, previous=previous)
            except ClusterError as error:
                LOG.debug("log of %s: %s", state.name, error)
                continue
            if lines:
                return f"its log ends: {' | '.join(lines)}"
        return ""
