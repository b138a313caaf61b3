"""A plan as files and back: JSON for what is small, Parquet for the item table and the region index.

Pure: bytes out, bytes in. `plan.json` is to be written last: where it is, the plan is whole.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import defaultdict
from itertools import chain
from sys import intern
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from odc.geo.geobox import GeoBox

from ndvi_scale.config import RunConfig
from ndvi_scale.errors import StoreError
from ndvi_scale.garbage import seldom_collected
from ndvi_scale.granules import Asset, Dropped, Granule
from ndvi_scale.lattice import Lattice, PerGrid, Region
from ndvi_scale.periods import Period, one_day
from ndvi_scale.plan import Plan
from ndvi_scale.sentinel2 import BANDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLAN: Final = "plan.json"
ITEMS: Final = "items.parquet"
REGIONS: Final = "regions.parquet"
FORMAT: Final = 2
BATCH: Final = 10_000
"""Rows of a table that are Python objects at once."""
REPLACED: Final = 3
"""Format of a plan that took another one's place: its tables have names of their own, which its head tells."""


def table_names(head: bytes) -> tuple[str, str]:
    """Names of the item table and the region index that belong to a `plan.json`. Raises ValueError, TypeError."""
    values = json.loads(head)
    named = values.get("tables", {}) if isinstance(values, dict) else {}
    return named.get("items", ITEMS), named.get("regions", REGIONS)


def encode_plan(plan: Plan) -> dict[str, bytes]:
    """Name → bytes of the plan's files, `plan.json` last.

    The tables of plans that an output has one after the other have different names, so that writing those of the
    next leaves the one before whole until `plan.json` is overwritten.
    """
    number = len(plan.ancestors)
    names = [name.replace(".", f".{number}.") if number else name for name in (ITEMS, REGIONS)]
    tables = dict(zip(names, (_parquet(_item_table(plan)), _parquet(_region_table(plan))), strict=True))
    head = {
        "format": REPLACED if number else FORMAT,
        "id": plan.id,
        "config_digest": plan.config.digest(),
        "config": plan.config.as_dict(),
        "lattice": {"chunk": plan.lattice.side, **_grid_dict(plan.lattice.geobox)},
        "days": [layer.start.isoformat() for layer in plan.layers],
        "dropped": [{"id": item.id, "reason": item.reason} for item in plan.dropped],
    }
    if plan.config.period is not None:  # else each layer is one day, as in all plans before there were periods
        head["ends"] = [layer.end.isoformat() for layer in plan.layers]
    if number:
        head["tables"] = dict(zip(("items", "regions"), names, strict=True))
        head["ancestors"] = list(plan.ancestors)
    head["checksum"] = _checksum(head, tables)
    return {**tables, PLAN: json.dumps(head, indent=1).encode()}


