"""A cluster of any kind by its spec; what a kind needs is imported when one is opened."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

from ndvi_scale.cluster.profiles import find_spec, read_profiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ndvi_scale.batch import Submit
    from ndvi_scale.cluster.spec import ClusterSpec

_JOBS: Final = "ndvi_scale.cluster.jobs:open_jobs"

_OPENERS: Final = {
    "local": "ndvi_scale.cluster.local:open_local",
    "address": "ndvi_scale.cluster.address:open_address",
    "slurm": _JOBS,
    "pbs": _JOBS,
    "sge": _JOBS,
    "lsf": _JOBS,
    "htcondor": _JOBS,
    "kubernetes": "ndvi_scale.cluster.kubernetes:open_kubernetes",
    "gateway": "ndvi_scale.cluster.gateway:open_gateway",
}

_LOGGERS: Final = ("distributed", "distributed.client", "distributed.gc")
"""Those that distributed gives a level when it is imported."""


@contextmanager
def open_cluster(cluster: ClusterSpec | str) -> Iterator[Submit]:
    """A `Submit` on a cluster: of a spec, or by the name of a profile, a kind, or a scheduler's address.

    Nothing of ours is left of it afterwards. Raises ConfigError for what cannot be opened as it is said,
    ClusterError for a cluster that does not come.
    """
    spec = find_spec(cluster, read_profiles()) if isinstance(cluster, str) else cluster
    module, _, function = _OPENERS[spec.kind].partition(":")
    opener = getattr(import_module(module), function)
    with _as_quiet_as_before(), opener(spec) as submit:
        yield submit


@contextmanager
def _as_quiet_as_before() -> Iterator[None]:
    """Keep to what the program has said of distributed's logging, where it has.

    When it is imported, distributed sets up logging of its own, and tells of every connection that ends.
    """
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    import_module("distributed")
    if levels["distributed"] != logging.NOTSET:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    yield
