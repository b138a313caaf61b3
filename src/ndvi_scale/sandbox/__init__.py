"""A believable Sentinel-2 L2A archive from a seed: COGs and STAC as on Earth Search, and the truth beside.

`make_sandbox` is the whole interface. `scene` makes the ground and the sky, `mistakes` what a classification
gets wrong of it, `archive` stores granules, and this file decides what there is to see: three MGRS tiles, the
datatakes, and what went wrong with each.
What the archive holds on purpose: granules that overlap in one UTM zone and across two, all three states of
the BOA offset, a granule that was reprocessed, a split datatake, the edge of a swath, clouds with shadows,
saturated pixels, red reflectance below zero.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj

from ndvi_scale.errors import ConfigError, StoreError
from ndvi_scale.sandbox.archive import (
    BLOCK,
    GROUND_EPSG,
    SATURATED,
    Crop,
    Edge,
    Granule,
    GranuleWriter,
    Pass,
    TruthWriter,
    item_of,
    write_catalog,
)
from ndvi_scale.sandbox.mistakes import mistaken_scl
from ndvi_scale.sandbox.scene import (
    ANCHOR,
    CELL,
    CIRRUS,
    FIRST_ROW_NORTHING,
    HIGH,
    MEDIUM,
    SHADOW,
    Land,
    Sky,
    View,
    Window,
    land_of,
    salt_of,
    view_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Sandbox", "make_sandbox"]

TILE_SIZE = 10980  # pixels of 10 m: an MGRS tile of Sentinel-2 is 109.8 km
TILES = {  # EPSG, left and top in metres: the recorded origins of these tiles
    "31TCJ": (GROUND_EPSG, 300_000, 4_900_020),
    "31TCH": (GROUND_EPSG, 300_000, 4_800_000),
    "30TYP": (32630, 699_960, 4_900_020),  # the same ground in the next zone
}
REAL_OVERLAP = 978  # rows that 31TCJ and 31TCH share
DEFAULT_SIZE = 1536
SMALLEST = 64
MOST_DATES = 57  # the last day is then before 2022-01-25, when baseline 04.00 became the current one
FIRST_DAY = date(2021, 4, 5)
SPARSE_DATES = 16  # as many may be 15 days apart: the last is then in November
SPLIT, REPROCESSED = 1, 2  # numbers of the dates with a split datatake and with a granule processed twice
COVER = (0.72, 0.02, 0.22, 0.10, 0.38, 0.0)  # share of cloud, by turns
STATES = (("03.01", False), ("05.00", False), ("05.00", True))  # baseline, offset applied; by turns
MASKED = np.zeros(256, dtype=bool)
MASKED[[0, 1, SHADOW, MEDIUM, HIGH, CIRRUS]] = True
FILL = -32768
STRIP = 256  # rows worked on at a time: bounds memory, also for whole tiles
UNFINISHED = ".ndvi-scale-sandbox"  # marker, and home of drafts, while an archive is being made
FORMAT = 1  # of what is made: to be raised with every change of the pixels


@dataclass(frozen=True)
class Sandbox:
    """Where a sandbox lies, and a region and dates to try on it."""

    directory: Path
    catalog: Path
    """Static catalog; its links are relative."""
    items: Path
    """FeatureCollection of all items; hrefs relative to its folder."""
    geoparquet: Path
    """The same items as stac-geoparquet."""
    truth: Path
    """Folder of ``ndvi_YYYYMMDD.tif`` (int16 codes, NDVI x 10000, everywhere; -32768 where NDVI is outside
    [-1, 1] or red + nir <= 0) and ``valid_YYYYMMDD.tif`` (uint8, 1 where a zone-31 granule shows the ground,
    with `missed_clouds` where its scene classes say so) on the EPSG:32631 lattice of the two zone-31 crops."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees: inside the zone-31 crops, around their overlap."""
    datetime: str
    """First and last day, ``2021-04-05/2021-06-19``."""


