"""Where to compute: `ClusterSpec`, frozen, one class a kind, from a profile or from flags. Pure; opens nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_type_hints

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_WALLTIME: Final = 300
"""Seconds. A job that starts, imports (10 s on a cold parallel file system) and warms up would compute little in
less; CARS warns at the same five minutes."""

MARGIN: Final = 120
"""Seconds before its walltime by which a worker ends by itself, so that what it holds moves to others first."""

STAGGER: Final = 180
"""Seconds over which workers that began together end, so that not all of them go at once."""

_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d{1,3}):(?P<minutes>[0-5]\d)(?::(?P<seconds>[0-5]\d))?")
_MEMORY = re.compile(r"\d+(\.\d+)?\s*(k|M|G|T)?i?B", re.IGNORECASE)
_SECRET = re.compile(r"secret|passw|token|access_?key|account_?key|sas_?key|api_?key", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """What all kinds have in common."""

    kind: ClassVar[str]

    workers: int | None = None
    """How many to ask for; None takes the kind's own number."""
    adapt: str | None = None
    """``MIN:MAX``: as many as there is work for, between these; in place of `workers`."""
    threads: int = 1
    """Regions that a worker computes at once."""
    memory: str | None = None
    """Of a worker, such as ``4GiB``; None takes what the kind gives."""
    wait: float = 600.0
    """Seconds in which workers have to come; fewer than asked for then say why, none is an error."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that every worker has, beside those that all kinds set."""

    def __post_init__(self) -> None:
        """Refuse what could never run. Raises ConfigError."""
        for name, least in (("workers", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} {value} of a {self.kind} cluster: give a number from {least} on")
        if self.workers is not None and self.adapt is not None:
            raise ConfigError(f"workers {self.workers} and adapt {self.adapt}: a cluster has one of the two")
        if self.adapt is not None:
            self.bounds()
        if self.memory is not None and not _MEMORY.fullmatch(self.memory.strip()):
            raise ConfigError(f"memory {self.memory!r} is not a size: give one such as 4GiB")
        if self.wait <= 0:
            raise ConfigError(f"wait {self.wait:g} is no time to wait: give seconds above 0")

    def bounds(self) -> tuple[int, int] | None:
        """Least and most workers of an adaptive cluster; None of a fixed one. Raises ConfigError."""
        if self.adapt is None:
            return None
        match = re.fullmatch(r"(\d+):(\d+)", self.adapt.strip())
        if match is None or not 0 <= int(match[1]) <= int(match[2]) or int(match[2]) < 1:
            raise ConfigError(f"adapt {self.adapt!r} is no MIN:MAX: give such as 0:16")
        return int(match[1]), int(match[2])


@dataclass(frozen=True, kw_only=True)
class LocalSpec(ClusterSpec):
    """Processes on this machine."""

    kind = "local"

    processes: bool = True
    """Workers are processes; without, threads of this one."""


@dataclass(frozen=True, kw_only=True)
class AddressSpec(ClusterSpec):
    """A scheduler that is there already."""

    kind = "address"

    scheduler: str = ""
    """Such as ``tls://10.0.0.1:8786``, or a file that `dask scheduler --scheduler-file` wrote."""
    certificate: str | None = None
    """Folder with ``ca.pem``, ``client.pem`` and ``client-key.pem``, for ``tls://``."""

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        if not self.scheduler:
            raise ConfigError("an address cluster needs the scheduler's address: give such as tls://10.0.0.1:8786")


@dataclass(frozen=True, kw_only=True)
class JobSpec(ClusterSpec):
    """Jobs of an HPC scheduler. A job is one node's share: `processes` workers of `threads` threads."""

    cores: int = 1
    """Of a job."""
    processes: int = 1
    """Workers of a job."""
    walltime: str = "01:00:00"
    account: str | None = None
    account_needed: bool = False
    """The site refuses jobs without an account: say so here, and it is said before a job is."""
    queue: str | None = None
    interface: str | None = None
    """Network interface that nodes reach each other by, such as ``ib0``."""
    scratch: str = "$TMPDIR"
    """Folder on the node for what does not fit memory; expanded there, never on a shared file system by default."""
    logs: str | None = None
    """Folder for the jobs' output."""
    python: str | None = None
    """Interpreter on the nodes; None is this one."""
    directives: tuple[str, ...] = ()
    """Further lines for the scheduler, such as ``--constraint=skylake``."""
    prologue: tuple[str, ...] = ()
    """Shell lines before the worker starts, such as ``module load python``."""

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        if self.account_needed and not self.account:
            raise ConfigError(
                f"a {self.kind} cluster of this profile needs an account: give account = …, or --account"
            )
        if self.cores % self.processes:
            raise ConfigError(
                f"cores {self.cores} are no whole number for each of {self.processes} processes: give a multiple"
            )
        if self.threads not in {1, self.cores // self.processes}:
            raise ConfigError(
                f"threads {self.threads} of a {self.kind} cluster: a worker has cores / processes = "
                f"{self.cores // self.processes}; give those two"
            )
        for name, _ in self.environment:
            if _SECRET.search(name) and not name.upper().endswith("_FILE"):
                raise ConfigError(
                    f"environment {name} looks like a secret, and a job's script can be read by others: set it "
                    "where you submit (Slurm hands your environment on, PBS and Grid Engine do with "
                    'directives = ["-V"])'
                )
        if self.walltime_seconds < LEAST_WALLTIME:
            raise ConfigError(
                f"walltime {self.walltime} is under five minutes: a worker would hardly begin; give one such as "
                "01:00:00"
            )
        if self.memory is None:
            raise ConfigError(f'a {self.kind} cluster needs the memory of a job: give such as memory = "16GiB"')

    @property
    def walltime_seconds(self) -> int:
        """Raises ConfigError for what is no time."""
        match = _WALLTIME.fullmatch(self.walltime.strip())
        if match is None:
            raise ConfigError(
                f"walltime {self.walltime!r} is no time: give hours:minutes:seconds, such as 02:00:00"
            )
        days, hours, minutes, seconds = (int(match[part] or 0) for part in ("days", "hours", "minutes", "seconds"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def lifetime_seconds(self) -> int:
        """How long a worker computes: what is left of the walltime when the slowest to end has `MARGIN` left."""
        return max(60, self.walltime_seconds - MARGIN - STAGGER)


@dataclass(frozen=True, kw_only=True)
class SlurmSpec(JobSpec):
    """Slurm."""

    kind = "slurm"

    qos: str | None = None
    """Quality of service, where the site has several."""


@dataclass(frozen=True, kw_only=True)
class PbsSpec(JobSpec):
    """PBS."""

    kind = "pbs"

    resources: str | None = None
    """What ``-l`` selects, such as ``select=1:ncpus=24:mem=120GB``; by default of `cores` and `memory`."""


@dataclass(frozen=True, kw_only=True)
class SgeSpec(JobSpec):
    """Grid Engine."""

    kind = "sge"


@dataclass(frozen=True, kw_only=True)
class LsfSpec(JobSpec):
    """LSF."""

    kind = "lsf"


@dataclass(frozen=True, kw_only=True)
class HtcondorSpec(JobSpec):
    """HTCondor."""

    kind = "htcondor"

    disk: str = "10GB"
    """Of a job."""


SPECS: Final[dict[str, type[ClusterSpec]]] = {
    spec.kind: spec for spec in (LocalSpec, AddressSpec, SlurmSpec, PbsSpec, SgeSpec, LsfSpec, HtcondorSpec)
}


def make_spec(settings: Mapping[str, Any], where: str = "the settings") -> ClusterSpec:
    """The spec that settings (`kind` and its fields, dashes or underscores) say; `where` they are from, for errors.

    Raises ConfigError for an unknown kind or key, with the nearest right one, and for what the kind refuses.
    """
    given = {str(key).replace("-", "_"): value for key, value in settings.items()}
    kind = given.pop("kind", "local")
    if kind not in SPECS:
        raise ConfigError(
            f"{where}: cluster kind {kind!r} is unknown{near(kind, SPECS)}: give one of {', '.join(SPECS)}"
        )
    spec = SPECS[kind]
    known = {field.name for field in fields(spec)}
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}: {key!r} is no setting of a {kind} cluster{near(key, known)}: it has "
                f"{', '.join(sorted(known))}"
            )
    return spec(**{key: _typed(spec, key, value, where) for key, value in given.items()})


def near(word: Any, known: Any) -> str:
    """The known word that is meant perhaps, as a hint in an error; nothing where none is like it."""
    found = get_close_matches(str(word), [str(one) for one in known], n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _typed(spec: type[ClusterSpec], key: str, value: Any, where: str) -> Any:
    """A value in the form of its field. Raises ConfigError where it is of another type."""
    hint = str(get_type_hints(spec)[key])
    if key == "environment":
        if not isinstance(value, dict):
            raise ConfigError(f'{where}: environment {value!r} is no table: give NAME = "value"')
        return tuple(sorted((str(name), str(text)) for name, text in value.items()))
    if "tuple" in hint:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise ConfigError(f"{where}: {key} {value!r} has the wrong type: give a list of texts")
        return tuple(value)
    kinds = [
        kind for name, kind in (("int", int), ("float", (int, float)), ("str", str), ("bool", bool)) if name in hint
    ]
    if isinstance(value, bool) is not ("bool" in hint) or not any(isinstance(value, kind) for kind in kinds):
        raise ConfigError(
            f"{where}: {key} {value!r} has the wrong type: it is {hint.removeprefix('<class ').strip('>')}"
        )
    return value
