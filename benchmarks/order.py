"""How many bytes an order of regions and a cache of blocks fetch, over those of the distinct blocks: a simulation.

Real plans over made-up items (one tile; nine tiles), real windows, no pixels. So many regions are in flight at
once, each reading one band's window after another; a window takes a random time, longer for what it has to fetch.
Blocks that are in the cache, or on their way for another region, are not fetched again.

    uv run python benchmarks/order.py
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING

from affine import Affine
from odc.geo.geobox import GeoBox

from archive import granule_items
from ndvi_scale.config import RunConfig
from ndvi_scale.grid import objects_of
from ndvi_scale.lattice import STRIP, Lattice, Region, Window, in_strips
from ndvi_scale.placement import place_granule
from ndvi_scale.plan import Plan, build_plan
from ndvi_scale.readers import touched_blocks
from pages import PAGE, write_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Order = Callable[[Plan], Sequence[Region]]

MIB = 1 << 20
BLOCK = 1024
BLOCK_BYTES = 1_300_000
"""Of a 10 m band, compressed, as measured."""
SCL_BYTES = 100_000
"""Of 1024 x 1024 classes."""
NEIGHBOUR = 784
"""Pixels by which the blocks of a neighbouring MGRS tile are off."""

ALIGNED = "one tile, aligned"
CHUNKS = 1024, 2048, 4096
CACHES = 0, 32, 64, 128, 256
COUNTING = 32, 64, 96
IN_FLIGHT = 2, 4, 8

Block = tuple[str, str, int, int]
"""Granule, band, row, column."""
Windows = dict[Region, list[dict[Block, int]]]
"""Blocks of each window that a region reads, in the order in which it reads them, and how many of their pixels."""


@dataclass(frozen=True)
class Workload:
    """What is read, region by region."""

    plan: Plan
    windows: Windows
    sizes: dict[Block, int]
    """Compressed bytes."""
    pixels: dict[Block, int]
    """Pixels of the image; a block at its edge has fewer than its square."""

    @property
    def bytes(self) -> int:
        """Of the distinct blocks."""
        return sum(self.sizes.values())


def workload(plan: Plan, scl_block: int) -> Workload:
    """What a plan reads where SCL has blocks of this side."""
    windows: Windows = {}
    sizes: dict[Block, int] = {}
    pixels: dict[Block, int] = {}
    sides = {"red": BLOCK, "nir": BLOCK, "scl": scl_block}
    costs = {"red": BLOCK_BYTES, "nir": BLOCK_BYTES, "scl": SCL_BYTES * scl_block**2 // BLOCK**2}
    for region in plan.regions():
        windows[region] = []
        part = plan.lattice.window(region.iy, region.ix)
        for granule in plan.granules_of(region):
            placed = place_granule(plan.lattice.geobox, part, granule.red.geobox)
            for band, side in sides.items() if placed else ():
                native = placed.native.coarser(2) if band == "scl" else placed.native
                found = blocks_of(native, side)
                image = Window(0, 0, *granule.assets[band].geobox.shape)
                windows[region].append({(granule.id, band, *place): area for place, area in found.items()})
                for row, column in found:
                    key = granule.id, band, row, column
                    sizes[key], pixels[key] = costs[band], overlap(image, row, column, side)
    return Workload(plan, windows, sizes, pixels)


def overlap(window: Window, row: int, column: int, side: int) -> int:
    """Pixels that a window has of a block."""
    both = window.overlap(Window(row * side, column * side, side, side))
    return both.height * both.width if both else 0


def blocks_of(window: Window, side: int) -> dict[tuple[int, int], int]:
    """Rows and columns of the blocks that a window touches, and how many of their pixels."""
    rows, columns = touched_blocks(window, (side, side))
    return {(row, column): overlap(window, row, column, side) for row in rows for column in columns}


def misaligned(plan: Plan) -> Plan:
    """The same tile on a lattice that begins between its blocks, as a neighbour's does."""
    old = plan.lattice.geobox
    height, width = old.shape
    corner = old.affine @ Affine.translation(-NEIGHBOUR, -NEIGHBOUR)
    lattice = Lattice(GeoBox((height + NEIGHBOUR, width + NEIGHBOUR), corner, old.crs), plan.lattice.side)
    (granule,) = plan.granules
    return replace(
        plan,
        lattice=lattice,
        index={Region(0, *place): (0,) for place in sorted(objects_of(lattice, granule.red.geobox))},
    )


