"""How much of the ground is seen, clouded and under snow: scene classes counted. The integers of each date."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

from ndvi_scale.kernels import CLOUDY, OBSERVED, SNOWY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def count_classes(scl: NDArray[np.uint8], table: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Pixels that are observed, cloud and snow, by `OBSERVED`, `CLOUDY`, `SNOWY` bits of `table`, shape (256,)."""
    return _count(scl, table)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _count(scl, table):
    observed = cloud = snow = 0
    for row in range(scl.shape[0]):
        for column in range(scl.shape[1]):
            bits = table[scl[row, column]]
            observed += (bits & OBSERVED) != 0
            cloud += (bits & CLOUDY) != 0
            snow += (bits & SNOWY) != 0
    return observed, cloud, snow
