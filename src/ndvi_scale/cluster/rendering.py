"""What a cluster of any kind would submit: a job's script, a manifest, what a gateway is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ndvi_scale.cluster.spec import GatewaySpec, JobSpec, KubernetesSpec

if TYPE_CHECKING:
    from ndvi_scale.cluster.spec import ClusterSpec


def render(spec: ClusterSpec) -> str | None:
    """The text, or None of a kind that submits nothing. Raises as opening such a cluster does.

    Only a gateway is asked: for what it offers.
    """
    if isinstance(spec, KubernetesSpec):
        from ndvi_scale.cluster import manifest

        return manifest.render(spec)
    if isinstance(spec, GatewaySpec):
        from ndvi_scale.cluster import gateway

        return gateway.render(spec)
    if isinstance(spec, JobSpec):
        from ndvi_scale.cluster import jobqueue

        return jobqueue.render(spec)
    return None
