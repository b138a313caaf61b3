"""What was measured: rows, the environments they were measured in, and the file that keeps both.

A file of JSON lines: an environment before the rows that name it, and a row as soon as it is there, so that a run
that was broken off loses nothing. `read_rows` says what it could not read; it never guesses.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FORMAT: Final = 2
"""Of the file; raised with every change of what a field means."""

LARGEST: Final = 1e18
"""Of any time, size or count: an exabyte. What is larger is no measurement."""

MOST: Final = {"workers": 100_000, "threads": 10_000, "regions": 10_000_000, "chunk": 100_000, "tile": 100_000}
"""Of a cell: what is more was never measured, and could not be reckoned with."""

AN_HOUR: Final = 3600.0
"""Seconds."""

RANKS: Final = {"ok": 2, "degraded": 1}
"""What a row is worth beside one of the same cell: ``failed`` nothing."""

KINDS: Final = ("strong", "weak", "granularity", "stages", "storage")
"""What is varied: workers with the same work, workers with their work, chunk, stage, store."""

STAGES: Final = ("search", "plan", "submit", "read", "kernel", "write", "full")
"""What is timed, as a run goes: finding items, planning, handing regions over (the tasks do nothing), reading
alone, computing alone, writing alone, all of it."""

ALONE: Final = ("search", "plan")
"""Stages in which no worker takes part."""

MOVING: Final = ("read", "kernel", "write", "full")
"""Stages in which pixels are read, computed or written: a rate means something."""


@dataclass(frozen=True)
class Cell:
    """One row of the factor table: what is to be measured."""

    study: str
    """Name of the study in the factor table."""
    kind: str
    """``strong``, ``weak``, ``granularity``, ``stages`` or ``storage``."""
    cluster: str
    """Profile, or kind of cluster."""
    workers: int
    threads: int
    """Of a worker."""
    chunk: int
    """Pixels along a chunk's side."""
    shard: int | None
    """Pixels along a shard's side; None without shards."""
    store: str
    """``disk``, ``s3`` or whatever name the table gives to a store."""
    workload: str
    """``daily`` (NDVI of every day) or ``monthly`` (the median of a month)."""
    regions: int
    """Of the whole row: in a weak study they grow with the workers."""
    stage: str = "full"
    """One of `STAGES`."""
    tile: int = 1024
    """Pixels along the side of what is read of each day."""
    source: str = "origin"
    """``origin`` (HTTP on this machine, with latency and a rate a connection) or ``files``."""
    seconds: float | None = None
    """That an emulated node waits for the bytes of a region, about; None: the source is not slowed down."""
    repeat: int = 0

    @property
    def key(self) -> str:
        """Names the row: the same in every run of the same table."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def emulated(self) -> bool:
        """Whether workers are nodes that wait for a slow connection, and not processors."""
        return self.seconds is not None


@dataclass(frozen=True)
class Row:
    """A cell and what was measured of it. Seconds, bytes; None where a cell has no such thing."""

    cell: Cell
    environment: str
    """Id of the `Environment`."""
    began: str
    """UTC, ISO 8601."""
    order: int
    """Place in the order of the run, from 0."""
    status: str = "ok"
    """``ok``, ``degraded`` (fewer workers than asked for) or ``failed`` (no time counts)."""
    reason: str = ""
    """Why not ok, for a person."""
    arrived: int = 0
    """Workers that were there when the row began."""
    startup: float | None = None
    """Seconds until they were there; not in `wall`. The same for all rows of one cluster that was opened."""
    warmup: float | None = None
    """Seconds of the unmeasured small run before."""
    wall: float | None = None
    """Seconds, from the plan to the finished store; of a stage alone, from the first region handed over on."""
    submit: float | None = None
    """Seconds until the first region was handed over."""
    worker_seconds: float | None = None
    """Sum over regions of the seconds that each took on its worker."""
    busy: float | None = None
    """`worker_seconds` / (wall x threads of all workers)."""
    region_seconds: tuple[float, ...] = ()
    """Of each region, in the order of the plan; at most 1,000, evenly chosen."""
    pixels: int = 0
    """Input pixels of 10 m that were read and computed: regions x days x pixels of a region."""
    bytes_read: int = 0
    requests: int = 0
    bytes_written: int | None = None
    """Of the output on its store, without the state of the run."""
    peak_memory: int | None = None
    """Of the worker that took most, as the kernel says (VmHWM)."""
    memory_limit: int | None = None
    """Of a worker."""
    spilled: int = 0
    transferred: int = 0
    """Bytes between workers."""
    retries: int = 0
    """Regions that were tried again."""
    tasks: int = 0
    worker_cpu: float | None = None
    """Processor seconds of all workers while the row ran."""
    scheduler_cpu: float | None = None
    """Processor seconds of the scheduler's process while the row ran (of a local cluster the driver's too)."""
    driver_cpu: float | None = None
    digest: str = ""
    """`store_digest` of the output: equal in all rows that compute the same."""
    oversubscribed: bool = False
    """More threads than cores on a machine of the workers, which compute (no emulated nodes)."""
    conditions: str = ""
    """Digest of what else it depends on: the source's pace, the store's address, the cluster's profile."""

    @property
    def rate(self) -> float | None:
        """Mpx/s of all workers."""
        return self.pixels / self.wall / 1e6 if self.wall else None

    def cost(self, price: float | None) -> float | None:
        """Worker-hours x `price` of one, start-up not counted; None without a price or a time."""
        return None if price is None or self.wall is None else self.arrived * self.wall / AN_HOUR * price

    @property
    def counts(self) -> bool:
        """Whether its times may be used: those of a degraded row are shown, not used."""
        return self.status == "ok" and self.wall is not None


