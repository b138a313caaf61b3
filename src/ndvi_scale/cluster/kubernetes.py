"""Workers that are pods, through the operator of dask-kubernetes; the scheduler is a pod, too.

The operator makes the pods; waiting for them is done here. dask-kubernetes' own `KubeCluster` waits for a scheduler
without an end or a reason, may take a cluster that is up for one that is not (its issue 968), and forwards ports on
after it is closed.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.address import CONNECT, UNREACHED, connect
from ndvi_scale.cluster.kube_api import AUTOSCALERS, CLUSTERS, GROUPS, RefusedError, open_api
from ndvi_scale.cluster.manifest import autoscaler, manifest
from ndvi_scale.cluster.pod_watch import PodWatch
from ndvi_scale.cluster.signals import ended_by_signals
from ndvi_scale.cluster.submit import DaskSubmit
from ndvi_scale.cluster.versions import require_same
from ndvi_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from distributed import Client

    from ndvi_scale.batch import Submit
    from ndvi_scale.cluster.kube_api import KubeApi
    from ndvi_scale.cluster.spec import KubernetesSpec

PORT: Final = 8786
"""Of the scheduler, in its pod."""

OPERATOR_GOES: Final = 10.0
"""Seconds that the operator has to let a deleted cluster go; then it is taken to be gone itself."""

YOUNG: Final = 5.0
"""Seconds after a cluster is made in which the operator may still be making what belongs to it."""

LEFT: Final = 30.0
"""Seconds in which a deleted cluster should be gone."""

IN_POD: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has what proves who it is."""

LOG = logging.getLogger(__name__)


@contextmanager
def open_kubernetes(spec: KubernetesSpec) -> Iterator[Submit]:
    """A `Submit` on pods that are made for it; all of them are gone when the block is left, however it is.

    Waits until workers are there, as long as `spec.wait`; those that come later join. Raises ConfigError for what
    cannot be asked for, ClusterError with the reason where nothing comes of it.
    """
    from ndvi_scale.cluster.plugin import prepare

    made = manifest(spec, f"ndvi-scale-{secrets.token_hex(4)}")
    least, most = spec.bounds() or 2 * (spec.workers or 1,)
    with ended_by_signals(), open_api(spec) as api, _cluster(api, spec, made) as cluster:
        watch = PodWatch(spec, api, cluster["metadata"]["name"])
        with _reached(api, spec, watch.scheduler()) as address, _client(address, spec) as client:
            note = watch.wait(client, least)
            LOG.info(note)
            require_same(client)
            prepare(client, spec)
            expected = most * (1 + spec.threads) if most > least else 0
            yield DaskSubmit(client, expected, watch.look, note)


@contextmanager
def _cluster(api: KubeApi, spec: KubernetesSpec, made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A DaskCluster, with its autoscaler if it has one, which is deleted in any case."""
    name, began = made["metadata"]["name"], time.monotonic()
    try:
        cluster = _created(api, made)
        if (grows := autoscaler(spec, cluster)) is not None:
            api.create(AUTOSCALERS, grows)
        yield cluster
    finally:
        _remove(api, name, began + YOUNG)


def _created(api: KubeApi, made: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return api.create(CLUSTERS, made)
    except RefusedError as refused:
        if refused.status == HTTPStatus.NOT_FOUND and "namespaces" not in refused.said:
            raise ClusterError(
                f"the Kubernetes at {api.server} knows no DaskCluster: the operator of dask-kubernetes is not "
                "installed there; install it (docs/clusters/kubernetes.md), or ask who runs the cluster to"
            ) from None
        raise


def _remove(api: KubeApi, name: str, grown: float) -> None:
    """Delete a cluster and wait until it is gone; its pods follow. Says so where that is not possible."""
    try:
        if not api.delete(CLUSTERS, name):
            return
        gone = _until_gone(api, name)
        _remove_group(api, name, grown)
    except RefusedError as refused:
        gone = refused.status == HTTPStatus.FORBIDDEN  # it could not be made either
    except ClusterError as error:
        LOG.debug("DaskCluster %s: %s", name, error)
        gone = False
    if not gone:
        command = f"kubectl delete daskcluster --namespace {api.namespace} {name}"
        LOG.warning("DaskCluster %s could not be deleted, or is not gone yet: `%s`", name, command)


def _until_gone(api: KubeApi, name: str) -> bool:
    began = time.monotonic()
    freed = False
    while api.get(CLUSTERS, name) is not None:
        lasted = time.monotonic() - began
        if lasted > LEFT:
            return False
        if lasted > OPERATOR_GOES and not freed:
            # The operator's mark on what it watches; without it, the API deletes the cluster and all it owns.
            api.patch(CLUSTERS, name, {"metadata": {"finalizers": None}})
            freed = True
        time.sleep(0.1)
    return True


def _remove_group(api: KubeApi, name: str, grown: float) -> None:
    """Delete the group of workers that the operator made for a cluster which it did not see go.

    It makes the group first and gives it to the cluster a moment later; one whose cluster went in between stays.
    """
    while not api.delete(GROUPS, f"{name}-default") and time.monotonic() < grown:
        time.sleep(0.2)


@contextmanager
def _reached(api: KubeApi, spec: KubernetesSpec, pod: Mapping[str, Any]) -> Iterator[str]:
    """The scheduler's address: through the API's server, or straight from within the cluster."""
    if spec.port_forward if spec.port_forward is not None else not _in_pod():
        with api.forwarded(pod, PORT) as port:
            yield f"tcp://127.0.0.1:{port}"
    else:
        # By its address: names of services take seconds to be known.
        yield f"tcp://{pod['status']['podIP']}:{PORT}"


def _in_pod() -> bool:
    return IN_POD.is_dir() and "KUBERNETES_SERVICE_HOST" in os.environ


@contextmanager
def _client(address: str, spec: KubernetesSpec) -> Iterator[Client]:
    """A client of the scheduler. Raises ClusterError where that does not answer."""
    try:
        client = connect(address, min(spec.wait, 6 * CONNECT))
    except UNREACHED as error:
        raise ClusterError(
            f"the scheduler's pod runs and does not answer at {address} ({type(error).__name__}: {error}): has the "
            "image the same dask and distributed as here, and does a network policy allow it?"
        ) from None
    with client:
        yield client