def _checksum(head: Mapping[str, Any], tables: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over all that a plan's files say, to know an edited or mixed one."""
    said = {key: value for key, value in head.items() if key != "checksum"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in table_names(json.dumps(said).encode()):
        digest.update(tables[name])
    return digest.hexdigest()


@seldom_collected()
def decode_plan(files: Mapping[str, bytes]) -> Plan:
    """The inverse of `encode_plan`. Raises StoreError for files of another format or that do not fit."""
    head = json.loads(files[PLAN])
    if not isinstance(head, dict):
        raise StoreError("the stored plan is no JSON object: use --overwrite")
    if head.get("format") not in {FORMAT, REPLACED}:
        raise StoreError(
            f"the stored plan has format {head.get('format')}, this version reads {FORMAT} and {REPLACED}: "
            "finish the run with the version that began it, or use --overwrite"
        )
    if _checksum(head, files) != head["checksum"]:
        raise StoreError("the stored plan does not match its own checksum: it was edited or mixed; use --overwrite")
    items, regions = (_table(files[name]) for name in table_names(files[PLAN]))
    granules, spares = _read_items(items)
    plan = Plan(
        config=RunConfig.from_dict(head["config"]),
        lattice=Lattice(_grid(head["lattice"]), head["lattice"]["chunk"]),
        layers=_layers(head),
        granules=granules,
        index=_read_regions(regions),
        dropped=tuple(Dropped(item["id"], item["reason"]) for item in head["dropped"]),
        spares=spares,
        ancestors=tuple(head.get("ancestors", ())),
        since=_read_since(regions),
    )
    # Where the algorithm has changed meanwhile, nothing that was computed by a plan before counts any more.
    return plan if plan.id == head["id"] else plan.as_first()


def _layers(head: Mapping[str, Any]) -> tuple[Period, ...]:
    starts = [dt.date.fromisoformat(day) for day in head["days"]]
    if "ends" not in head:
        return tuple(map(one_day, starts))
    ends = [dt.date.fromisoformat(day) for day in head["ends"]]
    return tuple(Period(*pair) for pair in zip(starts, ends, strict=True))


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue().to_pybytes()


def _table(data: bytes) -> pa.Table:
    # In this thread, and from no file object of Python: one of Arrow's threads that wants the interpreter when that
    # ends aborts the process (1 of 8 refused runs, with Arrow 26).
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)


def _region_table(plan: Plan) -> pa.Table:
    """A million regions as columns: as dictionaries they would fill gigabytes."""
    places = np.fromiter(chain.from_iterable(plan.index), np.int64, 3 * len(plan.index)).reshape(-1, 3)
    ends = np.cumsum([0, *map(len, plan.index.values())], dtype=np.int32)
    rows = np.fromiter(chain.from_iterable(plan.index.values()), np.int64, int(ends[-1]))
    columns = {name: pa.array(places[:, number]) for number, name in enumerate(Region._fields)}
    table = pa.table({**columns, "granules": pa.ListArray.from_arrays(pa.array(ends), pa.array(rows))})
    if not plan.ancestors:
        return table
    return table.append_column("since", pa.array([plan.since.get(region, 0) for region in plan.index]))


def _read_regions(table: pa.Table) -> dict[Region, tuple[int, ...]]:
    """The inverse of `_region_table`; regions with the same granules share them."""
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    index: dict[Region, tuple[int, ...]] = {}
    for part in table.to_batches(BATCH):
        places = (part.column(name).to_pylist() for name in Region._fields)
        for region, rows in zip(map(Region, *places), part.column("granules").to_pylist(), strict=True):
            own = tuple(rows)
            index[region] = shared.setdefault(own, own)
    return index


def _read_since(table: pa.Table) -> dict[Region, int]:
    if "since" not in table.column_names:
        return {}
    places = (table[name].to_pylist() for name in Region._fields)
    return {
        region: number
        for region, number in zip(map(Region, *places), table["since"].to_pylist(), strict=True)
        if number
    }


def _grid_dict(geobox: GeoBox) -> dict[str, Any]:
    epsg = geobox.crs.to_epsg() if geobox.crs else None
    return {
        "crs": f"EPSG:{epsg}" if epsg else str(geobox.crs),
        "transform": list(geobox.affine)[:6],
        "shape": list(geobox.shape),
    }


def _grid(values: Mapping[str, Any]) -> GeoBox:
    return GeoBox(tuple(values["shape"]), Affine(*values["transform"]), values["crs"])


def _item_table(plan: Plan) -> pa.Table:
    """Granules in their order, then spares, each with the id of the granule that it stands in for."""
    older = [(name, spare) for name, spares in plan.spares.items() for spare in spares]
    granules = [*plan.granules, *(spare for _, spare in older)]
    columns: dict[str, Any] = {
        "stands_in_for": ["" for _ in plan.granules] + [name for name, _ in older],
        "id": [granule.id for granule in granules],
        "datetime": [granule.time for granule in granules],
        "platform": [granule.platform for granule in granules],
        "tile": [granule.tile for granule in granules],
        "datatake": [granule.datatake for granule in granules],
        "baseline": [granule.baseline for granule in granules],
        "generation": [granule.generation for granule in granules],
    }
    for band in BANDS:
        columns[band] = _asset_column([getattr(granule, band) for granule in granules])
    return pa.table(columns)


def _asset_column(assets: Sequence[Asset]) -> pa.StructArray:
    grids = PerGrid(_grid_dict)
    said = [grids[asset.geobox] for asset in assets]
    columns = {
        "href": [asset.href for asset in assets],
        **{key: [grid[key] for grid in said] for key in ("crs", "transform", "shape")},
        "type": [asset.media_type for asset in assets],
        "offset": [asset.offset for asset in assets],
        "evidence": [asset.evidence for asset in assets],
        "overview": [asset.overview for asset in assets],
    }
    return pa.StructArray.from_arrays([pa.array(values) for values in columns.values()], list(columns))


def _read_items(table: pa.Table) -> tuple[tuple[Granule, ...], dict[str, tuple[Granule, ...]]]:
    """The inverse of `_item_table`; granules share their grids and the words that come again."""
    spares: dict[str, list[Granule]] = defaultdict(list)
    known: dict[Any, GeoBox] = {}
    for part in table.to_batches(BATCH):
        for row in part.to_pylist():
            spares[row["stands_in_for"]].append(_granule(row, known))
    return tuple(spares.pop("", ())), {name: tuple(older) for name, older in spares.items()}


def _known_grid(values: Mapping[str, Any], known: dict[Any, GeoBox]) -> GeoBox:
    key = values["crs"], *values["transform"], *values["shape"]
    if key not in known:
        known[key] = _grid(values)
    return known[key]


def _granule(row: Mapping[str, Any], known: dict[Any, GeoBox]) -> Granule:
    assets = {
        band: Asset(
            href=row[band]["href"],
            geobox=_known_grid(row[band], known),
            media_type=intern(row[band]["type"]),
            offset=row[band]["offset"],
            evidence=intern(row[band]["evidence"]),
            overview=row[band].get("overview", 1),  # plans made before overviews could be read do not say
        )
        for band in BANDS
    }
    baseline = row["baseline"]
    return Granule(
        id=row["id"],
        time=row["datetime"].astimezone(dt.UTC),
        platform=intern(row["platform"]),
        tile=intern(row["tile"]),
        datatake=intern(row["datatake"]),
        baseline=None if baseline is None else (baseline[0], baseline[1]),
        generation=row["generation"],
        **assets,
    )
