"""On one machine: threads of this process, or processes of their own."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ndvi_scale.batch import thread_pool
from ndvi_scale.cluster.submit import SETTINGS, DaskSubmit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ndvi_scale.batch import Submit
    from ndvi_scale.cluster.spec import LocalSpec


@contextmanager
def open_local(spec: LocalSpec) -> Iterator[Submit]:
    """A `Submit` on threads or processes here; nothing is left of them afterwards.

    Scheduler, workers and dashboard listen on loopback alone.
    """
    if not spec.processes:
        with thread_pool(spec.workers) as submit:
            yield submit
        return
    import dask.config
    from distributed import Client, LocalCluster

    from ndvi_scale.cluster.plugin import Deaf, prepare

    bounds = spec.bounds()
    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=bounds[0] if bounds else spec.workers,
            threads_per_worker=spec.threads,
            memory_limit=spec.memory or "auto",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # workers share our terminal; what fails there, the run says
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Deaf())
        prepare(client, spec)
        if bounds is not None:
            cluster.adapt(minimum=bounds[0], maximum=bounds[1])  # pyright: ignore[reportAttributeAccessIssue]
        most = bounds[1] if bounds else len(cluster.workers)  # pyright: ignore[reportAttributeAccessIssue]
        yield DaskSubmit(client, expected=most * (spec.threads + 1), note=f"{most} processes of this machine")
