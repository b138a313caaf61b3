"""The COGs to measure on, made once with the sandbox's ground, sky and storage: a whole tile, nine neighbours."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ndvi_scale.sandbox.archive import BLOCK, Crop, Edge, Granule, GranuleWriter, Pass, item_of, write_catalog
from ndvi_scale.sandbox.scene import Sky, Window, land_of, salt_of, view_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

EPSG: Final = 32631
LEFT, TOP = 300_000, 4_900_020  # metres: the recorded corner of 31TCJ
TILE: Final = 10_980
SEED: Final = 7
FORMAT: Final = 1
"""Of what is made: raised with every change of the pixels."""

STRIP: Final = 128
FEW: Final = 2
"""So many strips are sooner drawn than processes started."""
STATES: Final = (("05.00", False), ("03.01", False), ("05.00", True), ("05.00", False))
"""Baseline and whether the BOA offset is in the pixels, date by date: −1000, 0, 0, −1000 DN are to be added."""
COVER: Final = (0.15, 0.45, 0.05, 0.25)
DAYS: Final = 4

NINE_STEPS: Final = (0, 2828, 5662)
"""Pixels from the first of three neighbouring crops to each. The recorded origins of MGRS tiles are 9996 and 10002
pixels apart, which is 780 and 786 modulo the 1024 of a block; so are these."""
NINE_SIZE: Final = 3812
"""Neighbours then share 978 to 984 pixels, as whole tiles do."""


@dataclass(frozen=True)
class Recipe:
    """One archive: the crops and how many dates of each."""

    name: str
    crops: tuple[Crop, ...]
    days: int
    block: int = BLOCK
    """Pixels along a COG block's side; multiples of 16."""


def whole_tile(size: int = TILE, days: int = DAYS) -> Recipe:
    """31TCJ, by default all of it."""
    return Recipe(f"tile-{size}-{days}", (Crop("31TCJ", EPSG, LEFT, TOP, size),), days)


def equal_blocks(size: int, block: int) -> Recipe:
    """A corner of 31TCJ with three dates that differ in clouds and offset alone: none has the edge of a swath."""
    return Recipe(f"blocks-{size}-{block}", (Crop("31TCJ", EPSG, LEFT, TOP, size),), DAYS - 1, block)


def nine_tiles() -> Recipe:
    """Crops of nine tiles that lie to one another as MGRS tiles do, one date."""
    crops = tuple(
        Crop(f"31T{column}{row}", EPSG, LEFT + 10 * right, TOP - 10 * down, NINE_SIZE)
        for row, down in zip("KJH", NINE_STEPS, strict=True)
        for column, right in zip("CDE", NINE_STEPS, strict=True)
    )
    return Recipe("nine", crops, 1)


def make_archive(parent: Path, recipe: Recipe, say: Callable[[str], None]) -> Path:
    """The folder of an archive in `parent`, made if it is not there; ``items.json`` in it lists the items."""
    directory = parent / recipe.name
    marker = directory / "archive.json"
    wanted = {"format": FORMAT, "seed": SEED}
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == wanted:
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    drafts = directory / "drafts"
    drafts.mkdir(parents=True)
    granules = [granule for seen in _passes(recipe) for granule in _granules(recipe, seen)]
    writers = [GranuleWriter(granule, drafts) for granule in granules]
    _fill(writers, lambda strips: say(f"drawing {strips}"))
    items = []
    for writer in writers:
        say(f"storing {writer.granule.id}")
        paths = writer.finish(directory / "sentinel-2-l2a" / writer.granule.id, recipe.block)
        items.append(item_of(writer.granule, writer.counts, paths))
    write_catalog(directory, items)
    shutil.rmtree(drafts)
    marker.write_text(json.dumps(wanted), encoding="utf-8")
    return directory


def _union(crops: Iterable[Crop]) -> Window:
    windows = [crop.window for crop in crops]
    row, column = min(w.row for w in windows), min(w.col for w in windows)
    bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
    return Window(row, column, bottom - row, right - column)


