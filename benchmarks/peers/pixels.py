"""Whether two outputs hold the same pixels: a time of other pixels is no time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import zarr

if TYPE_CHECKING:
    from pathlib import Path

FILL: Final = -32768


@dataclass(frozen=True)
class Difference:
    """How an output differs from ours."""

    pixels: int
    """That hold another code."""
    largest: int
    """Difference of codes that both have."""
    validity: int
    """Pixels that have NDVI in one and not in the other."""

    @property
    def equal(self) -> bool:
        """Equal but for the rounding of floating-point arithmetic, which is one code at ties."""
        return self.largest <= 1 and self.validity == 0


def compare(reference: Path, out: Path) -> Difference:
    """Compare the arrays ``ndvi`` of two Zarr groups, chunk by chunk. Raises ValueError where shapes differ."""
    ours, theirs = (zarr.open_array(path / "ndvi", mode="r") for path in (reference, out))
    for name in ("shape", "chunks", "dtype", "compressors"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ValueError(f"{name} {getattr(theirs, name)} is not that of ours, {getattr(ours, name)}")
    pixels = largest = validity = 0
    for layer in range(ours.shape[0]):
        for row in range(0, ours.shape[1], ours.chunks[1]):
            one, other = (np.asarray(array[layer, row : row + array.chunks[1]]) for array in (ours, theirs))
            differs = one != other
            if not differs.any():
                continue
            one, other = one[differs].astype(np.int32), other[differs].astype(np.int32)
            both = (one != FILL) & (other != FILL)
            pixels += len(one)
            validity += int((~both).sum())
            largest = max(largest, int(np.abs(one - other)[both].max(initial=0)))
    return Difference(pixels, largest, validity)
