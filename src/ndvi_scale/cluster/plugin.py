"""What every worker is given before its first region: its environment, its log level, warm kernels."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import TYPE_CHECKING

from distributed import WorkerPlugin

from ndvi_scale.cluster.jobqueue import WORKER
from ndvi_scale.errors import ClusterError
from ndvi_scale.warm import warm_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client, Worker

    from ndvi_scale.cluster.spec import ClusterSpec


def prepare(client: Client, spec: ClusterSpec) -> None:
    """Make the workers of a client fit for regions, those that are to come too; waits for those that are there.

    Raises ClusterError where they lack this package.
    """
    level = logging.getLogger("ndvi_scale").getEffectiveLevel()
    try:
        client.register_plugin(Ready({**WORKER, **dict(spec.environment)}, level))
    except Exception as error:
        raise ClusterError(
            f"the workers cannot be made ready ({type(error).__name__}: {error}): install the same ndvi-scale "
            "there as here"
        ) from error


class Ready(WorkerPlugin):
    """Set up once on each worker, before it takes a task."""

    name = "ndvi-scale-ready"

    def __init__(self, environment: Mapping[str, str], level: int) -> None:
        self._environment = dict(environment)
        self._level = level

    async def setup(self, worker: Worker) -> None:  # noqa: ARG002 - as the base class has it
        """Called by the worker; what its environment has already stays."""
        for name, value in self._environment.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ndvi_scale").setLevel(self._level)
        await asyncio.to_thread(warm_up)


class Deaf(WorkerPlugin):
    """For workers of this machine: Ctrl-C goes to all processes of the terminal, and the driver ends them."""

    name = "ndvi-scale-deaf"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - as the base class has it
        """Called by the worker, in the main thread of its process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
