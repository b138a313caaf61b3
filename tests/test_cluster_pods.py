"""What is said of pods: of states as Kubernetes reports them."""

from __future__ import annotations

from typing import Any

import pytest

from ndvi_scale.cluster.pods import refusals, state_of, told

PULL = "give an image that the nodes can pull, and its pull secret by pod.imagePullSecrets"
NO_KEY = "make the secret or key that it names, in the same namespace"


def pod(name: str = "p", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"phase": "Pending", **status}}


def waiting(reason: str, message: str = "", **more: Any) -> list[dict[str, Any]]:
    return [
        {"name": "worker", "ready": False, "state": {"waiting": {"reason": reason, "message": message}}, **more}
    ]


@pytest.mark.parametrize(
    ("given", "said", "hopeless"),
    [
        (pod(), "pending, not ready yet", False),
        (
            pod(
                conditions=[
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient memory.",
                    }
                ]
            ),
            "pending (Unschedulable: 0/3 nodes are available: 3 Insufficient memory.)",
            False,
        ),
        (pod(containerStatuses=waiting("ContainerCreating")), "pending (ContainerCreating)", False),
        (
            pod(containerStatuses=waiting("ImagePullBackOff", 'Back-off pulling image "no/such:1"')),
            f'does not start (ImagePullBackOff: Back-off pulling image "no/such:1"); {PULL}',
            True,
        ),
        (
            pod(initContainerStatuses=waiting("CreateContainerConfigError", 'secret "keys" not found')),
            f'does not start (CreateContainerConfigError: secret "keys" not found); {NO_KEY}',
            True,
        ),
        (
            pod(
                phase="Running",
                containerStatuses=waiting(
                    "CrashLoopBackOff",
                    restartCount=3,
                    lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                ),
            ),
            "crashes (3 restarts, exit code 137, OOMKilled)",
            True,
        ),
        (pod(phase="Running", containerStatuses=waiting("CrashLoopBackOff", restartCount=1)), None, False),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), "failed (Evicted: low on memory)", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_a_pod_stands(given: dict[str, Any], said: str | None, hopeless: bool) -> None:  # noqa: FBT001
    state = state_of(given)
    assert not state.ready
    assert said is None or state.said == said
    assert state.hopeless is hopeless


def test_a_pod_that_runs_and_one_that_is_going() -> None:
    ready = pod(phase="Running", conditions=[{"type": "Ready", "status": "True"}])
    assert state_of(ready).ready
    ready["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert state_of(ready).said == "is being deleted"


def test_messages_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in state_of(pod(containerStatuses=waiting("InvalidImageName", "\x1b[2J"))).said


def test_pods_of_one_reason_are_told_together() -> None:
    states = [state_of(pod(name)) for name in ("a", "b", "c")]
    assert list(told(states)) == ["pod a and 2 more: pending, not ready yet"]


def test_quotas_are_told_once() -> None:
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": 'pods "w-1" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1',
    }
    other = {**condition, "message": condition["message"].replace("w-1", "w-2")}
    available = {"type": "Available", "status": "True", "message": "all is well"}
    deployments = [{"status": {"conditions": [one, available]}} for one in (condition, other)]
    assert list(refusals([*deployments, {"metadata": {}}])) == [
        "exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1"
    ]
