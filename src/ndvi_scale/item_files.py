"""Saved searches: items written as one file, and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ndvi_scale.catalog import (
    PARQUET,
    Json,
    absolute_path,
    is_parquet,
    linked_items,
    locate,
    parquet_items,
    read_json,
)
from ndvi_scale.errors import ConfigError, SearchError, StoreError
from ndvi_scale.hrefs import REFUSED, unsigned_fields
from ndvi_scale.web import is_url, web_session

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pystac


JSON = (".json", ".geojson")


def save_items(items: Iterable[pystac.Item], path: str | Path) -> None:
    """Write an item collection (.json, .geojson) or stac-geoparquet (.parquet).

    Asset hrefs are absolute, but relative for files below the folder of `path`, so that it can move whole. No
    href keeps a signature, user or password.
    Raises ConfigError for another extension, StoreError for a folder that does not exist, SearchError when Parquet
    cannot hold the items.
    """
    path = Path(path)
    check_target(path)
    features = [_portable(item, path) for item in items]
    if path.suffix in JSON:
        collection = {"type": "FeatureCollection", "features": features}
        path.write_text(json.dumps(collection), encoding="utf-8")
    else:
        _write_parquet(features, path)


def check_target(path: str | Path) -> None:
    """Refuse where items cannot be saved. Raises ConfigError for another extension, StoreError for no folder."""
    path = Path(path)
    if path.suffix not in {*JSON, *PARQUET}:
        raise ConfigError(f"{path}: items are saved as .json, .geojson or .parquet. Give one of these extensions.")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: the folder {path.parent} does not exist. Make it, or give another path.")


def load_items(path: str | Path) -> list[pystac.Item]:
    """Read what `save_items` wrote, in its order, or any item collection or item. Raises SearchError."""
    where = locate(str(Path(path)))
    with web_session() as web:
        if is_parquet(where):
            return list(parquet_items(where, web))
        return list(linked_items(read_json(where, web), where, web))


def _write_parquet(features: list[Json], path: Path) -> None:
    import rustac

    try:
        rustac.write_sync(str(path), features, format="parquet")
    except OSError:
        raise
    except Exception as error:  # rustac tells numbers that it cannot hold by a bare Exception or OverflowError
        raise SearchError(
            f"{path}: {len(features)} items cannot be written as stac-geoparquet ({error}). Save them as .geojson."
        ) from error


def _portable(item: pystac.Item, path: Path) -> Json:
    feature = item.to_dict(include_self_link=True, transform_hrefs=False)
    # Links to files of a catalog say nothing where this file will be read.
    feature["links"] = [link for link in feature["links"] if is_url(str(link["href"]))]
    folder = Path(absolute_path(path)).parent
    for key, asset in item.assets.items():
        if asset.extra_fields.get(REFUSED):
            continue
        href = asset.get_absolute_href() or asset.href
        if "://" not in href and Path(href).is_relative_to(folder):
            href = f"./{Path(href).relative_to(folder).as_posix()}"
        feature["assets"][key]["href"] = href
    return unsigned_fields(feature)
