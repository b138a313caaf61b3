"""What is known of one item's BOA offset: every source of evidence, a sample of pixels, the decision.

Plain values; `report` shows them. Nothing here decides: `sentinel2.resolve_offset` and `guard` do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ndvi_scale import guard, sentinel2
from ndvi_scale.access import open_access
from ndvi_scale.catalog import read_json
from ndvi_scale.errors import ConfigError, ItemError, ReadError, SearchError
from ndvi_scale.granules import granule_from_item, scl_factor
from ndvi_scale.hrefs import REFUSED
from ndvi_scale.kernels import CODE_SCALE, FILL_CODE, MAX_DN, NODATA_DN, cpu
from ndvi_scale.lattice import COG_BLOCK, Window
from ndvi_scale.product import ProductMetadata, parse_product_metadata
from ndvi_scale.search import search_items
from ndvi_scale.sources import SOURCES, access_of
from ndvi_scale.web import answers, is_url, shown, web_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pystac
    from numpy.typing import NDArray

    from ndvi_scale.granules import Granule
    from ndvi_scale.guard import Verdict
    from ndvi_scale.readers import Reader

PERCENTS: Final = (1, 5, 25, 50, 75, 95, 99)
BLOCKS: Final = 9
"""Blocks of 1024 × 1024 pixels that a sample reads: of a whole tile 8 %, about 40 MB."""

METADATA_BYTES: Final = 10_000_000
"""A product's metadata are about 50 kB; what is larger is something else."""

_METADATA_KEYS: Final = ("product_metadata", "product-metadata")
_LAND_TABLE: Final = sentinel2.scl_table(sentinel2.MASKS["land"])
_VEGETATION: Final = 4


@dataclass(frozen=True)
class Evidence:
    """One place that tells something of the offset."""

    source: str
    says: str


@dataclass(frozen=True)
class Decision:
    """The offset of a band in DN and why; None where the item is refused."""

    offset: int | None
    why: str


@dataclass(frozen=True)
class Sample:
    """What some blocks of an item's pixels show."""

    blocks: int
    """Blocks read."""
    of: int
    """Blocks that there are."""
    pixels: int
    """Pixels with a valid DN in red and nir."""
    vegetation: int
    """Of the clear-land pixels, those of SCL 4."""
    percentiles: dict[str, list[float]]
    """``red``, ``nir`` (valid DN) and ``red on land``, ``nir on land`` (SCL 4, 5) → DN at `PERCENTS`;
    absent where there are no such pixels."""
    verdict: Verdict
    """What the clear-land pixels say of the offset in use."""
    median_ndvi: dict[str, float]
    """Offset in DN, as text → median NDVI over SCL 4 and 5, where there is any."""


@dataclass(frozen=True)
class Diagnosis:
    """All that is known of an item's offset."""

    item_id: str
    evidence: tuple[Evidence, ...]
    decisions: dict[str, Decision]
    """By band: red and nir."""
    sample: Sample | None
    """None where the pixels cannot be read."""
    unreadable: str = ""
    """Why not."""


def diagnose(
    item: pystac.Item,
    reader: Reader,
    *,
    offset: int | None = None,
    metadata: str | None = None,
    blocks: int = BLOCKS,
) -> Diagnosis:
    """Gather what is known of an item's offset and look at its pixels.

    `offset` in DN overrides, as for a run; `metadata` is the path of a product's MTD_MSIL2A.xml, in place of the
    item's own. Raises ItemError for an item without red, nir or SCL on a grid, ConfigError for `metadata` that
    cannot be read; pixels that cannot be read are noted.
    """
    decisions = {band: _decide(item, band, offset) for band in ("red", "nir")}
    refused = any(decision.offset is None for decision in decisions.values())
    # A refused item has pixels all the same: look at them as if they carried nothing.
    granule = granule_from_item(item, 0 if refused else offset)
    product, told = _product(item, metadata)
    evidence = (*_of_item(item, offset), *_of_assets(item, granule), *_of_product(product, told))
    try:
        sample, unreadable = take_sample(granule, reader, blocks), ""
    except (ReadError, ItemError) as error:
        sample, unreadable = None, str(error)
    return Diagnosis(item.id, evidence, decisions, sample, unreadable)


