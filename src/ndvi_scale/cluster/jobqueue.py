"""Jobs of an HPC scheduler through dask-jobqueue: Slurm, PBS, Grid Engine, LSF, HTCondor.

All that dask-jobqueue would take from configuration files of the site is said here, so that a profile means the
same everywhere, and what `render` shows is what is submitted.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.spec import HtcondorSpec, JobSpec, LsfSpec, PbsSpec, SgeSpec, SlurmSpec
from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Security

_NAMES: Final = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
}

PLACE: Final = "tls://SCHEDULER:8786"
"""Stands in a rendered script for the address that the scheduler will have."""

KEYS: Final = "CERTIFICATES"
"""Stands in a rendered script for the folder of the certificates that are made for the run."""

LOGS: Final = "ndvi-scale-logs"
"""Folder of the jobs' output, where a profile names none."""

WORKER: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "GDAL_CACHEMAX": "64",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}
"""What every worker needs in its environment before anything is imported: a region is one thread's work, freed
memory goes back to the system, and Dask's profiler does not look at all threads a hundred times a second."""


def cluster_class(kind: str) -> Any:
    """The class of dask-jobqueue. Raises ConfigError where that is not installed."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return getattr(import_module("dask_jobqueue"), _NAMES[kind])
    except ImportError:
        raise ConfigError(
            f"a {kind} cluster needs dask-jobqueue: pip install 'ndvi-scale[hpc]', on the login node and the nodes"
        ) from None
    finally:
        # dask-jobqueue 0.9 makes Ctrl-C an exit with code 0 when it is imported: a run cut short would look done.
        if signal.getsignal(signal.SIGINT) is not handler and handler is not None:
            signal.signal(signal.SIGINT, handler)


def job_options(spec: JobSpec) -> dict[str, Any]:
    """What dask-jobqueue is told of a job."""
    options: dict[str, Any] = {
        "cores": spec.cores,
        "memory": spec.memory,
        "processes": spec.processes,
        "python": shlex.quote(spec.python or sys.executable),
        "worker_command": "distributed.cli.dask_worker",
        "worker_extra_args": _worker_arguments(spec),
        "death_timeout": round(spec.wait),
        "local_directory": _on_node(spec.scratch),
        "log_directory": log_folder(spec),
        "interface": spec.interface,
        "protocol": "tls://",
        "job_name": "ndvi-scale",
        "job_script_prologue": [*_exports(spec), *spec.prologue],
        "job_extra_directives": _directives(spec),
        "job_directives_skip": [],
        "shebang": "#!/usr/bin/env bash",
    }
    return options | _own_options(spec)


def _worker_arguments(spec: JobSpec) -> list[str]:
    """A worker ends by itself before its job does; what it shows of itself, it shows to its own node alone."""
    lifetime = ["--lifetime", f"{spec.lifetime_seconds}s", "--lifetime-stagger", f"{spec.stagger_seconds}s"]
    return [*lifetime, "--dashboard-address", "127.0.0.1:0"]


def _on_node(path: str) -> str:
    """A path for a shell on the node. A variable that is not set there is /tmp: nothing would swallow an option."""
    return '"' + re.sub(r"\$(\w+)|\$\{(\w+)\}", r"${\1\2:-/tmp}", path) + '"'


def _directives(spec: JobSpec) -> list[str] | dict[str, str]:
    """Lines of the profile, as the scheduler's own class takes them. Raises ConfigError."""
    if isinstance(spec, HtcondorSpec):
        pairs = {key.strip(): value.strip() for key, is_pair, value in map(_pair, spec.directives) if is_pair}
        if len(pairs) != len(spec.directives):
            raise ConfigError(f"directives {list(spec.directives)} of HTCondor: give each as NAME = value")
        return pairs
    qos = [f"--qos={spec.qos}"] if isinstance(spec, SlurmSpec) and spec.qos else []
    return [*spec.directives, *qos]


def _pair(line: str) -> tuple[str, str, str]:
    return line.partition("=")


def _own_options(spec: JobSpec) -> dict[str, Any]:
    """What only some schedulers know."""
    if isinstance(spec, HtcondorSpec):
        return {"disk": spec.disk}
    own: dict[str, Any] = {"queue": spec.queue, "walltime": _walltime(spec)}
    if isinstance(spec, SlurmSpec | PbsSpec):
        own["account"] = spec.account
    else:
        own["project"] = spec.account
    if isinstance(spec, PbsSpec):
        own["resource_spec"] = spec.resources
    if isinstance(spec, SgeSpec):
        own["resource_spec"] = None
    if isinstance(spec, LsfSpec):
        own |= {"ncpus": spec.cores, "use_stdin": True}
    return own


def _walltime(spec: JobSpec) -> str:
    """As every scheduler reads it: LSF knows no seconds, only Slurm knows days."""
    minutes, seconds = divmod(spec.walltime_seconds, 60)
    if isinstance(spec, LsfSpec):
        minutes += seconds > 0
        return f"{minutes // 60:02}:{minutes % 60:02}"
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


def _exports(spec: JobSpec) -> Iterator[str]:
    """Lines that set the workers' environment. Values are quoted: what a profile says is no shell."""
    for name, value in {**WORKER, **dict(spec.environment)}.items():
        yield f"export {name}={shlex.quote(value)}"


def security(folder: str) -> Security:
    """Encryption with the files of a folder: ``ca.pem``, ``client.pem``, ``client-key.pem``, for every role."""
    from distributed import Security

    certificate, key = os.path.join(folder, "client.pem"), os.path.join(folder, "client-key.pem")  # noqa: PTH118
    roles = {}
    for role in ("client", "scheduler", "worker"):
        roles |= {f"tls_{role}_cert": certificate, f"tls_{role}_key": key}
    ca = os.path.join(folder, "ca.pem")  # noqa: PTH118
    return Security(require_encryption=True, tls_ca_file=ca, **roles)


def render(spec: JobSpec) -> str:
    """The script of one job, without a scheduler: its address is `PLACE`, its keys are in `KEYS`.

    Raises ConfigError.
    """
    job = cluster_class(spec.kind).job_cls
    folder = log_folder(spec)
    new = not os.path.exists(folder)  # noqa: PTH110
    try:
        options = job_options(spec) | {"security": security(KEYS)}
        return job(PLACE, name="worker", config_name=spec.kind, **options).job_script()
    finally:
        if new:  # dask-jobqueue made it, and nothing will write there
            with suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106


def log_folder(spec: JobSpec) -> str:
    """Where jobs write what they say: an absolute path, since a scheduler expands and resolves nothing.

    Raises ConfigError.
    """
    folder = os.path.abspath(os.path.expanduser(os.path.expandvars(spec.logs or LOGS)))  # noqa: PTH100, PTH111
    if any(letter.isspace() for letter in folder):
        raise ConfigError(
            f"logs {folder!r} of a {spec.kind} cluster has spaces, which a job's script cannot say: give "
            "logs = a folder without, that the nodes have, too"
        )
    return folder
