"""NDVI of one granule, on plain arrays: `reference` says what is right, `cpu` says it fast.

Both take the same arguments and give the same codes and the same counters; neither knows xarray, dask,
files or projections. `morphology` grows and shrinks cloud in scene classes before that.

A **code** is NDVI as int16: ``rint(10000 * (nir - red) / (nir + red))``, halves to even, so −10000…10000,
and `FILL_CODE` where there is no valid pixel. The rules and their sources are in ``docs/correctness.md``.
"""

from __future__ import annotations

from typing import Final

CODE_SCALE: Final = 10_000
"""Codes per unit of NDVI (HR-VPP and MOD13 use the same 0.0001)."""

FILL_CODE: Final = -32768
"""The code of a pixel without NDVI."""

MAX_DN: Final = 32767
"""Largest valid DN; 65535 is SATURATED, 32768…65534 are wrapped subtractions (ESA PSD; both invalid)."""

SATURATED_DN: Final = 65535
NODATA_DN: Final = 0

USE: Final = 1
"""Bit of an SCL table entry: pixels of this class are used."""

LAND: Final = 2
"""Bit of an SCL table entry: the class counts as clear land (4, 5) for the offset guard."""

CLOUD: Final = 4
"""Bit of an SCL table entry: the class is cloud, which mask filters grow and shrink."""

REMOVED: Final = 0x20
"""Bit of a filtered SCL value: cloud that a filter took away; used."""

ADDED: Final = 0x40
"""Bit of a filtered SCL value: a pixel that a filter made cloud; not used."""

CLASS_BITS: Final = 0x0F
"""Bits of a filtered SCL value that are its class."""

NO_CLASS: Final = 255
"""A filtered SCL value that was no class."""

OBSERVED: Final = 1
"""Bit of a table of scenes: the class says that there is data (1–11)."""

CLOUDY: Final = 2
"""Bit of a table of scenes: cloud of medium or high probability, or thin cirrus (8, 9, 10), as in ESA's own cloudy
pixel percentage."""

SNOWY: Final = 4
"""Bit of a table of scenes: snow or ice (11)."""

DARK_DN: Final = 1000
"""A clear-land red DN below this is what an offset of −1000 DN would make negative."""

COUNTERS: Final = (
    "valid",
    "nodata",
    "saturated",
    "wrapped",
    "masked",
    "not_positive",
    "out_of_range",
    "land",
    "land_dark",
)
"""What a kernel counts, in the order of its result.

`valid` pixels got a code. The next six are disjoint reasons why a pixel got none, tested in this order:
`nodata` (red or nir DN is 0), `saturated` (65535), `wrapped` (32768…65534), `masked` (its SCL class),
`not_positive` (nir + red ≤ 0 after the offset), `out_of_range` (|NDVI| > 1: one band negative; with
``clip`` such a pixel is both `valid` and `out_of_range`). `land` are usable pixels of SCL 4 and 5 and
`land_dark` those of them whose red DN is below `DARK_DN`: the evidence of the offset guard.
"""


def pixels_per_class(red: tuple[int, ...], nir: tuple[int, ...], scl: tuple[int, ...]) -> int:
    """How many pixels one SCL pixel is wide, from the three shapes (y, x); 1 for empty arrays.

    Raises ValueError when red and nir differ, or SCL does not nest in them.
    """
    factor = next((fine // coarse for fine, coarse in zip(red, scl, strict=False) if coarse), 1)
    if red != nir or len(red) != len(scl) or red != tuple(side * factor for side in scl):
        raise ValueError(f"shapes do not fit: red {red}, nir {nir}, scl {scl}; scl must nest in both")
    return factor