def _passes(recipe: Recipe) -> list[Pass]:
    """One clear view a date, but for its clouds; the last date's swath ends in the tile."""
    ground = _union(recipe.crops)
    return [
        Pass(
            begins=datetime(2021, 4, 5, 10, 56, 19, tzinfo=UTC) + timedelta(days=15 * day),
            platform="sentinel-2b" if day % 2 else "sentinel-2a",
            relative_orbit=51,
            absolute_orbit=30_000 + 214 * day,
            sky=Sky.over(ground, salt_of(SEED, 1000, day), COVER[day]),
            swath=(Edge(1.0, 0.24, -0.7 * ground.width),) if day == DAYS - 1 else (),
            negative=STATES[day] == ("05.00", False),
        )
        for day in range(recipe.days)
    ]


def _granules(recipe: Recipe, seen: Pass) -> list[Granule]:
    day = (seen.begins - datetime(2021, 4, 5, 10, 56, 19, tzinfo=UTC)).days // 15
    baseline, applied = STATES[day]
    made = seen.begins + timedelta(days=700)
    return [
        Granule(crop, seen, 0, seen.begins + timedelta(seconds=150 + number), made, baseline, applied)
        for number, crop in enumerate(recipe.crops)
    ]


def _fill(writers: list[GranuleWriter], say: Callable[[str], None]) -> None:
    """Draw the ground strip by strip, on all cores, and write what each granule sees of it."""
    granules = [writer.granule for writer in writers]
    strips = list(_strips(_union(granule.crop for granule in granules)))
    with ExitStack() as stack:
        spread = map
        if len(strips) > FEW:
            # Not forked: GDAL and BLAS hold locks in threads that a fork would not take along.
            spawned = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
            spread = stack.enter_context(spawned).map
        for number, drawn in enumerate(spread(partial(_draw, granules), strips), start=1):
            for position, row, arrays in drawn:
                writers[position].write(row, 0, arrays)
            if number % 8 == 0:
                say(f"{number} of {len(strips)} strips")


def _strips(ground: Window) -> Iterator[Window]:
    for row in range(0, ground.height, STRIP):
        yield Window(ground.row + row, ground.col, min(STRIP, ground.height - row), ground.width)


def _draw(granules: list[Granule], strip: Window) -> list[tuple[int, int, dict[str, NDArray[Any]]]]:
    """Of each granule that reaches into a strip: its position, its first row there and its DN."""
    land = land_of(strip, SEED)
    drawn = []
    for seen in {id(granule.seen): granule.seen for granule in granules}.values():
        view = view_of(land, seen.sky, seen.day_of_year, negative=seen.negative)
        for position, granule in enumerate(granules):
            crop = granule.crop.window
            first, end = max(strip.row, crop.row), min(strip.row + strip.height, crop.row + crop.height)
            if granule.seen is not seen or first >= end:
                continue
            left = crop.col - strip.col
            fine = (slice(first - strip.row, end - strip.row), slice(left, left + crop.width))
            ground = Window(first, crop.col, end - first, crop.width).halved()
            data = granule.reaches(ground.rows()[:, None], ground.cols()[None, :])
            drawn.append((position, first - crop.row, _stored(granule, view, fine, data)))
    return drawn


def _stored(granule: Granule, view: Any, fine: tuple[slice, slice], data: NDArray[Any]) -> dict[str, NDArray[Any]]:
    coarse = tuple(slice(part.start // 2, part.stop // 2) for part in fine)
    inside = np.repeat(np.repeat(data, 2, axis=0), 2, axis=1)
    bands = {
        name: granule.dn(values[fine], 1.0, view.saturated[fine]) * inside
        for name, values in (("red", view.red), ("nir", view.nir))
    }
    return {**bands, "scl": view.scl[coarse] * data}
