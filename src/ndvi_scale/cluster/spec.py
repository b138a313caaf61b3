"""Where to compute: `ClusterSpec`, frozen, one class a kind, from a profile or from flags. Pure; opens nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Final
from unicodedata import category

from ndvi_scale.errors import ConfigError
from ndvi_scale.sizes import INTERPRETER_BYTES, parse_size

LEAST_WALLTIME: Final = 300
"""Seconds. A job that starts, imports (10 s on a cold parallel file system) and warms up would compute little in
less; CARS warns at the same five minutes."""

MARGIN: Final = 120
"""Seconds before its walltime by which a worker ends by itself, so that what it holds moves to others first."""

STAGGER: Final = 180
"""Seconds by which a worker's end is sooner or later than others', so that not all of them go at once."""

GATEWAY_AUTH: Final = ("basic", "jupyterhub", "kerberos")

GATEWAY_PASSWORD: Final = "NDVI_SCALE_GATEWAY_PASSWORD"  # noqa: S105 - the name of a variable
"""Variable with the password for a gateway; a profile never has one."""

_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d{1,3}):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)")
_MEMORY = re.compile(r"\d+(\.\d+)?\s*[kMGT]?i?B", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
        self._require_lines()
        self._require_some("workers", "threads")
        if self.workers is not None and self.adapt is not None:
            raise ConfigError(f"workers {self.workers} and adapt {self.adapt}: a cluster has one of the two")
        if self.adapt is not None:
            self.bounds()
        self._require_size("memory", "4GiB")
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

    def _require_some(self, *names: str) -> None:
        """Raises ConfigError for a number below 1."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} of a {self.kind} cluster: give a number from 1 on")

    def _require_lines(self) -> None:
        """Raises ConfigError for a text that goes on in another line, where it would say something else."""
        for one in fields(self):
            value = getattr(self, one.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and any(category(letter) == "Cc" for letter in text.replace("\t", " ")):
                    raise ConfigError(
                        f"{one.name} {text!r} of a {self.kind} cluster has a line break or another control "
                        "character: give one line (of a list, each line as a text of its own)"
                    )
        for name, _ in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise ConfigError(f"environment {name!r} is no name of a variable: give letters, digits and _")

    def _require_words(self, *names: str) -> None:
        """Raises ConfigError for a text with spaces, of which a scheduler would take the first word alone."""
        for name in names:
            value = getattr(self, name)
            if value is not None and (not value or any(letter.isspace() for letter in value)):
                raise ConfigError(
                    f"{name} {value!r} of a {self.kind} cluster is not one word: give it without spaces, or leave "
                    "it out"
                )

    def _require_size(self, name: str, example: str) -> None:
        """Raises ConfigError for what is no size in bytes, or nothing."""
        value = getattr(self, name)
        if value is not None and not (_MEMORY.fullmatch(value.strip()) and re.search("[1-9]", value)):
            raise ConfigError(f"{name} {value!r} is not a size: give one such as {example}")

    def _require_room(self, workers: int = 1) -> None:
        """Raises ConfigError for a share of `memory` in which no worker can begin."""
        if self.memory is not None and parse_size(self.memory) / workers < INTERPRETER_BYTES:
            share = f" for {workers} processes" if workers > 1 else ""
            raise ConfigError(
                f"memory {self.memory} of a {self.kind} cluster{share}: a worker takes "
                f"{INTERPRETER_BYTES >> 20} MiB before its first region; give each 1GiB or more"
            )

    def _secret(self) -> str | None:
        """The first variable whose name looks like a secret's."""
        names = (name for name, _ in self.environment if not name.upper().endswith("_FILE"))
        return next((name for name in names if _SECRET.search(name)), None)


@dataclass(frozen=True, kw_only=True)
class LocalSpec(ClusterSpec):
    """Processes on this machine."""

    kind = "local"

    processes: bool = True
    """Workers are processes; without, threads of this one."""

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        self._require_room()
        if not self.processes:
            threads = None if self.threads == 1 else self.threads
            for name, value in (("memory", self.memory), ("adapt", self.adapt), ("threads", threads)):
                if value:
                    raise ConfigError(
                        f"{name} {value} of a local cluster of threads (processes = false) has no effect: give "
                        "workers alone, or processes; --memory is taken without --cluster, too"
                    )


@dataclass(frozen=True, kw_only=True)
class AddressSpec(ClusterSpec):
    """A scheduler that is there already. With `adapt`, somebody else starts workers as there is work, up to MAX."""

    kind = "address"

    scheduler: str = ""
    """Such as ``tls://10.0.0.1:8786``, or a file that `dask scheduler --scheduler-file` wrote; by default the one
    that Dask's own settings name, such as ``DASK_SCHEDULER_ADDRESS``."""
    certificate: str | None = None
    """Folder with ``ca.pem``, ``client.pem`` and ``client-key.pem``, for ``tls://``; by default the files that
    Dask's own settings name."""

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        if self.memory is not None:
            raise ConfigError(
                f"memory {self.memory} of an address cluster has no effect: its workers are there already; leave "
                "it out, or start them with `dask worker --memory-limit`"
            )


@dataclass(frozen=True, kw_only=True)
class GatewaySpec(ClusterSpec):
    """A cluster that a Dask Gateway makes.

    What is left out here, dask's own settings say: its files and, in a DaskHub, the environment.
    """

    kind = "gateway"

    address: str = ""
    """Such as ``https://hub.example.org/services/dask-gateway``."""
    proxy_address: str | None = None
    """Of the schedulers, where that is another one: a port, or ``host:port``."""
    auth: str | None = None
    """``basic``, ``jupyterhub`` or ``kerberos``."""
    username: str | None = None
    """For ``basic``; None is the user of this process."""
    password_file: str | None = None
    """For ``basic``: a file that only its owner can read. Without it, `GATEWAY_PASSWORD` is looked for."""
    options: tuple[tuple[str, Any], ...] = ()
    """What the gateway lets its users choose, such as ``worker_cores``: `cluster render` shows it."""

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        if self.memory is not None or self.threads != 1:
            name, value = ("memory", self.memory) if self.memory is not None else ("threads", self.threads)
            raise ConfigError(
                f"{name} {value} of a gateway cluster: the size of its workers is one of the gateway's own "
                "options; give such as options = { worker_cores = 2, worker_memory = 4 } (`ndvi-scale cluster "
                "render` lists them)"
            )
        if self.auth not in {None, *GATEWAY_AUTH}:
            raise ConfigError(
                f"auth {self.auth!r} of a gateway is unknown{near(self.auth, GATEWAY_AUTH)}: give one of "
                f"{', '.join(GATEWAY_AUTH)}"
            )
        for name in ("username", "password_file"):
            if getattr(self, name) is not None and self.auth not in {None, "basic"}:
                raise ConfigError(f"{name} of a gateway with auth {self.auth}: only basic has one; leave it out")


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
        self._require_words("account", "queue", "interface")
        self._require_some("cores", "processes")
        if self.cores % self.processes:
            raise ConfigError(
                f"cores {self.cores} are no whole number for each of {self.processes} processes: give a multiple"
            )
        if self.threads not in {1, self.cores // self.processes}:
            raise ConfigError(
                f"threads {self.threads} of a {self.kind} cluster: a worker has cores / processes = "
                f"{self.cores // self.processes}; give those two"
            )
        if name := self._secret():
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
        self._require_room(self.processes)

    @property
    def walltime_seconds(self) -> int:
        """Raises ConfigError for what is no time."""
        match = _WALLTIME.fullmatch(self.walltime.strip())
        if match is None:
            raise ConfigError(
                f"walltime {self.walltime!r} is no time: give hours:minutes:seconds, such as 02:00:00, or "
                "days-hours:minutes:seconds (02:00 would be two minutes to Slurm, and two hours to LSF)"
            )
        days, hours, minutes, seconds = (int(match[part] or 0) for part in ("days", "hours", "minutes", "seconds"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def stagger_seconds(self) -> int:
        """How much sooner or later than its lifetime a worker may end.

        Of a short walltime a quarter of what there is: with all of `STAGGER` a worker might end when it begins.
        """
        return min(STAGGER, (self.walltime_seconds - MARGIN) // 4)

    @property
    def lifetime_seconds(self) -> int:
        """How long a worker computes: what is left of the walltime when the slowest to end has `MARGIN` left."""
        return self.walltime_seconds - MARGIN - self.stagger_seconds


@dataclass(frozen=True, kw_only=True)
class SlurmSpec(JobSpec):
    """Slurm."""

    kind = "slurm"

    qos: str | None = None
    """Quality of service, where the site has several."""

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        self._require_words("qos")


@dataclass(frozen=True, kw_only=True)
class PbsSpec(JobSpec):
    """PBS."""

    kind = "pbs"

    resources: str | None = None
    """What ``-l`` selects, such as ``select=1:ncpus=24:mem=120GB``; by default of `cores` and `memory`."""

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        self._require_words("resources")


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

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        self._require_size("disk", "10GB")


@dataclass(frozen=True, kw_only=True)
class KubernetesSpec(ClusterSpec):
    """Pods, through the operator of dask-kubernetes: a scheduler, and a pod for each worker."""

    kind = "kubernetes"

    image: str = ""
    """What the pods run: has the same ndvi-scale as here."""
    namespace: str | None = None
    """None is that of the kubeconfig's context."""
    context: str | None = None
    """Of the kubeconfig; None is its current one."""
    kubeconfig: str | None = None
    """File; None is what ``KUBECONFIG`` says, ``~/.kube/config``, or the pod's own service account."""
    port_forward: bool | None = None
    """Reach the scheduler through the API's server; None does so unless this process runs in a pod."""
    cpus: float | None = None
    """Of a worker, requested and at most; None is one for each thread."""
    scheduler_cpus: float = 1.0
    scheduler_memory: str = "2GiB"
    service_account: str | None = None
    """Of the pods."""
    secrets: tuple[str, ...] = ()
    """Names of Kubernetes secrets whose keys all are variables of scheduler and workers."""
    secret_environment: Mapping[str, Any] = field(default_factory=dict)
    """Variable → ``SECRET/KEY``: one key of a Kubernetes secret."""
    secret_files: Mapping[str, Any] = field(default_factory=dict)
    """Folder in the pods → Kubernetes secret, whose keys are files there."""
    node_selector: Mapping[str, Any] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    """As Kubernetes has them, such as ``{key = "dask", operator = "Exists", effect = "NoSchedule"}``."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Of everything that is made."""
    pod: Mapping[str, Any] = field(default_factory=dict)
    """Anything more of a pod's ``spec``, for scheduler and workers: tables are merged, lists are joined."""
    worker_pod: Mapping[str, Any] = field(default_factory=dict)
    """The same, for workers alone."""
    idle_timeout: int = 3600
    """Seconds without work after which the operator deletes the cluster of a driver that was killed; 0 is never."""

    def __post_init__(self) -> None:
        """See `ClusterSpec`."""
        super().__post_init__()
        if not self.image or any(letter.isspace() for letter in self.image):
            raise ConfigError(
                f"image {self.image!r} of a kubernetes cluster: give the image that its pods run, with the same "
                'ndvi-scale as here, such as image = "registry.example.org/ndvi-scale:0.1.0"'
            )
        if self.memory is None:
            raise ConfigError('a kubernetes cluster needs the memory of a worker: give such as memory = "4GiB"')
        self._require_room()
        self._require_size("scheduler_memory", "2GiB")
        for name, cpus in (("cpus", self.cpus), ("scheduler_cpus", self.scheduler_cpus)):
            if cpus is not None and cpus <= 0:
                raise ConfigError(f"{name} {cpus:g} of a kubernetes cluster: give a number above 0")
        if self.idle_timeout < 0:
            raise ConfigError(f"idle_timeout {self.idle_timeout} is no time: give seconds, or 0 for never")
        if name := self._secret() or next(_literal_secrets([self.pod, self.worker_pod]), None):
            raise ConfigError(
                f"environment {name} looks like a secret, and a manifest can be read by others: put it into a "
                f'Kubernetes secret, and give secret_environment = {{ {name} = "SECRET/KEY" }}'
            )
        for name, place in self.secret_environment.items():
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*/[\w.-]+", str(place)):
                # Not the value itself: it may be the secret.
                raise ConfigError(
                    f"secret_environment {name} names no key of a Kubernetes secret: give SECRET/KEY, such as "
                    '"bucket-keys/secret-key"'
                )


def near(word: Any, known: Any) -> str:
    """The known word that is meant perhaps, as a hint in an error; nothing where none is like it."""
    found = get_close_matches(str(word), [str(one) for one in known], n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _literal_secrets(value: Any) -> Iterator[str]:
    """Names of variables with a value of their own, in parts of a pod, that look like a secret's."""
    if isinstance(value, Mapping):
        if "value" in value and _SECRET.search(str(value.get("name", ""))):
            yield str(value["name"])
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _literal_secrets(one)
