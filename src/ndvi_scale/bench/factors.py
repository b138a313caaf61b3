"""The factor table: the cluster sizes, chunks, stores and stages to compare, from TOML to rows in order."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.bench.origin import LOOPBACK
from ndvi_scale.bench.rows import MOST, STAGES, Cell
from ndvi_scale.bench.workload import A_MONTH, config_of, regions_of
from ndvi_scale.cluster.spec import near
from ndvi_scale.errors import ConfigError
from ndvi_scale.tomlfile import read_toml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


KINDS: Final = {
    "strong": "fixed work, workers vary",
    "weak": "work grows with the workers",
    "granularity": "chunk size varies, workers do not",
    "stages": "each stage alone, and all of them",
    "storage": "where the output goes varies",
}

OWN: Final = Path(__file__).parent
"""Where the tables are that come with the package: ``full.toml`` and ``quick.toml``."""

LEAST_REPEATS: Final = 3
"""Of a row: a median of two is a mean. Runs of one cell vary by 11 % (median of 369 published cells), so five or
more tell 10 % apart, three do not."""

MOST_REPEATS: Final = 100

MOST_TILE: Final = 10_976
"""Pixels along the side of a tile of Sentinel-2 at 10 m (10,980), in whole blocks of 16."""

MOST_REGIONS: Final = 1_000_000
"""Of a row: what a plan was measured with."""

LONGEST: Final = 3600.0
"""Seconds that an answer of the origin may be put off, or a node may wait for a region."""

DEAREST: Final = 1_000_000
"""Price of a worker-hour, in any currency."""

COMPARED: Final = {"granularity": "chunks", "stages": "stages", "storage": "stores"}
"""Kind → what it varies."""


@dataclass(frozen=True)
class Study:
    """One question to the machine: a line of factors, each varied in all combinations."""

    name: str
    kind: str
    """One of `KINDS`."""
    clusters: tuple[str, ...] = ("local",)
    """Profiles, or kinds of clusters."""
    workers: tuple[int, ...] = (1, 2, 4, 8)
    threads: int = 1
    """Of a worker."""
    chunks: tuple[int, ...] = (1024,)
    shard: int | None = None
    stores: tuple[str, ...] = ("disk",)
    """``disk``, or a name in the table's ``[store]``."""
    workloads: tuple[str, ...] = ("daily",)
    """``daily``, ``monthly``."""
    stages: tuple[str, ...] = ("full",)
    tile: int | None = None
    """Pixels along the side of what is read of each day; a chunk's by default, so that a region is a file."""
    dates: int = 8
    """Days to compute; in a weak study, for each worker."""
    source: str = "origin"
    """``origin`` or ``files``."""
    seconds: float | None = None
    """Emulate nodes: each waits so long for the bytes of a region."""

    def __post_init__(self) -> None:
        """Refuse what could never be measured. Raises ConfigError."""
        self._one_of("kind", (self.kind,), KINDS)
        self._one_of("workloads", self.workloads, ("daily", "monthly"))
        self._one_of("stages", self.stages, STAGES)
        self._one_of("source", (self.source,), ("origin", "files"))
        for name in ("workers", "chunks", "clusters", "stores", "workloads", "stages"):
            self._require_distinct(name)
        for name in ("threads", "dates", "tile", "shard"):
            self._require_some(name, getattr(self, name))
        for name in ("workers", "chunks"):
            for value in getattr(self, name):
                self._require_some(name, value)
        if not self.name.strip() or "," in self.name:
            raise self._wrong("name", self.name, "is empty, or has a comma, which parts names after --only")
        if self.seconds is not None and not 0 < self.seconds <= LONGEST:
            raise self._wrong("seconds", self.seconds, f"is no time to wait: give above 0 to {LONGEST:g}")
        if self.seconds is not None and self.source == "files":
            raise self._wrong("source", self.source, "does not wait: emulated nodes (seconds) read from the origin")
        self._require_shapes()
        self._require_sizes()
        for cell in self.cells():
            try:
                config_of(cell)
            except ConfigError as error:
                raise ConfigError(f"study {self.name!r}: {error}") from None

    def _require_shapes(self) -> None:
        """Raises ConfigError for chunks and tiles that do not fit one another."""
        for chunk in (*self.chunks, self.tile or 16):
            if chunk % 16:
                raise self._wrong("chunks or tile", chunk, "is not a multiple of 16, as blocks of COGs are")
            if chunk > MOST_TILE:
                raise self._wrong("chunks or tile", chunk, f"is above {MOST_TILE}, a tile of Sentinel-2")
        for chunk in self.chunks:
            if self.tile is not None and chunk > self.tile:
                raise self._wrong("chunks", chunk, f"is more than the tile's {self.tile}: give a larger tile")

    def _require_sizes(self) -> None:
        """Raises ConfigError for what is too little to compare, or more than can be measured."""
        varied = COMPARED.get(self.kind)
        if varied and len(getattr(self, varied)) == 1:
            raise self._wrong(varied, list(getattr(self, varied)), f"is one: a {self.kind} study compares several")
        if self.kind == "weak" and "monthly" in self.workloads and self.dates % A_MONTH:
            raise self._wrong(
                "dates", self.dates, f"is no multiple of {A_MONTH}, a month: shares would not be equal"
            )
        for key, values in (("workers", self.workers), ("threads", (self.threads,))):
            if max(values) > MOST[key]:
                raise self._wrong(key, max(values), f"is above {MOST[key]:,}")
        most = max(self.dates * (max(self.workers) if self.kind == "weak" else 1), 1)
        tile = self.tile or min(self.chunks)
        if most * (tile / min(self.chunks)) ** 2 > MOST_REGIONS:
            raise self._wrong("dates", self.dates, f"makes more than {MOST_REGIONS:,} regions: give fewer")

    def cells(self) -> Iterator[Cell]:
        """Every combination, in the order of the table."""
        combined = product(self.clusters, self.workers, self.chunks, self.stores, self.workloads, self.stages)
        for cluster, workers, chunk, store, workload, stage in combined:
            dates = self.dates * (workers if self.kind == "weak" else 1)
            tile = self.tile or chunk
            yield Cell(
                study=self.name,
                kind=self.kind,
                cluster=cluster,
                workers=workers,
                threads=self.threads,
                chunk=chunk,
                shard=self.shard,
                store=store,
                workload=workload,
                regions=regions_of(workload, tile, chunk, dates),
                stage=stage,
                tile=tile,
                source=self.source,
                seconds=self.seconds,
            )

    def _one_of(self, key: str, values: tuple[str, ...], known: Any) -> None:
        for value in values:
            if value not in known:
                raise self._wrong(key, value, f"is none of {', '.join(known)}{near(value, list(known))}")

    def _require_distinct(self, key: str) -> None:
        values = getattr(self, key)
        if not values or len(set(values)) < len(values):
            raise self._wrong(key, list(values), "is empty, or names something twice")

    def _require_some(self, key: str, value: int | None) -> None:
        if value is not None and value < 1:
            raise self._wrong(key, value, "is below 1")

    def _wrong(self, key: str, value: object, why: str) -> ConfigError:
        return ConfigError(f"study {self.name!r}: {key} {value!r} {why}")


