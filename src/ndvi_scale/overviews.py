"""Overviews in place of the bands' own pixels, where the output is coarser and it was asked for. Reads nothing.

Red and nir are exchanged; SCL never is: it masks as it does without overviews, and classes that somebody has
averaged are none. One reduction serves a whole plan, so that all of its pixels are made alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ndvi_scale.errors import ConfigError
from ndvi_scale.lattice import coarser_grid, corner, pixel_place
from ndvi_scale.placement import cell_factor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from odc.geo.geobox import GeoBox

    from ndvi_scale.granules import Asset, Granule
    from ndvi_scale.lattice import Lattice

REDUCTIONS: Final = (4, 2)
"""Native pixels along one of an overview, the coarsest first. The 10980 pixels of a tile halve twice; where they do
not, an overview has pixels that are none of the ground's squares."""


def with_overviews(
    granules: Sequence[Granule], spares: Mapping[str, Sequence[Granule]], lattice: Lattice
) -> tuple[list[Granule], dict[str, tuple[Granule, ...]]]:
    """The same granules, and what stands in for them, with red and nir at the coarsest overview that fits all.

    Raises ConfigError where none does: native pixels, sizes that no overview divides, a warp, JP2.
    """
    everything = [*granules, *(spare for held in spares.values() for spare in held)]
    _check_pixels(everything, lattice.geobox)
    fitting = (n for n in REDUCTIONS if all(_fits(grid, lattice.geobox, n) for grid in _grids(everything)))
    reduction = next(fitting, None)
    if reduction is None:
        native = granules[0].red.geobox.resolution.x
        raise ConfigError(
            f"resolution {lattice.geobox.resolution.x:g} m with overviews: its pixels are no whole number of those "
            f"of an overview ({' or '.join(f'{n * native:g}' for n in reversed(REDUCTIONS))} m) in every granule: "
            f"give a multiple of {REDUCTIONS[-1] * native:g}, or leave overviews out"
        )
    return (
        [_reduced(granule, reduction) for granule in granules],
        {name: tuple(_reduced(spare, reduction) for spare in held) for name, held in spares.items()},
    )


def _check_pixels(granules: Sequence[Granule], grid: GeoBox) -> None:
    """Raises ConfigError where overviews would give nothing, or something else."""
    native = granules[0].red.geobox.resolution.x
    if cell_factor(grid, granules[0].red.geobox) == 1:
        raise ConfigError(
            f"overviews with pixels of {native:g} m, the granules' own: there is nothing coarser to read: give a "
            f"resolution such as {REDUCTIONS[-1] * native:g}, or leave overviews out"
        )
    for granule in granules:
        if granule.red.geobox.crs != grid.crs:
            raise ConfigError(
                f"overviews with an output in {grid.crs}: item {granule.id} lies in EPSG:{granule.epsg}, and what "
                "is warped is warped from pixels of full size: leave overviews out, or crs"
            )
        if "jp2" in granule.red.media_type:
            raise ConfigError(
                f"overviews of item {granule.id}, which is JP2: its reduced images lie half a pixel off, for they "
                "are no means of pixels: leave overviews out, or take a catalog of COGs"
            )


def _grids(granules: Sequence[Granule]) -> set[tuple[GeoBox, GeoBox]]:
    """Of red and SCL."""
    return {(granule.red.geobox, granule.scl.geobox) for granule in granules}


def _fits(grids: tuple[GeoBox, GeoBox], output: GeoBox, reduction: int) -> bool:
    """Whether pixels of an overview are whole ones of the image, and whole parts of the output's and of SCL's."""
    red, scl = grids
    height, width = red.shape
    if height % reduction or width % reduction or cell_factor(output, red) % reduction:
        return False
    coarse = coarser_grid(red, reduction)
    nests = _is_multiple(scl, coarse) or _is_multiple(coarse, scl)
    try:
        pixel_place(coarse, output)  # in another tile, 100,020 m on, 40 m pixels begin 20 m off
    except ValueError:
        return False
    return nests


def _is_multiple(wide: GeoBox, narrow: GeoBox) -> bool:
    return wide.resolution.x % narrow.resolution.x == 0 and corner(wide) == corner(narrow)


def _reduced(granule: Granule, reduction: int) -> Granule:
    return replace(granule, red=_overview(granule.red, reduction), nir=_overview(granule.nir, reduction))


def _overview(asset: Asset, reduction: int) -> Asset:
    return replace(asset, geobox=coarser_grid(asset.geobox, reduction), overview=reduction)
