"""From granules to a layer: the mosaic of one solar day. Plain arrays; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ndvi_scale.kernels import FILL_CODE

if TYPE_CHECKING:
    from numpy.typing import NDArray


def empty_layer(shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    """A layer in which no pixel is valid yet: `FILL_CODE` for int16, NaN for float32."""
    return np.full(shape, fill_of(dtype), dtype)


def fill_of(dtype: str) -> int | float:
    """What a pixel without NDVI holds: `FILL_CODE` in int16, NaN in float32."""
    return FILL_CODE if dtype == "int16" else float("nan")


def is_fill(layer: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a layer has no NDVI."""
    return np.isnan(layer) if layer.dtype.kind == "f" else layer == FILL_CODE


def merge_day(layer: NDArray[Any], later: NDArray[Any]) -> None:
    """Fill the pixels of `layer` that have no NDVI yet from `later`, in place: first valid wins.

    Called in (datetime, id) order. NDVI is computed a granule and merged after masking, so a cloud in one
    granule does not hide the other, and red and nir never come from two.
    """
    np.copyto(layer, later, where=is_fill(layer))
