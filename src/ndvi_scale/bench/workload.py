"""What a row computes: items of an archive made for it, on as many days as wanted, and the plan of them."""

from __future__ import annotations

import copy
import datetime as dt
import json
import math
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import pystac

from ndvi_scale.bench.archive import equal_blocks, make_archive
from ndvi_scale.bench.origin import Origin, Pace, serve
from ndvi_scale.config import RunConfig
from ndvi_scale.plan import build_plan
from ndvi_scale.readers.patience import HEADER_BYTES
from ndvi_scale.sandbox.archive import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ndvi_scale.bench.rows import Cell
    from ndvi_scale.plan import Plan

FIRST: Final = dt.date(2021, 6, 1)
REVISIT: Final = 5
"""Days from one to the next, as two Sentinel-2 satellites have it."""
A_MONTH: Final = 6
"""Dates in a month, whatever its length: so months are alike."""


def days_of(workload: str, count: int) -> list[dt.date]:
    """So many days: one after another for daily layers, `A_MONTH` in each month for monthly ones."""
    if workload == "daily":
        return [FIRST + dt.timedelta(days=number) for number in range(count)]
    months = [divmod(FIRST.month - 1 + number // A_MONTH, 12) for number in range(count)]
    return [
        dt.date(FIRST.year + years, month + 1, 1 + REVISIT * (number % A_MONTH))
        for number, (years, month) in enumerate(months)
    ]


def regions_of(workload: str, tile: int, chunk: int, dates: int) -> int:
    """Regions of so many dates of a tile."""
    layers = dates if workload == "daily" else math.ceil(dates / A_MONTH)
    return layers * math.ceil(tile / chunk) ** 2


def dates_of(cell: Cell) -> int:
    """Dates that a cell's regions take: the other way round than `regions_of`."""
    layers = cell.regions // math.ceil(cell.tile / cell.chunk) ** 2
    return layers if cell.workload == "daily" else layers * A_MONTH


def items_of(archive: Path, base: str, days: Iterable[dt.date]) -> list[pystac.Item]:
    """An item a day, each with files of its own to the reader: copies, by name, of the archive's few."""
    features = json.loads((archive / "items.json").read_text(encoding="utf-8"))["features"]
    return [
        pystac.Item.from_dict(_moved(features[number % len(features)], day, base.format(number), archive))
        for number, day in enumerate(days)
    ]


def _moved(feature: Mapping[str, Any], day: dt.date, base: str, archive: Path) -> dict[str, Any]:
    was = dt.datetime.fromisoformat(feature["properties"]["datetime"])
    item = later(feature, dt.datetime.combine(day, was.time(), was.tzinfo) - was)
    for asset in item["assets"].values():
        asset["href"] = f"{base}/{archive.name}/{asset['href'].removeprefix('./')}"
    return item


def later(feature: Mapping[str, Any], shift: dt.timedelta) -> dict[str, Any]:
    """The same acquisition on a later day, under that day's names."""
    properties = feature["properties"]
    was = dt.datetime.fromisoformat(properties["datetime"])
    day, other = (f"{when:%Y%m%d}" for when in (was, was + shift))
    item = copy.deepcopy(dict(feature))
    item["id"] = feature["id"].replace(day, other)
    for name, value in properties.items():
        if isinstance(value, str):
            item["properties"][name] = value.replace(day, other)
    item["properties"]["datetime"] = (was + shift).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return item


@dataclass
class Sources:
    """Archives and the servers before them, each made or started when it is first needed, until the block ends.

    Archives stay in the folder, and are found there again.
    """

    folder: Path
    say: Callable[[str], None]
    pace: Pace = field(default_factory=Pace)
    """How slowly servers answer where no node is emulated, and where they listen."""
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)
    _origins: dict[int, Origin] = field(default_factory=dict, repr=False)

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the servers."""
        self._stack.close()

    def archive(self, cell: Cell) -> Path:
        """The COGs of a cell's tile: in one block where the tile is smaller than one."""
        recipe = equal_blocks(cell.tile, min(cell.tile, BLOCK))
        return make_archive(self.folder / "archives", recipe, self.say)

    def origin(self, cell: Cell) -> Origin:
        """The server that a cell reads from, which keeps an emulated node waiting as long as the cell says."""
        rate = self.pace.rate
        if cell.seconds is not None:
            rate = max(1024, round(self._red_bytes(cell) / cell.seconds))
        if rate not in self._origins:
            root, folder = self.folder / "archives", self.folder / f"origin-{rate}"
            self._origins[rate] = self._stack.enter_context(serve(root, folder, replace(self.pace, rate=rate)))
        return self._origins[rate]

    def _red_bytes(self, cell: Cell) -> float:
        """Bytes of red for a region, its header too: of the three files, read side by side, the largest."""
        files = [file.stat().st_size for file in self.archive(cell).rglob("red.tif")]
        blocks = math.ceil(cell.tile / cell.chunk) ** 2
        days = 1 if cell.workload == "daily" else A_MONTH
        return days * (statistics.mean(files) + HEADER_BYTES) / blocks

    def items(self, cell: Cell, tag: str) -> list[pystac.Item]:
        """A cell's items. Under another tag they are other files to whoever reads them, with the same pixels."""
        archive, days = self.archive(cell), days_of(cell.workload, dates_of(cell))
        if cell.source == "files":
            return items_of(archive, archive.parent.resolve().as_uri(), days)
        return items_of(archive, f"{self.origin(cell).url}/{tag}/copy-{{}}", days)


def config_of(cell: Cell) -> RunConfig:
    """What a cell's run is asked for."""
    if cell.workload == "monthly":
        return RunConfig(chunk=cell.chunk, shard=cell.shard, period="month", reducer="median")
    return RunConfig(chunk=cell.chunk, shard=cell.shard)


def plan_of(cell: Cell, items: list[pystac.Item]) -> Plan:
    """The plan of a cell. Raises ConfigError where the settings do not fit one another."""
    return build_plan(items, config_of(cell))
