"""A long search of a STAC API in calendar months: a few in flight, each kept, so that it can be taken up again."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ndvi_scale.catalog import parquet_items
from ndvi_scale.errors import ConfigError, SearchError
from ndvi_scale.interval import split_by_month
from ndvi_scale.item_files import save_items
from ndvi_scale.stac_api import api_items
from ndvi_scale.web import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pystac

    from ndvi_scale.interval import Interval
    from ndvi_scale.stac_api import Api, Wanted

logger = logging.getLogger(__name__)

MONTHS_AT_ONCE: Final = 4
"""Searches in flight where the provider names no limit: pages take seconds, and four of them hide that."""

SETTLED: Final = dt.timedelta(days=7)
"""A month counts as over this long after its end: products reach the catalogs hours to days after sensing."""


@dataclass(frozen=True)
class MonthlySearch:
    """One search of an API, in months where it is longer than one."""

    api: Api
    wanted: Wanted
    collection: str
    cache: Path | None = None
    """Folder in which finished months are kept as stac-geoparquet."""
    at_once: int = MONTHS_AT_ONCE

    def items(self) -> Iterator[pystac.Item]:
        """Items in order of months; one on the border of two may come twice.

        Raises SearchError, which says which month failed and how to resume, and ConfigError.
        """
        months = self._months()
        with ThreadPoolExecutor(self.at_once) as pool:
            pending = [pool.submit(self._month_items, month) for month in months]
            try:
                for done, future in enumerate(pending):
                    try:
                        found = future.result()
                    except SearchError as error:
                        if len(months) == 1:
                            raise
                        raise SearchError(f"{error} {self._how_to_resume(months, done)}") from error
                    yield from found
            finally:
                for future in pending:
                    future.cancel()  # the pool then waits for no more than what is in flight

    def _months(self) -> list[Interval | None]:
        if self.wanted.interval is None:
            return [None]
        return [*split_by_month(self.wanted.interval, _now())]

    def _month_items(self, month: Interval | None) -> list[pystac.Item]:
        file = self._file(month)
        kept = None if file is None else _kept_items(file, self.api)
        if kept is not None:
            logger.info("%s: %d items, kept from an earlier search", _label(month), len(kept))
            return kept
        found = list(api_items(self.api, replace(self.wanted, interval=month), self.collection))
        logger.info("%s: %d items", _label(month), len(found))
        if file is not None:
            _keep(found, file)
        return found

    def _file(self, month: Interval | None) -> Path | None:
        """Where a month is kept; None for one that is not over."""
        if self.cache is None or month is None or month.end is None or month.end > _now() - SETTLED:
            return None
        asked = {
            "url": shown(self.api.url),
            "collection": self.collection,
            "month": [month.start and month.start.isoformat(), month.end.isoformat()],
            "area": self.wanted.aoi and self.wanted.aoi.to_geojson(),
            "cloud_cover": self.wanted.cloud_cover and float(self.wanted.cloud_cover),
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return self.cache / f"{_label(month)}-{digest[:24]}.parquet"

    def _how_to_resume(self, months: list[Interval | None], done: int) -> str:
        where = f"The search stopped in {_label(months[done])}, after {done} of {len(months)} months"
        if self.cache is None:
            return f"{where}; with --search-cache DIR (cache= in Python) the same search would resume there."
        return f"{where}, which {self.cache} keeps: the same search resumes there."


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _label(month: Interval | None) -> str:
    if month is None:
        return "all dates"
    if month.start is None:
        return f"until-{month.end:%Y-%m-%d}" if month.end else "all dates"
    return f"{month.start:%Y-%m}"


# What is kept


def _keep(items: list[pystac.Item], file: Path) -> None:
    """Write a month whole or not at all: a search may die at any moment, and others may use the folder."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".") as folder:
            part = Path(folder) / file.name
            if items:
                save_items(items, part)
            else:
                _write_empty(part)
            part.replace(file)
    except SearchError as error:
        logger.warning("%s is not kept: %s", file.name, error)
    except OSError as error:
        raise ConfigError(
            f"search cache {file.parent}: cannot be written ({error.strerror}). Give a folder that can."
        ) from error


def _kept_items(file: Path, api: Api) -> list[pystac.Item] | None:
    """Items of a month that is kept; None where it is not, or not readable any more."""
    if not file.exists():
        return None
    try:
        return list(parquet_items(str(file), api.web))
    except SearchError as error:
        logger.warning("what is kept cannot be read, and is searched again: %s", error)
        return None


def _write_empty(file: Path) -> None:
    """A stac-geoparquet file without rows, which rustac does not write."""
    import pyarrow as pa
    from pyarrow import parquet

    column = {"encoding": "WKB", "geometry_types": []}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    fields = [("type", pa.string()), ("id", pa.string()), ("geometry", pa.binary())]
    schema = pa.schema(fields, metadata={"geo": json.dumps(geo)})
    parquet.write_table(schema.empty_table(), file)