def make_sandbox(
    directory: Path,
    *,
    seed: int = 0,
    size: int = DEFAULT_SIZE,
    dates: int = 6,
    missed_clouds: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> Sandbox:
    """Make a sandbox in `directory`, or take up the one there if it was made with the same parameters.

    `size`: pixels of 10 m along a granule's side, even, 64 to 10980 (whole tiles). `dates`: 1 to 57 solar
    days, 15 days apart up to 16 of them, else 5; three or more show all that the archive has to show.
    `missed_clouds`: scene classes that err as real ones do (`sandbox.mistakes`); the pixels stay the same.
    Raises `ConfigError` for other values, `StoreError` where `directory` holds anything else.
    """
    _check(size, dates)
    wanted = {"format": FORMAT, "seed": seed, "size": size, "dates": dates, "missed_clouds": missed_clouds}
    crops = place_crops(size)
    passes = [replace(seen, missed_clouds=missed_clouds) for seen in _passes(crops, seed, dates)]
    sandbox = _sandbox(directory, crops, passes)
    if _exists(directory, wanted):
        return sandbox
    say = on_progress or (lambda _: None)
    drafts = directory / UNFINISHED
    drafts.mkdir(parents=True)
    sandbox.truth.mkdir()
    granules = [g for number, seen in enumerate(passes) for g in _granules(crops, seen, number)]
    writers = {granule.id: GranuleWriter(granule, drafts) for granule in granules}
    _fill_ground_zone(sandbox, writers, passes, seed, say)
    _fill_other_zone(writers, crops["30TYP"], passes, seed, say)
    items = []
    for number, (name, writer) in enumerate(writers.items(), start=1):
        paths = writer.finish(directory / "sentinel-2-l2a" / name)
        items.append(item_of(writer.granule, writer.counts, paths))
        say(f"stored {name} ({number} of {len(writers)})")
    write_catalog(directory, items)
    shutil.rmtree(drafts)
    described = wanted | {"bbox": sandbox.bbox, "datetime": sandbox.datetime}
    if not missed_clouds:
        del described["missed_clouds"]  # as sandboxes were described before there was a choice
    (directory / "sandbox.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return sandbox


def _check(size: int, dates: int) -> None:
    if size % 2 or not SMALLEST <= size <= TILE_SIZE:
        msg = f"size must be an even number from {SMALLEST} to {TILE_SIZE}, got {size}: choose for example 1536"
        raise ConfigError(msg)
    if not 1 <= dates <= MOST_DATES:
        raise ConfigError(f"dates must be from 1 to {MOST_DATES}, got {dates}: choose for example 6")


def _exists(directory: Path, wanted: dict[str, Any]) -> bool:
    """Whether the wanted sandbox is there, whole; an error if something else is."""
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise StoreError(f"a sandbox needs a directory, and {directory} is a file: choose another path")
    found = _described(directory / "sandbox.json")
    if found:
        other = {key: found.get(key) for key, value in wanted.items() if found.get(key) != value}
        if not other:
            return True
        raise StoreError(
            f"{directory} holds a sandbox made with {other}, not { ({key: wanted[key] for key in other}) }: "
            "delete it, or choose another directory"
        )
    if (directory / UNFINISHED).exists():
        raise StoreError(f"{directory} holds a sandbox that was not finished: delete it and run again")
    if any(directory.iterdir()):
        raise StoreError(f"a sandbox needs an empty directory, and {directory} is not: choose another")
    return False


def _described(path: Path) -> dict[str, Any]:
    """The parameters a sandbox was made with; empty if the file is missing or not ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {"missed_clouds": False} | found if isinstance(found, dict) and "format" in found else {}


def place_crops(size: int) -> dict[str, Crop]:
    """The stored part of each tile, around `ANCHOR`, with origins on the tile's own 20 m lattice.

    31TCJ and 31TCH share as large a part of their rows as at the default size, at most all they share.
    """
    overlap = min(REAL_OVERLAP, _even(size * REAL_OVERLAP / DEFAULT_SIZE))
    spare = _even((REAL_OVERLAP - overlap) / 2)
    left = min(_even(ANCHOR[1] - 30_000 - size / 2), TILE_SIZE - size) if size < TILE_SIZE else 0
    rows = {"31TCJ": TILE_SIZE - size - spare, "31TCH": REAL_OVERLAP - overlap - spare}
    columns = {"31TCJ": max(0, left), "31TCH": max(0, left)}
    rows["30TYP"], columns["30TYP"] = _corner_in_zone_30(size)
    return {
        name: Crop(name, epsg, x + columns[name] * CELL, y - rows[name] * CELL, size)
        for name, (epsg, x, y) in TILES.items()
    }


def _corner_in_zone_30(size: int) -> tuple[int, int]:
    """Row and column in 30TYP of a crop that has `ANCHOR` in its middle, or as near as the tile allows."""
    epsg, left, top = TILES["30TYP"]
    to = pyproj.Transformer.from_crs(GROUND_EPSG, epsg, always_xy=True)
    x, y = to.transform(ANCHOR[1] * CELL, FIRST_ROW_NORTHING - ANCHOR[0] * CELL)
    row, column = (top - y) / CELL - size / 2, (x - left) / CELL - size / 2
    return min(max(0, _even(row)), TILE_SIZE - size), min(max(0, _even(column)), TILE_SIZE - size)


def _even(value: float) -> int:
    return int(value // 2) * 2


def _union(crops: dict[str, Crop]) -> Window:
    """The ground of the two zone-31 crops."""
    north, south = crops["31TCJ"].window, crops["31TCH"].window
    return Window(north.row, north.col, south.row + south.height - north.row, north.width)


def _passes(crops: dict[str, Crop], seed: int, dates: int) -> list[Pass]:
    """The datatakes: Sentinel-2A and B by turns on orbit 51; every fourth date is orbit 8, three days before.

    Orbit 8 runs further east: its swath ends, from north-north-east to south-south-west, in the crops.
    """
    union = _union(crops)
    apart = 15 if dates <= SPARSE_DATES else 5
    passes = []
    for number in range(dates):
        edge = number % 4 == 0
        day = FIRST_DAY + timedelta(days=apart * number - 3 * edge)
        sky = Sky.over(union, salt_of(seed, 1000, day.toordinal()), COVER[number % len(COVER)])
        begins = datetime.combine(day, time(10, 46, 21) if edge else time(10, 56, 19), UTC)
        passes.append(
            Pass(
                begins=begins,
                platform="sentinel-2b" if number % 2 else "sentinel-2a",
                relative_orbit=8 if edge else 51,
                absolute_orbit=(21_000 if number % 2 else 30_000) + 143 * apart // 10 * number,
                sky=sky,
                swath=(Edge(1.0, 0.24, -0.03 * union.width),) if edge else (),
                negative=STATES[number % 3] == ("05.00", False),
            )
        )
    return passes


def _granules(crops: dict[str, Crop], seen: Pass, number: int) -> list[Granule]:
    """The items of one datatake: one a tile, but for the second date's split and the third's duplicate."""
    baseline, applied = STATES[number % 3]
    granules = []
    for crop, seconds in zip(crops.values(), (149.024, 163.458, 152.871), strict=True):
        sensed = seen.begins + timedelta(seconds=seconds)
        if baseline == "03.01":
            generated = seen.begins + timedelta(hours=3, minutes=21, seconds=seconds // 10)
        else:  # Collection-1 was made in 2023
            generated = seen.begins + timedelta(days=700, hours=5, seconds=seconds // 10)
        granule = Granule(crop, seen, 0, sensed, generated, baseline, applied)
        if number == SPLIT and crop.name == "31TCH":
            granules += _split(granule)
        elif number == REPROCESSED and crop.name == "31TCJ":
            granules += _reprocessed(granule)
        else:
            granules.append(granule)
    return granules


def _split(granule: Granule) -> list[Granule]:
    """Two halves of one granule, from two ground stations, which share a narrow band."""
    middle = (granule.crop.window.row + granule.crop.size // 2 - ANCHOR[0]) // 2
    shared = max(2, granule.crop.size // 64)
    north = Edge(-0.15, -1.0, -middle - shared)
    south = Edge(0.15, 1.0, middle)
    later = timedelta(seconds=4.2)
    parts = {"part": (north,)}, {"part": (south,), "sensed": granule.sensed + later}
    return [
        replace(granule, sequence=k, generated=granule.generated + k * timedelta(minutes=47), **part)
        for k, part in enumerate(parts)
    ]


def _reprocessed(granule: Granule) -> list[Granule]:
    """The first processing of a granule, by an older baseline and calibration, and the one that counts."""
    first = replace(
        granule,
        generated=granule.seen.begins + timedelta(hours=3, minutes=29),
        baseline="03.01",
        applied=False,
        gains=(1.05, 0.97),
        superseded=True,
    )
    return [first, replace(granule, sequence=1, sensed=granule.sensed + timedelta(milliseconds=1))]


def _sandbox(directory: Path, crops: dict[str, Crop], passes: list[Pass]) -> Sandbox:
    return Sandbox(
        directory=directory,
        catalog=directory / "catalog.json",
        items=directory / "items.json",
        geoparquet=directory / "items.parquet",
        truth=directory / "truth",
        bbox=_bbox(_union(crops)),
        datetime=f"{passes[0].day}/{passes[-1].day}",
    )


def _bbox(union: Window) -> tuple[float, float, float, float]:
    """Lon/lat box of the middle of a window: 80 % each way, for the lattice is turned by 1.6 degrees here."""
    to = pyproj.Transformer.from_crs(GROUND_EPSG, 4326, always_xy=True)
    left, top = union.col * CELL, FIRST_ROW_NORTHING - union.row * CELL
    width, height = union.width * CELL, union.height * CELL
    box = to.transform_bounds(
        left + 0.1 * width, top - 0.9 * height, left + 0.9 * width, top - 0.1 * height, densify_pts=21
    )
    west, south, east, north = (round(edge, 5) for edge in box)
    return west, south, east, north


def _strips(height: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each strip."""
    for row in range(0, height, STRIP):
        yield row, min(STRIP, height - row)


def _fill_ground_zone(
    sandbox: Sandbox,
    writers: dict[str, GranuleWriter],
    passes: list[Pass],
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Write the zone-31 granules and the truth, strip by strip from north to south."""
    here = [writer for writer in writers.values() if writer.granule.crop.epsg == GROUND_EPSG]
    union = _union({writer.granule.crop.name: writer.granule.crop for writer in here})
    truths = [TruthWriter(sandbox.truth, seen.day, union) for seen in passes]
    for row, height in _strips(union.height):
        strip = Window(union.row + row, union.col, height, union.width)
        land = land_of(strip, seed)
        for seen, truth in zip(passes, truths, strict=True):
            view = _look(land, seen)
            valid = np.zeros((height, union.width), dtype=np.uint8)
            for writer in here:
                if writer.granule.seen is seen:
                    _write_overlap(writer, strip, view, valid)
            truth.write(row, true_codes(view.clear_red, view.clear_nir), valid)
        say(f"zone 31: {row + height} of {union.height} rows")
    for truth in truths:
        truth.close()


def _look(land: Land, seen: Pass) -> View:
    view = view_of(land, seen.sky, seen.day_of_year, negative=seen.negative)
    return replace(view, scl=mistaken_scl(land, seen.sky, view)) if seen.missed_clouds else view


def _write_overlap(writer: GranuleWriter, strip: Window, view: View, valid: NDArray[np.uint8]) -> None:
    """Write a granule's rows of a strip, if any, and note in `valid` what a correct reader sees of them."""
    granule, crop = writer.granule, writer.granule.crop.window
    first, end = max(strip.row, crop.row), min(strip.row + strip.height, crop.row + crop.height)
    if first >= end:
        return
    fine = slice(first - strip.row, end - strip.row)
    coarse = slice(fine.start // 2, fine.stop // 2)
    ground = Window(first, crop.col, end - first, crop.width).halved()
    data = granule.reaches(ground.rows()[:, None], ground.cols()[None, :])
    stored = _stored(granule, view, data, fine, coarse)
    writer.write(first - crop.row, 0, stored)
    if not granule.superseded:
        shown = np.repeat(np.repeat(~MASKED[stored["scl"]], 2, axis=0), 2, axis=1)
        valid[fine] |= shown & ((stored["red"] != SATURATED) & (stored["nir"] != SATURATED))


def _stored(
    granule: Granule, view: View, data: NDArray[np.bool_], fine: Any, coarse: Any
) -> dict[str, NDArray[Any]]:
    """What a granule stores of a view: `fine` and `coarse` index its 10 m and 20 m arrays.

    `data`: boolean on the 20 m cells; elsewhere all three assets are 0.
    """
    inside = np.repeat(np.repeat(data, 2, axis=0), 2, axis=1)
    red = granule.dn(view.red[fine], granule.gains[0], view.saturated[fine])
    nir = granule.dn(view.nir[fine], granule.gains[1], view.saturated[fine])
    return {"red": red * inside, "nir": nir * inside, "scl": view.scl[coarse] * data}


def _fill_other_zone(
    writers: dict[str, GranuleWriter], crop: Crop, passes: list[Pass], seed: int, say: Callable[[str], None]
) -> None:
    """Write the zone-30 granules: each pixel shows the ground cell in which its centre lies."""
    here = [writer for writer in writers.values() if writer.granule.crop == crop]
    for row, height in _strips(crop.size):
        for col in range(0, crop.size, BLOCK):
            rows, cols = range(row, row + height), range(col, min(col + BLOCK, crop.size))
            _fill_block(here, rows, cols, passes, seed)
        say(f"zone 30: {row + height} of {crop.size} rows")


def _fill_block(writers: list[GranuleWriter], rows: range, cols: range, passes: list[Pass], seed: int) -> None:
    """Write some rows and columns of granules of one crop, for all passes."""
    crop = writers[0].granule.crop
    down, right = _ground_cells(crop, rows, cols, CELL)
    coarse_down, coarse_right = (cells // 2 for cells in _ground_cells(crop, rows, cols, 2 * CELL))
    land = land_of(_around(down, right), seed)
    fine = (down - land.window.row, right - land.window.col)
    coarse = (coarse_down - land.window.row // 2, coarse_right - land.window.col // 2)
    for seen in passes:
        view = _look(land, seen)
        for writer in writers:
            if writer.granule.seen is seen:
                data = writer.granule.reaches(coarse_down, coarse_right)
                writer.write(rows.start, cols.start, _stored(writer.granule, view, data, fine, coarse))


def _around(rows: NDArray[np.int64], cols: NDArray[np.int64]) -> Window:
    """The smallest window of whole 20 m cells, and one more each way, that holds some cells."""
    row, col = _even(int(rows.min())) - 2, _even(int(cols.min())) - 2
    return Window(row, col, _even(int(rows.max()) - row) + 4, _even(int(cols.max()) - col) + 4)


def _ground_cells(crop: Crop, rows: range, cols: range, pixel: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ground rows and columns under the pixels of `pixel` metres in some 10 m rows and columns of a crop.

    Projected at nodes 640 m apart and joined bilinearly: a millimetre off at most (a test checks it).
    """
    to = pyproj.Transformer.from_crs(crop.epsg, GROUND_EPSG, always_xy=True)
    ys, y_nodes = _node_positions(rows, pixel)
    xs, x_nodes = _node_positions(cols, pixel)
    east, north = to.transform(*np.meshgrid(crop.left + x_nodes, crop.top - y_nodes))
    ground_cols = np.floor(_bilinear(east, ys, xs) / CELL).astype(np.int64)
    ground_rows = np.floor((FIRST_ROW_NORTHING - _bilinear(north, ys, xs)) / CELL).astype(np.int64)
    return ground_rows, ground_cols


def _node_positions(pixels: range, pixel: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres of `pixel` metres in some 10 m pixels, in steps from the first node; the nodes, in metres."""
    step = 640
    start, stop = pixels.start * CELL, pixels.stop * CELL
    first = start // step
    centres = (np.arange(start // pixel, stop // pixel) + 0.5) * pixel
    return centres / step - first, np.arange(first, (stop - 1) // step + 2) * step


def _bilinear(
    nodes: NDArray[np.float64], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values at fractional rows and columns of a table, shape (rows, cols)."""
    top, left = np.floor(rows).astype(np.int64), np.floor(cols).astype(np.int64)
    lines = nodes[:, left] + (nodes[:, left + 1] - nodes[:, left]) * (cols - left)
    return lines[top] + (lines[top + 1] - lines[top]) * (rows - top)[:, None]


def true_codes(red: NDArray[np.int32], nir: NDArray[np.int32]) -> NDArray[np.int16]:
    """NDVI x 10000 of integer reflectances, halves to even, in integers alone; `FILL` where there is none.

    There is none where red + nir <= 0 or the ratio is outside [-1, 1].
    """
    difference, total = (nir - red).astype(np.int64), (nir + red).astype(np.int64)
    some = (total > 0) & (np.abs(difference) <= total)
    whole, rest = np.divmod(10_000 * difference, np.where(some, total, 1))
    up = (2 * rest > total) | ((2 * rest == total) & (whole & 1 == 1))
    return np.where(some, whole + up, FILL).astype(np.int16)
