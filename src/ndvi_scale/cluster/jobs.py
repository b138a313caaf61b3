"""Workers that are jobs of an HPC scheduler. Dask's scheduler is in this process, and speaks TLS alone."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.jobqueue import cluster_class, job_options, log_folder, security
from ndvi_scale.cluster.keeper import Keeper
from ndvi_scale.cluster.signals import ended_by_signals
from ndvi_scale.cluster.submit import SETTINGS, DaskSubmit
from ndvi_scale.cluster.versions import require_same
from ndvi_scale.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Security

    from ndvi_scale.batch import Submit
    from ndvi_scale.cluster.spec import JobSpec

IDLE_LOOKS: Final = 30
"""Seconds without work for it before an adaptive cluster gives a worker back: another would have to queue again."""

LOG = logging.getLogger(__name__)


@contextmanager
def open_jobs(spec: JobSpec) -> Iterator[Submit]:
    """A `Submit` on jobs of the scheduler; all of them are cancelled when the block is left, however it is.

    Waits until workers are there, as long as `spec.wait`; those that come later join. Raises ConfigError for what
    cannot be submitted from here, ClusterError with the queue's reason where no worker comes.
    """
    import dask.config
    from distributed import Client

    from ndvi_scale.cluster.plugin import prepare

    _require_program(spec)
    least, most = spec.bounds() or 2 * (spec.workers or spec.processes,)
    with (
        ended_by_signals(),
        dask.config.set(SETTINGS),
        _certificates(log_folder(spec)) as keys,
        _cluster(spec, keys) as cluster,
        Client(cluster) as client,
    ):
        # Fixed is adaptive, too, without a choice: so a job that is lost comes back.
        cluster.adapt(minimum=least, maximum=most, wait_count=IDLE_LOOKS, interval="1s")
        keeper = Keeper(spec, cluster)
        note = keeper.wait(client, least)
        LOG.info(note)
        require_same(client)
        prepare(client, spec)
        expected = most * (1 + spec.cores // spec.processes) if most > least else 0
        yield DaskSubmit(client, expected, keeper.look, note)


def _require_program(spec: JobSpec) -> None:
    program = cluster_class(spec.kind).job_cls.submit_command.split()[0]
    if shutil.which(program) is None:
        raise ClusterError(
            f"there is no program {program} here, which a {spec.kind} cluster submits with: run on a login node, "
            "or load the scheduler's module first"
        )


@contextmanager
def _cluster(spec: JobSpec, keys: Security) -> Iterator[Any]:
    """A cluster of dask-jobqueue without a job yet. Raises ConfigError where the scheduler cannot listen."""
    options = job_options(spec) | {
        "security": keys,
        "job_cls": _job_class(spec.kind),
        "config_name": spec.kind,
        "scheduler_options": {"dashboard_address": "127.0.0.1:0", "interface": spec.interface},
    }
    try:
        cluster = cluster_class(spec.kind)(n_workers=0, **options)
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"Dask's scheduler cannot listen for a {spec.kind} cluster: {error}") from None
    with cluster:
        yield cluster


def _job_class(kind: str) -> type[Any]:
    """The class of jobs, which tells what the scheduler said when it refused one, and survives Ctrl-C."""
    base = cluster_class(kind).job_cls

    class Told(base):
        refused: str | None = None

        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, OSError, ValueError) as error:
                from distributed.core import Status

                self.refused = _last_line(error)
                self.status = Status.running  # it is there, with nothing behind it, until `Keeper` takes it away

        async def close(self) -> None:
            from distributed.core import Status

            await super().close()
            self.status = Status.closed

        @staticmethod
        async def _call(command: list[str], **options: Any) -> Any:
            # Ctrl-C goes to all processes of the terminal: a submission that it ends may have been taken already.
            return await base._call(command, start_new_session=True, **options)  # noqa: SLF001

    return Told


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and line.strip() != "stderr:"]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _certificates(folder: str) -> Iterator[Security]:
    """A certificate for this run and its key, as files that only their owner reads, in a folder that nodes see."""
    try:
        from distributed import Security

        made = Security.temporary().get_tls_config_for_role("worker")
    except ImportError:
        raise ConfigError("clusters of jobs need cryptography: pip install 'ndvi-scale[hpc]'") from None
    try:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        private = tempfile.TemporaryDirectory(prefix=".tls-", dir=folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}): give logs = a folder that the nodes have, too"
        ) from None
    with private as place:
        for name, role in (("ca.pem", "ca_file"), ("client.pem", "cert"), ("client-key.pem", "key")):
            path = os.path.join(place, name)  # noqa: PTH118
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
                file.write(str(made[role]))
        yield security(place)
