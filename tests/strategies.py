"""What Hypothesis draws: scenes of DN and classes, grids, bounds, lattices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from ndvi_scale.lattice import Lattice
from ndvi_scale.sentinel2 import MASKS, scl_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

EDGE_DN = (0, 1, 2, 700, 999, 1000, 1001, 2000, 32766, 32767, 32768, 65534, 65535)
"""DN on either side of every rule: nodata, the offset, the largest valid DN, wrapped, saturated."""

QUARTER = 4
"""Bounds are drawn in quarters of a pixel, which metres and floats hold exactly."""


@dataclass(frozen=True)
class Scene:
    """All that a kernel takes."""

    red: NDArray[np.uint16]
    nir: NDArray[np.uint16]
    scl: NDArray[np.uint8]
    dropped: frozenset[int]
    offsets: tuple[int, int]
    factor: int

    @property
    def table(self) -> NDArray[np.uint8]:
        return scl_table(self.dropped)

    @property
    def classes(self) -> NDArray[np.uint8]:
        """SCL in the pixels of red."""
        return np.kron(self.scl, np.ones((self.factor, self.factor), np.uint8))

    def run(self, kernel: Callable[..., Any], *, clip: bool = False) -> tuple[NDArray[Any], dict[str, int]]:
        return kernel(self.red, self.nir, self.scl, self.table, self.offsets, clip=clip)

    def crop(self, rows: slice, columns: slice) -> Scene:
        """The part that `rows` and `columns` of SCL pixels cover."""
        fine = tuple(slice(s.start * self.factor, s.stop * self.factor) for s in (rows, columns))
        return Scene(
            self.red[fine], self.nir[fine], self.scl[rows, columns], self.dropped, self.offsets, self.factor
        )


def dropped_classes() -> st.SearchStrategy[frozenset[int]]:
    """Masks: the presets, and any set of classes."""
    return st.one_of(st.sampled_from(sorted(MASKS.values(), key=sorted)), st.frozensets(st.integers(0, 11)))


def offset_pairs() -> st.SearchStrategy[tuple[int, int]]:
    """BOA offsets of red and nir: the usual ones alike for both, different ones, and absurd ones."""
    usual, any_, absurd = (
        st.sampled_from([-1000, -1000, 0, -500]),
        st.integers(-3000, 3000),
        st.integers(-70_000, 70_000),
    )
    return st.one_of(
        usual.map(lambda dn: (dn, dn)),
        usual.map(lambda dn: (dn, dn)),
        st.tuples(any_, any_),
        st.tuples(any_, absurd),
    )


@st.composite
def scenes(
    draw: st.DrawFn,
    *,
    sides: tuple[int, int] = (8, 13),
    factors: tuple[int, ...] = (1, 2, 2, 3, 6),
    offsets: st.SearchStrategy[tuple[int, int]] | None = None,
    max_dn: int = 65535,
) -> Scene:
    """Scenes of `sides` SCL pixels a side.

    Pixels come from a pool of drawn DN (which shrinks) and from a generator with a drawn seed (which is fast),
    in a drawn proportion.
    """
    factor = draw(st.sampled_from(factors))
    height, width = draw(st.tuples(st.integers(*sides), st.integers(*sides)))
    edges = [dn for dn in EDGE_DN if dn <= max_dn]
    dns = st.lists(st.one_of(st.sampled_from(edges), st.integers(0, max_dn)), min_size=6, max_size=20)
    pool = np.array(draw(dns), np.uint16)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.0, 0.3, 0.9]))
    high = min(max_dn, draw(st.sampled_from([65535, 32767, 6000, 1100])))

    def band() -> NDArray[np.uint16]:
        shape = (height * factor, width * factor)
        noise = generator.integers(0, high, shape, dtype=np.uint16, endpoint=True)
        return np.where(generator.random(shape) < share, noise, generator.choice(pool, shape))

    some = np.array(draw(st.lists(st.integers(0, 255), min_size=1, max_size=4)), np.uint8)
    classes = np.concatenate([np.arange(12, dtype=np.uint8), some])
    return Scene(
        red=band(),
        nir=band(),
        scl=generator.choice(classes, (height, width)),
        dropped=draw(dropped_classes()),
        offsets=draw(offsets if offsets is not None else offset_pairs()),
        factor=factor,
    )


@st.composite
def grids(draw: st.DrawFn, *, sides: tuple[int, int] = (1, 300)) -> GeoBox:
    """North-up UTM grids of 10, 20 or 60 m whose corners lie on whole pixels."""
    step = draw(st.sampled_from([10.0, 20.0, 60.0]))
    x0, y0 = 300_000 + step * draw(st.integers(-500, 500)), 4_900_020 + step * draw(st.integers(-500, 500))
    shape = draw(st.tuples(st.integers(*sides), st.integers(*sides)))
    return GeoBox(shape, Affine(step, 0, x0, 0, -step, y0), draw(st.sampled_from(["EPSG:32631", "EPSG:32731"])))


@st.composite
def pixel_boxes(draw: st.DrawFn, *, reach: int = 400, empty: bool = False) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in pixels down and right of an origin, in quarters; with area unless `empty`."""
    least = 0 if empty else 1
    left, top = draw(st.tuples(st.integers(-reach, reach), st.integers(-reach, reach)))
    width, height = draw(st.tuples(st.integers(least, 2 * reach), st.integers(least, 2 * reach)))
    return left / QUARTER, top / QUARTER, (left + width) / QUARTER, (top + height) / QUARTER


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    """Lattices of up to 300 pixels and 15 objects a side."""
    chunk = 2 * draw(st.integers(1, 64))
    return Lattice(draw(grids(sides=(1, min(300, 15 * chunk)))), chunk)