class Cache:
    """Blocks by least recent use within a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held, self._blocks = limit, 0, OrderedDict[Block, int]()

    def has(self, block: Block) -> bool:
        """Whether it is there; it is then the last to go."""
        if block not in self._blocks:
            return False
        self._blocks.move_to_end(block)
        return True

    def put(self, block: Block, size: int) -> None:
        """Keep it, at the cost of others."""
        self._blocks[block] = size
        self._held += size
        while self._held > self._limit:
            self._held -= self._blocks.popitem(last=False)[1]

    def used(self, block: Block, pixels: int) -> None:
        """A region has had so many of its pixels."""


class CountingCache(Cache):
    """The same, but a block of which all pixels have been had is let go at once: regions do not overlap."""

    def __init__(self, limit: int, pixels: dict[Block, int]) -> None:
        super().__init__(limit)
        self._left = dict(pixels)

    def used(self, block: Block, pixels: int) -> None:
        """See `Cache.used`."""
        self._left[block] -= pixels
        if not self._left[block]:
            self._held -= self._blocks.pop(block, 0)


def fetched(work: Workload, order: Iterable[Region], cache: Cache, in_flight: int) -> float:
    """Bytes fetched over those of the distinct blocks."""
    draw, total = random.Random(0), 0  # noqa: S311 - times, not secrets
    on_the_way: dict[Block, float] = {}
    queue = iter(order)
    running = [(0.0, n, iter(work.windows[region])) for n, region in enumerate(islice(queue, in_flight))]
    heapq.heapify(running)
    while running:
        now, n, windows = heapq.heappop(running)
        window = next(windows, None)
        if window is None:
            for region in islice(queue, 1):
                heapq.heappush(running, (now, n, iter(work.windows[region])))
            continue
        until = now + draw.uniform(0.5, 1.5) * (1 + 0.3 * sum(not cache.has(block) for block in window))
        for block, pixels in window.items():
            if not cache.has(block) and on_the_way.get(block, 0) <= now:
                total += work.sizes[block]
                on_the_way[block] = until
                cache.put(block, work.sizes[block])
            cache.used(block, pixels)
        heapq.heappush(running, (until, n, windows))
    return total / work.bytes


def by_rows(plan: Plan) -> Sequence[Region]:
    """Row after row."""
    return list(plan.regions())


def serpentine(plan: Plan) -> Sequence[Region]:
    """Row after row, every other one from the east."""
    return sorted(plan.regions(), key=lambda r: (r.iy, r.ix if r.iy % 2 == 0 else -r.ix))


def strips(pixels: int) -> Order:
    """Down strips of this many pixels, row after row."""

    def order(plan: Plan) -> Sequence[Region]:
        wide = max(1, pixels // plan.lattice.side)
        return sorted(plan.regions(), key=lambda r: (r.ix // wide, r.iy, r.ix))

    return order


def morton(plan: Plan) -> Sequence[Region]:
    """By interleaved bits of row and column."""

    def key(region: Region) -> int:
        return sum(((region.ix >> b & 1) << 2 * b) + ((region.iy >> b & 1) << 2 * b + 1) for b in range(8))

    return sorted(plan.regions(), key=key)


def hilbert(plan: Plan) -> Sequence[Region]:
    """Along Hilbert's curve."""

    def key(region: Region, side: int = 256) -> int:
        x, y, place, part = region.ix, region.iy, 0, side // 2
        while part:
            right, low = int(x & part > 0), int(y & part > 0)
            place += part * part * ((3 * right) ^ low)
            if not low:
                x, y = (y, x) if not right else (side - 1 - y, side - 1 - x)
            part //= 2
        return place

    return sorted(plan.regions(), key=key)


def chosen(plan: Plan) -> Sequence[Region]:
    """What runs do."""
    return in_strips(plan.regions(), plan.lattice)


ORDERS: dict[str, Order] = {
    "rows": by_rows,
    "serpentine": serpentine,
    "strips of 4096": strips(4096),
    f"strips of {STRIP}, the runs' own": chosen,
    "strips of 16384": strips(16384),
    "Morton": morton,
    "Hilbert": hilbert,
}


def workloads(chunk: int) -> Iterator[tuple[str, list[Workload]]]:
    """Names and what is read, with SCL in blocks of 1024 and of 512."""
    one = build_plan(granule_items(1, 1), RunConfig(chunk=chunk))
    nine = build_plan(granule_items(3, 1), RunConfig(chunk=chunk))
    for name, plan in ((ALIGNED, one), ("one tile, misaligned", misaligned(one)), ("nine tiles", nine)):
        yield name, [workload(plan, side) for side in (1024, 512)]


def worst(
    works: Sequence[Workload], order: Callable[[Plan], Sequence[Region]], mib: int, *, counting: bool
) -> float:
    """The largest ratio over blocks of SCL and numbers in flight."""
    return max(
        fetched(
            work,
            order(work.plan),
            CountingCache(mib * MIB, work.pixels) if counting else Cache(mib * MIB),
            regions,
        )
        for work in works
        for regions in IN_FLIGHT
    )


def table() -> str:
    """Every workload, order and size of the cache."""
    lines = [
        "Bytes fetched over those of the distinct blocks, the worst of",
        f"{', '.join(map(str, IN_FLIGHT))} regions in flight and SCL in blocks of 1024 or 512. Cache in MiB of",
        f"compressed blocks ({BLOCK_BYTES / 1e6} MB a block of a 10 m band, {SCL_BYTES / 1e6} MB of SCL);",
        "the least recently used go first; *counting*: blocks of which all pixels have been had go at once.",
    ]
    heads = [*(f"{mib}" for mib in CACHES), *(f"counting {mib}" for mib in COUNTING)]
    by_chunk = {chunk: dict(workloads(chunk)) for chunk in CHUNKS}
    for name in by_chunk[CHUNKS[0]]:
        lines += [
            "",
            f"**{name}**",
            "",
            f"| chunk | order | {' | '.join(heads)} |",
            "|---" * (len(heads) + 2) + "|",
        ]
        for chunk, (label, order) in product(CHUNKS, ORDERS.items()):
            if name == ALIGNED and order not in (by_rows, chosen):
                continue  # all alike
            sizes = [*((mib, False) for mib in CACHES), *((mib, True) for mib in COUNTING)]
            cells = [f"{worst(by_chunk[chunk][name], order, mib, counting=c):.2f}" for mib, c in sizes]
            lines.append(f"| {chunk} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    text = table()
    write_between(given.page, "order", text)
    print(text)


if __name__ == "__main__":
    main()
