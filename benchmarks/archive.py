"""Items of an archive that is not there: as many MGRS tiles and dates as wanted, for what reads no pixel."""

from __future__ import annotations

import datetime as dt

import pystac
from pyproj import Transformer

SIDE = 10_980
EPSG = 32631
CORNER = 399_960, 4_900_020
STEP = 100_020, 99_960
"""Metres from one tile of the zone to the next, east and south; recorded origins have both."""


def granule_items(across: int, dates: int) -> list[pystac.Item]:
    """Items as Earth Search has them, of `across` x `across` neighbouring tiles on each of the dates."""
    to_degrees = Transformer.from_crs(EPSG, 4326, always_xy=True).transform
    items = []
    for number in range(dates):
        for tile in range(across * across):
            row, column = divmod(tile, across)
            x, y = CORNER[0] + column * STEP[0], CORNER[1] - row * STEP[1]
            name = f"31T{chr(67 + column)}{chr(86 - row)}"
            day = dt.datetime(2023, 1, 1, 10, 50, tzinfo=dt.UTC) + dt.timedelta(days=5 * number)
            items.append(_item(name, day + dt.timedelta(seconds=tile), (x, y), _footprint(to_degrees, x, y)))
    return items


def _footprint(to_degrees: Transformer.transform, x: float, y: float) -> list[list[float]]:
    east, south = x + 10 * SIDE, y - 10 * SIDE
    corners = [(x, y), (east, y), (east, south), (x, south), (x, y)]
    return [list(to_degrees(*corner)) for corner in corners]


def _item(tile: str, time: dt.datetime, corner: tuple[int, int], ring: list[list[float]]) -> pystac.Item:
    name = f"S2A_{tile}_{time:%Y%m%d}_0_L2A"
    xs, ys = zip(*ring, strict=True)
    item = pystac.Item(
        id=name,
        geometry={"type": "Polygon", "coordinates": [ring]},
        bbox=[min(xs), min(ys), max(xs), max(ys)],
        datetime=time,
        properties={
            "platform": "sentinel-2a",
            "proj:epsg": EPSG,
            "grid:code": f"MGRS-{tile}",
            "s2:processing_baseline": "05.09",
            "earthsearch:boa_offset_applied": True,
        },
    )
    for band, factor in (("red", 1), ("nir", 1), ("scl", 2)):
        grid = {
            "proj:shape": [SIDE // factor] * 2,
            "proj:transform": [10 * factor, 0, corner[0], 0, -10 * factor, corner[1]],
        }
        href = f"https://example.com/{tile}/{time:%Y/%m/%d}/{band}.tif"
        item.add_asset(band, pystac.Asset(href, media_type="image/tiff; application=geotiff", extra_fields=grid))
    return item
