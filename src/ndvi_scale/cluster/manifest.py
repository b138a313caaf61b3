"""The DaskCluster that the operator of dask-kubernetes is asked for: a plain value, made of a spec and a name.

All that dask-kubernetes would take from configuration is said here, so that what `render` shows is what is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.jobqueue import WORKER
from ndvi_scale.cluster.submit import SETTINGS
from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ndvi_scale.cluster.spec import KubernetesSpec

NAME: Final = "ndvi-scale-NAME"
"""Stands in a rendered manifest for the name that a cluster will have."""

GROUP: Final = "kubernetes.dask.org"

LABELS: Final = {"app.kubernetes.io/name": "ndvi-scale", "app.kubernetes.io/managed-by": "ndvi-scale"}

_ALONE: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What a container needs no more than, whatever its image."""


def manifest(spec: KubernetesSpec, name: str) -> dict[str, Any]:
    """The DaskCluster of a spec. Raises ConfigError where dask-kubernetes is not installed."""
    least, _ = spec.bounds() or (spec.workers or 1, 0)
    made = cluster_spec()(
        name=name,
        image=spec.image,
        n_workers=least,
        env=[],
        # Said by us: both default to commands that distributed 2026.6 has no more.
        worker_command=["dask", "worker", *_worker_arguments(spec)],
        idle_timeout=spec.idle_timeout,
    )
    made["metadata"]["labels"] = {**LABELS, **spec.labels}
    scheduler, worker = made["spec"]["scheduler"]["spec"], made["spec"]["worker"]["spec"]
    scheduler["containers"][0]["args"] = ["dask", "scheduler", "--host", "0.0.0.0"]  # noqa: S104 - of its pod
    settings = {_variable(key): str(value) for key, value in SETTINGS.items()}
    _furnish(scheduler, spec, settings, (spec.scheduler_cpus, spec.scheduler_memory))
    _furnish(worker, spec, WORKER, (spec.cpus or float(spec.threads), str(spec.memory)))
    made["spec"]["scheduler"]["spec"] = merged(scheduler, spec.pod)
    made["spec"]["worker"]["spec"] = merged(merged(worker, spec.pod), spec.worker_pod)
    return made


def autoscaler(spec: KubernetesSpec, cluster: Mapping[str, Any]) -> dict[str, Any] | None:
    """The DaskAutoscaler of a DaskCluster that is there, which it goes with; None of a fixed number of workers."""
    bounds = spec.bounds()
    if bounds is None or bounds[0] == bounds[1]:
        return None
    name, uid = cluster["metadata"]["name"], cluster["metadata"]["uid"]
    owner = {"apiVersion": cluster["apiVersion"], "kind": cluster["kind"], "name": name, "uid": uid}
    return {
        "apiVersion": cluster["apiVersion"],
        "kind": "DaskAutoscaler",
        "metadata": {"name": name, "labels": {**LABELS, **spec.labels}, "ownerReferences": [owner]},
        "spec": {"cluster": name, "minimum": bounds[0], "maximum": bounds[1]},
    }


def render(spec: KubernetesSpec) -> str:
    """The manifest as YAML; its name is `NAME`. Raises ConfigError."""
    import yaml

    made = manifest(spec, NAME)
    if spec.namespace is not None:
        made["metadata"]["namespace"] = spec.namespace
    return yaml.safe_dump(_without_none(made), sort_keys=False)


def cluster_spec() -> Any:
    """What makes the plain manifest in dask-kubernetes. Raises ConfigError where that is not installed."""
    try:
        from dask_kubernetes.operator import make_cluster_spec
    except ImportError:
        raise ConfigError(
            "a kubernetes cluster needs dask-kubernetes: pip install 'ndvi-scale[kubernetes]', here"
        ) from None
    return make_cluster_spec


def merged(base: Any, more: Any) -> Any:
    """Both in one: tables are merged, lists are joined, of anything else the second wins."""
    if isinstance(base, Mapping) and isinstance(more, Mapping):
        both = {**base, **more}
        return {key: merged(base[key], more[key]) if key in base and key in more else both[key] for key in both}
    if isinstance(base, list) and isinstance(more, list | tuple):
        return [*base, *more]
    return more


def quantity(size: str) -> str:
    """A size such as ``4GiB`` as Kubernetes writes it, ``4Gi``: there, 4m is a thousandth."""
    match = re.fullmatch(r"([\d.]+)\s*([kmgt]?)(i?)b", size.strip().lower())
    if match is None:
        raise ConfigError(f"memory {size!r} is not a size: give one such as 4GiB")
    number, letter, binary = match.groups()
    return number + (letter if letter == "k" and not binary else letter.upper()) + binary


def _worker_arguments(spec: KubernetesSpec) -> Iterator[str]:
    yield from ("--nthreads", str(spec.threads), "--memory-limit", str(spec.memory))


def _furnish(pod: dict[str, Any], spec: KubernetesSpec, own: Mapping[str, str], room: tuple[float, str]) -> None:
    """Say what a pod of the scheduler or of a worker has: variables, secrets, room, and where it may run."""
    container = pod["containers"][0]
    container["env"] = list(_variables({**own, **dict(spec.environment)}, spec))
    container["resources"] = _resources(*room)
    container["securityContext"] = dict(_ALONE)
    if spec.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in spec.secrets]
    if spec.secret_files:
        mounts = list(enumerate(spec.secret_files.items()))
        container["volumeMounts"] = [
            {"name": f"secret-{number}", "mountPath": folder, "readOnly": True} for number, (folder, _) in mounts
        ]
        pod["volumes"] = [
            {"name": f"secret-{number}", "secret": {"secretName": name}} for number, (_, name) in mounts
        ]
    pod["securityContext"] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if spec.service_account is None:
        pod["automountServiceAccountToken"] = False
    else:
        pod["serviceAccountName"] = spec.service_account
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    if spec.tolerations:
        pod["tolerations"] = [dict(one) for one in spec.tolerations]


def _variables(literal: Mapping[str, str], spec: KubernetesSpec) -> Iterator[dict[str, Any]]:
    for name, value in literal.items():
        yield {"name": name, "value": value}
    for name, place in spec.secret_environment.items():
        secret, _, key = str(place).partition("/")
        yield {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _resources(cpus: float, memory: str) -> dict[str, Any]:
    """Requested and at most the same: who gets what he asked for is evicted last."""
    room = {"cpu": f"{cpus:g}", "memory": quantity(memory)}
    return {"requests": room, "limits": dict(room)}


def _variable(setting: str) -> str:
    """The variable that sets something of Dask."""
    return "DASK_" + setting.upper().replace(".", "__").replace("-", "_")


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value