def find_item(
    where: str, *, item_id: str | None = None, catalog: str | None = None, collection: str | None = None
) -> pystac.Item:
    """The item in a file or at a URL (`item_id` says which of several), or the one of that id in a catalog.

    Raises ConfigError and SearchError.
    """
    if is_url(where) or Path(where).exists():
        return _the_one(search_items(where), item_id, where)
    if catalog is None:
        raise ConfigError(
            f"{where!r} is no file and no URL: give one, or the id of an item with --catalog and --collection"
        )
    source = SOURCES.get(catalog) or next((known for known in SOURCES.values() if known.url == catalog), None)
    url = (source.url if source else catalog).rstrip("/")
    if source is None and not _is_api(url):
        return _the_one(search_items(catalog, collection=collection), where, catalog)
    collection = collection or (source.collection if source else None)
    if collection is None:
        raise ConfigError(f"the items of {shown(url)} are in several collections: say which with --collection")
    return _the_one(search_items(f"{url}/collections/{collection}/items/{where}"), where, url)


def _is_api(url: str) -> bool:
    if not is_url(url):
        return False
    with web_session() as web:
        return "conformsTo" in read_json(url, web)


def _the_one(items: list[pystac.Item], item_id: str | None, where: str) -> pystac.Item:
    if item_id is None and len(items) == 1:
        return items[0]
    ids = [item.id for item in items]
    some = ", ".join(ids[:5]) + (", …" if len(ids) > len(ids[:5]) else "")
    if item_id is None:
        raise ConfigError(f"{shown(where)} holds {len(items)} items ({some}): say which with --id")
    found = next((item for item in items if item.id == item_id), None)
    if found is None:
        raise SearchError(f"{shown(where)} has no item {item_id!r} (it has {some or 'none'}): check the id")
    return found


# What is said


def _decide(item: pystac.Item, band: str, override: int | None) -> Decision:
    try:
        asset = granule_from_item(item, override).assets[band]
    except ItemError as error:
        return Decision(None, str(error))
    return Decision(asset.offset, asset.evidence)


def _of_item(item: pystac.Item, override: int | None) -> Iterator[Evidence]:
    told = item.properties
    if override is not None:
        yield Evidence("the user", f"{override} DN")
    baselines = [key for key in (*sentinel2.BASELINE_KEYS, "s2:product_uri") if told.get(key)]
    for key in baselines:
        yield Evidence(key, str(told[key]))
    if not baselines:
        yield Evidence("baseline", "not told")
    flags = [key for key in sentinel2.APPLIED_KEYS if told.get(key) is not None]
    for key in flags:
        yield Evidence(key, str(told[key]).lower())
    if not flags:
        yield Evidence("flag", "none says that the offset is in the COGs")
    yield Evidence("collection", item.collection_id or "none")


def _of_assets(item: pystac.Item, granule: Granule) -> Iterator[Evidence]:
    keys, _ = sentinel2.find_asset_keys(item.assets)
    for band in ("red", "nir"):
        asset = item.assets[keys[band]]
        fields = {"type": asset.media_type, "href": asset.href, **asset.extra_fields}
        kind = "JP2, ESA's own file" if sentinel2.is_jp2(fields) else "COG, a copy"
        source = access_of(granule.assets[band].href)
        at = f", at {source.name}" if source else ""
        yield Evidence(f"{band} file", f"asset {keys[band]!r}: {kind}{at}")
        yield Evidence(f"{band} declared", _declared(fields))


def _declared(fields: dict[str, Any]) -> str:
    offset, scale = (sentinel2.raster_field(fields, name) for name in ("offset", "scale"))
    try:
        dn = sentinel2.declared_offset(fields)
    except (ValueError, OverflowError) as error:
        return str(error)
    by = f"scale {scale}" if scale is not None else "no scale"
    return "nothing" if dn is None else f"offset {offset}, {by}: {dn} DN"


def _of_product(product: ProductMetadata | None, told: str) -> Iterator[Evidence]:
    if product is None:
        yield Evidence("product metadata", told)
        return
    yield Evidence("product metadata", f"{told}: baseline {product.baseline}, 1 / {product.quantification:g}")
    for band in ("red", "nir"):
        offset = product.offset(band)
        yield Evidence(f"{band} BOA_ADD_OFFSET", "none, as before 04.00" if offset is None else f"{offset} DN")


def _product(item: pystac.Item, metadata: str | None) -> tuple[ProductMetadata | None, str]:
    """The product's metadata and where they are from; or None and why not."""
    if metadata is not None:
        return parse_product_metadata(_read_small(Path(metadata)), metadata), metadata
    key = next((key for key in _METADATA_KEYS if key in item.assets), None)
    if key is None:
        return None, "not an asset of the item; give --metadata MTD_MSIL2A.xml"
    if REFUSED in item.assets[key].extra_fields:
        return None, f"not read: {item.assets[key].extra_fields[REFUSED]}"
    href = item.assets[key].get_absolute_href() or item.assets[key].href
    try:
        return parse_product_metadata(_fetch(href), shown(href)), shown(href)
    except (ItemError, SearchError, ConfigError, OSError) as error:
        return None, f"not read: {error}"