@dataclass(frozen=True)
class Environment:
    """Where and with what rows were measured."""

    id: str
    """Digest of machine and versions."""
    machine: str
    """Processor's name, cores, memory, kernel: for a person."""
    host: str
    """Digest of the machine's id: tells machines apart, names none."""
    cores: int
    memory: int
    versions: dict[str, str]
    """Python and the packages that matter → version; ``ndvi-scale`` with the commit where there is one."""
    date: str
    price: float | None = None
    """Of a worker for an hour, as the table that was measured last has it."""
    currency: str = "USD"
    scripts: dict[str, str] = field(default_factory=dict)
    """Cluster → job script or manifest that was submitted, where the kind has one."""


@dataclass(frozen=True)
class Measured:
    """What a file holds."""

    rows: tuple[Row, ...]
    """One of a cell in each environment."""
    environments: dict[str, Environment]
    problems: tuple[str, ...] = ()
    """What could not be read, or should not be compared, for a person."""


def append(path: Path, record: Row | Environment) -> None:
    """Add a line to a file, whole or not at all for who reads later: a cut line is told by `read_rows`."""
    kind = "row" if isinstance(record, Row) else "environment"
    line = json.dumps({"format": FORMAT, "type": kind, **asdict(record)}) + "\n"
    cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + line if cut else line)


