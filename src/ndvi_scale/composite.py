"""From granules to a layer: the mosaic of one solar day. Plain arrays; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ndvi_scale.kernels import FILL_CODE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ndvi_scale.lattice import Window


def empty_layer(shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    """A layer in which no pixel is valid yet: `FILL_CODE` for int16, NaN for float32."""
    return np.full(shape, fill_of(dtype), dtype)


def fill_of(dtype: str) -> int | float:
    """What a pixel without NDVI holds: `FILL_CODE` in int16, NaN in float32."""
    return FILL_CODE if dtype == "int16" else float("nan")


def is_fill(layer: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a layer has no NDVI."""
    return np.isnan(layer) if layer.dtype.kind == "f" else layer == FILL_CODE


def merged_day(
    layer: NDArray[Any] | None, shape: tuple[int, int], place: Window, later: NDArray[Any]
) -> NDArray[Any]:
    """A layer of that shape, its pixels that have no NDVI yet filled from `later`, which lies at `place`.

    `layer`: what came before, changed in place; None at first. First valid wins.

    Called in (datetime, id) order. NDVI is computed a granule and merged after masking, so a cloud in one
    granule does not hide the other, and red and nir never come from two.
    """
    if layer is None and later.shape == shape:
        return later  # the usual case, of one granule that holds it all, needs no second look at each pixel
    if layer is None:
        layer = empty_layer(shape, later.dtype.name)
    part = layer[place.slices]
    np.copyto(part, later, where=is_fill(part))
    return layer