def _fetch(href: str) -> str | bytes:
    if "://" not in href:
        return _read_small(Path(href))
    if not is_url(href):
        raise ConfigError(f"{shown(href)} is neither a file nor http(s); give --metadata MTD_MSIL2A.xml")
    signed = open_access(href).path.removeprefix("/vsicurl/")
    with web_session(METADATA_BYTES) as web, answers(href):
        return web.request(signed)


def _read_small(path: Path) -> bytes:
    try:
        if path.stat().st_size > METADATA_BYTES:
            raise ConfigError(
                f"{path} has {path.stat().st_size:,} bytes, product metadata fewer than {METADATA_BYTES:,}: give "
                "the product's MTD_MSIL2A.xml"
            )
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give the product's MTD_MSIL2A.xml") from None


# What is seen


@dataclass(frozen=True)
class _Look:
    """One block."""

    dn: dict[str, NDArray[Any]]
    """DN by name, as in `Sample.percentiles`."""
    codes: dict[tuple[int, int], NDArray[Any]]
    """NDVI codes of clear land by pair of offsets."""
    counts: dict[str, int]
    vegetation: int


def take_sample(granule: Granule, reader: Reader, blocks: int = BLOCKS) -> Sample:
    """Percentiles, verdict and NDVI of at most `blocks` blocks, spread over the granule.

    Raises ReadError.
    """
    grid = granule.red.geobox
    windows, total = spread_windows(grid.shape.yx, blocks)
    harmonised = (sentinel2.BOA_OFFSET_DN, sentinel2.BOA_OFFSET_DN)
    offsets = list(dict.fromkeys([(granule.red.offset, granule.nir.offset), (0, 0), harmonised]))
    looks = [_look(granule, reader, window, offsets) for window in windows]
    tally = guard.LandTally([granule])
    for look in looks:
        tally.add({granule.id: look.counts})
    dn = {name: np.concatenate([look.dn[name] for look in looks]) for name in looks[0].dn}
    codes = {pair: np.concatenate([look.codes[pair] for look in looks]) for pair in offsets}
    return Sample(
        blocks=len(windows),
        of=total,
        pixels=dn["red"].size,
        vegetation=sum(look.vegetation for look in looks),
        percentiles={
            name: np.percentile(values, PERCENTS).round().tolist() for name, values in dn.items() if values.size
        },
        verdict=tally.verdicts()[0],
        median_ndvi={
            offset_name(pair): float(np.median(values)) / CODE_SCALE
            for pair, values in codes.items()
            if values.size
        },
    )


def spread_windows(shape: tuple[int, int], blocks: int) -> tuple[list[Window], int]:
    """At most `blocks` (and at least one) of the blocks of a grid, spread evenly, and how many blocks it has."""
    counts = [math.ceil(size / COG_BLOCK) for size in shape]
    side = max(1, math.isqrt(blocks))
    rows, columns = (np.unique(np.linspace(0, count - 1, min(side, count)).round().astype(int)) for count in counts)
    windows = [
        Window(row, column, min(COG_BLOCK, shape[0] - row), min(COG_BLOCK, shape[1] - column))
        for row in (rows * COG_BLOCK).tolist()
        for column in (columns * COG_BLOCK).tolist()
    ]
    return windows, counts[0] * counts[1]


def offset_name(pair: tuple[int, int]) -> str:
    """Offsets of red and nir as one word where they are equal."""
    red, nir = pair
    return str(red) if red == nir else f"red {red}, nir {nir}"


def _look(granule: Granule, reader: Reader, window: Window, offsets: Sequence[tuple[int, int]]) -> _Look:
    factor = scl_factor(granule.red.geobox, granule.scl.geobox)
    red: Any = reader.read(granule.id, granule.red, window)[0]
    nir: Any = reader.read(granule.id, granule.nir, window)[0]
    scl: Any = reader.read(granule.id, granule.scl, window.coarser(factor))[0]
    classes = scl.repeat(factor, axis=0).repeat(factor, axis=1)
    valid = np.logical_and.reduce([(band != NODATA_DN) & (band <= MAX_DN) for band in (red, nir)])
    land = valid & np.isin(classes, (4, 5))
    codes, counts = {}, {}
    for pair in offsets:
        found, counts = cpu.ndvi_codes(red, nir, scl, _LAND_TABLE, pair)
        codes[pair] = found[found != FILL_CODE]
    bands = {"red": red, "nir": nir}
    return _Look(
        dn={name: band[valid] for name, band in bands.items()}
        | {f"{name} on land": band[land] for name, band in bands.items()},
        codes=codes,
        counts=counts,
        vegetation=int(np.count_nonzero(land & (classes == _VEGETATION))),
    )
