"""What Kubernetes says of pods: whether they run, why not, and whether waiting may help. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.arrival import each_once
from ndvi_scale.outside import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CRASHES: Final = 2
"""Restarts of a container from which on it is said to crash: one may be a node's doing."""

_REMEDIES: Final = {
    "ErrImagePull": "give an image that the nodes can pull, and its pull secret by pod.imagePullSecrets",
    "ImagePullBackOff": "give an image that the nodes can pull, and its pull secret by pod.imagePullSecrets",
    "InvalidImageName": "give the image as REGISTRY/NAME:TAG",
    "ErrImageNeverPull": "load the image onto the nodes, or let them pull it",
    "CreateContainerConfigError": "make the secret or key that it names, in the same namespace",
    "CreateContainerError": "",
    "RunContainerError": "",
}
"""Reasons for which a container waits that time alone does not cure, and what does."""


@dataclass(frozen=True)
class PodState:
    """Where one pod stands."""

    name: str
    ready: bool
    said: str
    """In Kubernetes' own words, such as ``pending (Unschedulable: 0/3 nodes are available)``."""
    hopeless: bool = False
    """Whether waiting does not help."""
    crashes: bool = False
    """Whether its log says why."""


def state_of(pod: Mapping[str, Any]) -> PodState:
    """Where a pod of the API stands."""
    status, name = pod.get("status") or {}, str(pod["metadata"]["name"])
    if pod["metadata"].get("deletionTimestamp"):
        return PodState(name, ready=False, said="is being deleted")
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        if (bad := _bad(name, container)) is not None:
            return bad
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return PodState(name, ready=True, said="runs")
    if status.get("phase") == "Failed":
        return PodState(name, ready=False, said=f"failed ({_why(status)})")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return PodState(name, ready=False, said=f"pending ({_why(scheduled)})")
    waiting = next((why for one in containers if (why := one.get("state", {}).get("waiting"))), None)
    phase = str(status.get("phase", "unknown")).lower()
    return PodState(name, ready=False, said=f"{phase} ({_why(waiting)})" if waiting else f"{phase}, not ready yet")


def _bad(name: str, container: Mapping[str, Any]) -> PodState | None:
    """A container that does not start, or starts again and again."""
    waiting = container.get("state", {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in _REMEDIES:
        remedy = f"; {_REMEDIES[reason]}" if _REMEDIES[reason] else ""
        return PodState(name, ready=False, said=f"does not start ({_why(waiting)}){remedy}", hopeless=True)
    restarts = int(container.get("restartCount", 0))
    if container.get("ready") or restarts < CRASHES:
        return None
    ended = next(
        (end for one in ("lastState", "state") if (end := (container.get(one) or {}).get("terminated"))), {}
    )
    exit_ = f", exit code {ended['exitCode']}" if "exitCode" in ended else ""
    cause = f", {ended['reason']}" if ended.get("reason") not in {None, "Error", "Completed"} else ""
    said = f"crashes ({restarts} restarts{exit_}{cause})"
    return PodState(name, ready=False, said=printable(said), hopeless=True, crashes=True)


def _why(told: Mapping[str, Any]) -> str:
    """Reason and message of a condition, a waiting container or a status."""
    parts = [str(told[part]) for part in ("reason", "message") if told.get(part)]
    return printable(": ".join(parts)) or "without a reason"


def refusals(deployments: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Why pods of deployments are not even made, such as a quota; each reason once."""
    told = {
        str(condition.get("message", ""))
        for deployment in deployments
        for condition in (deployment.get("status") or {}).get("conditions") or ()
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
    }
    # The name of the pod that was to be made is another one in each.
    yield from sorted({printable(message.partition(" is forbidden: ")[2] or message) for message in told})


def told(states: Iterable[PodState]) -> Iterator[str]:
    """What is to say of pods that do not run; those of one reason together."""
    return each_once("pod", ((state.name, state.said) for state in states if not state.ready))
