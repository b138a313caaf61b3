"""A plan as files and back: JSON for what is small, Parquet for the item table and the region index.

Pure: bytes out, bytes in. `plan.json` is to be written last: where it is, the plan is whole.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from odc.geo.geobox import GeoBox

from ndvi_scale.config import RunConfig
from ndvi_scale.errors import StoreError
from ndvi_scale.granules import Asset, Dropped, Granule
from ndvi_scale.lattice import Lattice, Region
from ndvi_scale.periods import Period, one_day
from ndvi_scale.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAN: Final = "plan.json"
ITEMS: Final = "items.parquet"
REGIONS: Final = "regions.parquet"
FORMAT: Final = 2


def encode_plan(plan: Plan) -> dict[str, bytes]:
    """Name → bytes of the plan's files, `plan.json` last."""
    tables = {
        ITEMS: _parquet(_item_rows(plan)),
        REGIONS: _parquet([{**region._asdict(), "granules": rows} for region, rows in plan.index.items()]),
    }
    head = {
        "format": FORMAT,
        "id": plan.id,
        "config_digest": plan.config.digest(),
        "config": plan.config.as_dict(),
        "lattice": {"chunk": plan.lattice.side, **_grid_dict(plan.lattice.geobox)},
        "days": [layer.start.isoformat() for layer in plan.layers],
        "dropped": [{"id": item.id, "reason": item.reason} for item in plan.dropped],
    }
    if plan.config.period is not None:  # else each layer is one day, as in all plans before there were periods
        head["ends"] = [layer.end.isoformat() for layer in plan.layers]
    head["checksum"] = _checksum(head, tables)
    return {**tables, PLAN: json.dumps(head, indent=1).encode()}


def _checksum(head: Mapping[str, Any], tables: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over all that a plan's files say, to know an edited or mixed one."""
    said = {key: value for key, value in head.items() if key != "checksum"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in (ITEMS, REGIONS):
        digest.update(tables[name])
    return digest.hexdigest()


def decode_plan(files: Mapping[str, bytes]) -> Plan:
    """The inverse of `encode_plan`. Raises StoreError for files of another format or that do not fit."""
    head = json.loads(files[PLAN])
    if not isinstance(head, dict):
        raise StoreError("the stored plan is no JSON object: use --overwrite")
    if head.get("format") != FORMAT:
        raise StoreError(
            f"the stored plan has format {head.get('format')}, this version reads {FORMAT}: "
            "finish the run with the version that began it, or use --overwrite"
        )
    if _checksum(head, files) != head["checksum"]:
        raise StoreError("the stored plan does not match its own checksum: it was edited or mixed; use --overwrite")
    granules, spares = _read_items(_rows(files[ITEMS]))
    return Plan(
        config=RunConfig.from_dict(head["config"]),
        lattice=Lattice(_grid(head["lattice"]), head["lattice"]["chunk"]),
        layers=_layers(head),
        granules=granules,
        index={Region(row["layer"], row["iy"], row["ix"]): tuple(row["granules"]) for row in _rows(files[REGIONS])},
        dropped=tuple(Dropped(item["id"], item["reason"]) for item in head["dropped"]),
        spares=spares,
    )


def _layers(head: Mapping[str, Any]) -> tuple[Period, ...]:
    starts = [dt.date.fromisoformat(day) for day in head["days"]]
    if "ends" not in head:
        return tuple(map(one_day, starts))
    ends = [dt.date.fromisoformat(day) for day in head["ends"]]
    return tuple(Period(*pair) for pair in zip(starts, ends, strict=True))


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="zstd")
    return buffer.getvalue().to_pybytes()


def _rows(data: bytes) -> list[dict[str, Any]]:
    # In this thread, and from no file object of Python: one of Arrow's threads that wants the interpreter when that
    # ends aborts the process (1 of 8 refused runs, with Arrow 26).
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist()


def _grid_dict(geobox: GeoBox) -> dict[str, Any]:
    epsg = geobox.crs.to_epsg() if geobox.crs else None
    return {
        "crs": f"EPSG:{epsg}" if epsg else str(geobox.crs),
        "transform": list(geobox.affine)[:6],
        "shape": list(geobox.shape),
    }


def _grid(values: Mapping[str, Any]) -> GeoBox:
    return GeoBox(tuple(values["shape"]), Affine(*values["transform"]), values["crs"])


def _item_rows(plan: Plan) -> list[dict[str, Any]]:
    """Granules in their order, then spares, each with the id of the granule that it stands in for."""
    used = [{"stands_in_for": "", **_granule_row(granule)} for granule in plan.granules]
    return used + [
        {"stands_in_for": name, **_granule_row(spare)} for name, spares in plan.spares.items() for spare in spares
    ]


def _read_items(rows: list[dict[str, Any]]) -> tuple[tuple[Granule, ...], dict[str, tuple[Granule, ...]]]:
    """The inverse of `_item_rows`."""
    spares: dict[str, list[Granule]] = defaultdict(list)
    for row in rows:
        spares[row["stands_in_for"]].append(_granule(row))
    return tuple(spares.pop("", ())), {name: tuple(older) for name, older in spares.items()}


def _granule_row(granule: Granule) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": granule.id,
        "datetime": granule.time,
        "platform": granule.platform,
        "tile": granule.tile,
        "datatake": granule.datatake,
        "baseline": None if granule.baseline is None else list(granule.baseline),
        "generation": granule.generation,
    }
    for band, asset in granule.assets.items():
        row[band] = {
            "href": asset.href,
            **_grid_dict(asset.geobox),
            "type": asset.media_type,
            "offset": asset.offset,
            "evidence": asset.evidence,
            "overview": asset.overview,
        }
    return row


def _granule(row: Mapping[str, Any]) -> Granule:
    assets = {
        band: Asset(
            href=row[band]["href"],
            geobox=_grid(row[band]),
            media_type=row[band]["type"],
            offset=row[band]["offset"],
            evidence=row[band]["evidence"],
            overview=row[band].get("overview", 1),  # plans made before overviews could be read do not say
        )
        for band in ("red", "nir", "scl")
    }
    baseline = row["baseline"]
    return Granule(
        id=row["id"],
        time=row["datetime"].astimezone(dt.UTC),
        platform=row["platform"],
        tile=row["tile"],
        datatake=row["datatake"],
        baseline=None if baseline is None else (baseline[0], baseline[1]),
        generation=row["generation"],
        **assets,
    )