@dataclass(frozen=True)
class Place:
    """A store that the table gives a name to."""

    url: str
    """Prefix below which each row has an output of its own."""
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """The whole factor table."""

    studies: tuple[Study, ...]
    repeats: int = 5
    seed: int = 1
    delay: float = 0.03
    """Seconds until the origin sends a first byte."""
    rate: int = 80_000_000
    """Bytes a second of a connection to the origin, but for emulated nodes."""
    host: str = LOOPBACK
    """Address of this machine where the origin listens: another than loopback for workers on other machines, in a
    network of one's own, for it serves files to whoever asks."""
    price: float | None = None
    """Of a worker for an hour."""
    currency: str = "USD"
    stores: Mapping[str, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConfigError for what cannot be measured."""
        if not LEAST_REPEATS <= self.repeats <= MOST_REPEATS:
            raise ConfigError(
                f"repeats {self.repeats}: give {LEAST_REPEATS} to {MOST_REPEATS}; runs of a cell vary by a tenth, "
                "so five or more are needed to tell sizes apart"
            )
        if not self.studies:
            raise ConfigError("the factor table has no study: give a [[study]], with a name and a kind")
        names = [study.name for study in self.studies]
        if len(set(names)) < len(names):
            raise ConfigError(f"two studies have one name ({', '.join(names)}): give each its own")
        for study in self.studies:
            for store in study.stores:
                if store != "disk" and store not in self.stores:
                    raise ConfigError(
                        f"study {study.name!r}: store {store!r} is not known: give a table [store.{store}] with "
                        "its url, or disk"
                    )
        if not (0 <= self.delay <= LONGEST and self.rate >= 1):
            raise ConfigError(
                f"delay {self.delay:g} s and rate {self.rate} B/s: give 0 to {LONGEST:g}, and 1 or more"
            )
        if "disk" in self.stores:
            raise ConfigError(
                "store 'disk' is the folder of the results: give yours another name than [store.disk]"
            )
        self._require_host()
        if self.price is not None and not 0 <= self.price <= DEAREST:
            raise ConfigError(f"price {self.price} of a worker-hour: give 0 to {DEAREST:,}, or none")

    def _require_host(self) -> None:
        try:
            ipaddress.IPv4Address(self.host)
        except ValueError:
            raise ConfigError(
                f"host {self.host!r} is no IPv4 address: give one of this machine, such as 10.0.0.5"
            ) from None

    def rows(self) -> list[list[Cell]]:
        """What is measured, in a random order that `seed` gives: groups that share an opened cluster.

        Each repeat is a round through the whole table, so that what drifts (other users, heat) meets all cells
        alike; in a round the groups are shuffled, and the cells within each.
        """
        chance = random.Random(self.seed)  # noqa: S311 - an order, no secret
        found = []
        for repeat in range(self.repeats):
            groups: dict[tuple[str, int, int], list[Cell]] = {}
            for study in self.studies:
                for cell in study.cells():
                    key = cell.cluster, cell.workers, cell.threads
                    groups.setdefault(key, []).append(replace(cell, repeat=repeat))
            order = list(groups.values())
            chance.shuffle(order)
            for group in order:
                chance.shuffle(group)
            found += order
        return found


def read_table(path: Path) -> Table:
    """A factor table from TOML. Raises ConfigError, naming file, key and what is near it."""
    return table_of(read_toml(path, "factor table"), str(path))


def table_of(raw: Mapping[str, Any], where: str) -> Table:
    """A factor table from what TOML gives. Raises ConfigError."""
    _known(raw, [*_SCALARS, "study", "store"], where)
    given: dict[str, Any] = {
        key: _as(kind, raw[key], f"{where}: {key}") for key, kind in _SCALARS.items() if key in raw
    }
    studies = raw.get("study", [])
    if not isinstance(studies, list):
        raise ConfigError(f"{where}: study is a list of tables: write [[study]]")
    return Table(
        studies=tuple(_study(one, f"{where}: study {number}") for number, one in enumerate(studies, 1)),
        stores={name: _place(one, f"{where}: store {name!r}") for name, one in _table(raw, "store", where).items()},
        **given,
    )


_SCALARS: Final = {
    "repeats": int,
    "seed": int,
    "delay": float,
    "rate": int,
    "host": str,
    "price": float,
    "currency": str,
}
_PLURALS: Final = {
    "clusters": str,
    "workers": int,
    "chunks": int,
    "stores": str,
    "workloads": str,
    "stages": str,
}
_SINGLES: Final = {
    "name": str,
    "kind": str,
    "threads": int,
    "shard": int,
    "tile": int,
    "dates": int,
    "source": str,
    "seconds": float,
}


def _study(raw: Any, where: str) -> Study:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} is no table: write [[study]]")
    _known(raw, [one.name for one in fields(Study)], where)
    missing = [key for key in ("name", "kind") if key not in raw]
    if missing:
        raise ConfigError(f"{where} has no {missing[0]}: a study has a name and a kind ({', '.join(KINDS)})")
    given: dict[str, Any] = {
        key: _as(kind, raw[key], f"{where}: {key}") for key, kind in _SINGLES.items() if key in raw
    }
    for key, kind in _PLURALS.items():
        if key in raw:
            values = raw[key] if isinstance(raw[key], list) else [raw[key]]
            given[key] = tuple(_as(kind, value, f"{where}: {key}") for value in values)
    return Study(**given)


def _place(raw: Any, where: str) -> Place:
    if not isinstance(raw, dict) or not raw.get("url"):
        raise ConfigError(f"{where} has no url: give one, such as s3://bucket/bench")
    _known(raw, ["url", "options"], where)
    options = _table(raw, "options", where)
    return Place(
        _as(str, raw["url"], f"{where}: url"),
        tuple((key, _as(str, value, f"{where}: option {key}")) for key, value in options.items()),
    )


def _table(raw: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = raw.get(key, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: {key} is a table, not {found!r}")
    return found


def _known(raw: Mapping[str, Any], keys: list[str], where: str) -> None:
    for key in raw:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key!r}{near(key, keys)}: there are {', '.join(keys)}")


_WORDS: Final = {int: "a whole number", float: "a number", str: "a text"}


def _as(kind: type, value: Any, what: str) -> Any:
    right = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not right or isinstance(value, bool):
        raise ConfigError(f"{what} {value!r} is not {_WORDS[kind]}")
    return kind(value)


def chosen_table(file: str | None, *, quick: bool, only: str | None) -> Table:
    """The table that a command line asks for. Raises ConfigError."""
    if file and quick:
        raise ConfigError(f"{file} and --quick: give the one table or the other")
    path = Path(file).expanduser() if file else OWN / ("quick.toml" if quick else "full.toml")
    table = read_table(path)
    if not only:
        return table
    wanted = [name.strip() for name in only.split(",")]
    known = [study.name for study in table.studies]
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"--only {name!r} is no study of {path}{near(name, known)}: there are {', '.join(known)}"
            )
    return replace(table, studies=tuple(study for study in table.studies if study.name in wanted))