def read_rows(path: Path) -> Measured:
    """All that a file holds. Raises ConfigError where there is none, or nothing in it can be used."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(
            f"results {path} cannot be read: {error.strerror}; run `ndvi-scale bench` first"
        ) from None
    rows: dict[tuple[str, Cell], Row] = {}
    environments: dict[str, Environment] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = _record(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            last = " (the last line: the run was broken off)" if number == len(lines) else ""
            problems.append(f"line {number} of {path.name} cannot be read and is left out{last}: {_why(error)}")
            continue
        if isinstance(record, Environment):
            environments[record.id] = record
        else:
            place = record.environment, record.cell
            rows[place] = better(rows.get(place), record)
    if not rows:
        why = f": {problems[0]}" if problems else ""
        raise ConfigError(
            f"results {path} hold no row that can be used{why}; measure again with `ndvi-scale bench`"
        )
    orphans = sorted({row.environment for row in rows.values()} - environments.keys())
    if orphans:
        problems.append(f"rows name environments that the file does not hold: {', '.join(orphans)}")
    return Measured(tuple(rows.values()), environments, tuple(problems))


def better(first: Row | None, again: Row) -> Row:
    """Of a row and the same measured again: the latter, unless it went worse."""
    worse = first is not None and RANKS.get(first.status, 0) > RANKS.get(again.status, 0)
    return first if first is not None and worse else again


def _record(found: Any) -> Row | Environment:
    if not isinstance(found, dict):
        raise TypeError(f"{type(found).__name__} is not an object of JSON")
    if found.pop("format") != FORMAT:
        raise ValueError(f"format is not {FORMAT}")
    kind = found.pop("type")
    if kind == "environment":
        environment = Environment(**found)
        _check_types(environment)
        return environment
    if kind != "row":
        raise ValueError(f"type {kind!r} is neither row nor environment")
    cell = Cell(**found.pop("cell"))
    rest: dict[str, Any] = found | {"region_seconds": tuple(found.get("region_seconds") or ())}
    row = Row(cell=cell, **rest)
    _check_cell(cell)
    _check_types(row)
    if row.wall is not None and max(row.region_seconds, default=0) > 2 * row.wall + 1:
        raise ValueError(f"a region of {max(row.region_seconds):.3g} s in a wall of {row.wall:.3g} s")
    return row


def _check_cell(cell: Cell) -> None:
    _check_types(cell)
    for name, known in (("kind", KINDS), ("stage", STAGES)):
        if getattr(cell, name) not in known:
            raise ValueError(f"{name} {getattr(cell, name)!r} is none of {', '.join(known)}")
    for name, most in MOST.items():
        if not 1 <= getattr(cell, name) <= most:
            raise ValueError(f"{name} {getattr(cell, name)} is not from 1 to {most:,}")


_TYPES: Final[dict[str, Any]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "None": type(None),
    "dict[str, str]": dict,
}


def _check_types(record: Cell | Row | Environment) -> None:
    """Whether each field is what its annotation says, and no number is negative or infinite."""
    for one in fields(record):
        value = getattr(record, one.name)
        kinds = [_TYPES[name] for name in str(one.type).split(" | ") if name in _TYPES]
        wrong = bool(kinds) and not any(isinstance(value, kind) for kind in kinds)
        if wrong or (isinstance(value, bool) and one.type != "bool"):
            raise ValueError(f"{one.name} {value!r} is not {one.type}")
        amounts = value if isinstance(value, tuple) else (value,) if isinstance(value, int | float) else ()
        if not all(isinstance(one, int | float) and 0 <= one <= LARGEST for one in amounts):
            raise ValueError(f"{one.name} {_short(value)} is no time, size or count")


def _short(value: object) -> str:
    """A value for a message: a number of hundreds of digits is cut."""
    text = f"{value:.3g}" if isinstance(value, float) else "beyond all measure" if _is_huge(value) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"  # noqa: PLR2004 - a line


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and abs(value) > LARGEST


def _why(error: Exception) -> str:
    return str(error).replace("\n", " ") or type(error).__name__


def to_csv(rows: Sequence[Row], reasons: Mapping[Row, str], price: float | None = None) -> str:
    """One line a row, one column a field: tidy. `reasons`: why rows are not used; `price`: of a worker-hour."""
    out = io.StringIO()
    cell_names = [one.name for one in fields(Cell)]
    row_names = [one.name for one in fields(Row) if one.name not in {"cell", "region_seconds"}]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*cell_names, *row_names, "rate", "cost", "used", "why_not"])
    for row in rows:
        writer.writerow(
            [getattr(row.cell, name) for name in cell_names]
            + [getattr(row, name) for name in row_names]
            + [row.rate, row.cost(price), row not in reasons, reasons.get(row, "")]
        )
    return out.getvalue()
