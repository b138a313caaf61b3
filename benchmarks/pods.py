"""How long two workers on Kubernetes take until they compute: ours, and dask-kubernetes' own `KubeCluster`.

Both ask the same operator for the same pods, in turns, on the Kubernetes that the tests use (tests/kube.py). Ours
also compares versions and warms the workers up before it is ready, so their first region waits for nothing.

    uv run python -m benchmarks.pods --turns 10
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from distributed import Client

from ndvi_scale import open_cluster
from ndvi_scale.cluster.manifest import manifest
from ndvi_scale.cluster.spec import KubernetesSpec
from ndvi_scale.errors import ClusterError

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from kube import kubernetes

if TYPE_CHECKING:
    from collections.abc import Callable

    from kube import Kube

WORKERS: Final = 2


def ours(kube: Kube, _: int) -> tuple[float, float]:
    """Seconds until both compute, and until it is closed after that."""
    began = time.monotonic()
    with open_cluster(KubernetesSpec(image=kube.image, memory="1GiB", workers=WORKERS, wait=60)) as submit:
        for future in [submit(divmod, 7, 2) for _ in range(WORKERS)]:
            future.result(60)
        computing = time.monotonic()
    return computing - began, time.monotonic() - computing


def theirs(kube: Kube, number: int) -> tuple[float, float]:
    """The same of `KubeCluster`."""
    from dask_kubernetes.operator import KubeCluster

    spec = KubernetesSpec(image=kube.image, memory="1GiB", workers=WORKERS)
    made = manifest(spec, f"bench-{os.getpid()}-{number}")
    began = time.monotonic()
    options = {"port_forward_cluster_ip": True, "quiet": True, "resource_timeout": 20}
    with KubeCluster(custom_cluster_spec=made, **options) as cluster, Client(cluster) as client:
        client.wait_for_workers(WORKERS, timeout=60)
        for future in [client.submit(divmod, 7, 2, pure=False) for _ in range(WORKERS)]:
            future.result(60)
        computing = time.monotonic()
    return computing - began, time.monotonic() - computing


def main() -> None:
    """Measure, and print one line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    turns: int = parser.parse_args().turns
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    ways: dict[str, Callable[[Kube, int], tuple[float, float]]] = {"ours": ours, "KubeCluster": theirs}
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    failed: dict[str, list[str]] = {way: [] for way in ways}
    with kubernetes() as kube:
        os.environ["KUBECONFIG"] = str(kube.user)
        for number in range(turns + 1):
            for way, start in ways.items():
                try:
                    took = start(kube, number)
                except (ClusterError, TimeoutError, OSError) as error:
                    failed[way].append(f"{type(error).__name__}: {error}"[:100])
                else:
                    times[way] += [took] if number else []  # the first of each warms caches up
    for way in ways:
        starts, ends = zip(*times[way], strict=True) if times[way] else ((), ())
        told = f"{way}: {len(starts)} of {turns} starts"
        if starts:
            told += f", median {median(starts):.2f} s ({min(starts):.2f} to {max(starts):.2f})"
            told += f", closed in {median(ends):.2f} s"
        print(told, *sorted(set(failed[way])), sep="; ")


if __name__ == "__main__":
    main()
