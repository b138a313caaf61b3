"""Loads what the first region would else wait for: compiled kernels, and the libraries that read and write."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import numpy as np

from ndvi_scale.config import RunConfig
from ndvi_scale.kernels import cpu, tally
from ndvi_scale.readers.decode import load_kernel
from ndvi_scale.sentinel2 import scene_table

_LIBRARIES: Final = ("ndvi_scale.readers.cog", "ndvi_scale.region", "ndvi_scale.write", "pyproj")


def warm_up() -> None:
    """Compile and load the kernels of the usual daily run, in the forms in which a region calls them."""
    load_kernel()  # in a thread of its own
    for library in _LIBRARIES:
        import_module(library)
    table = RunConfig().scene_mask.table
    red = nir = np.full((2, 2), 1000, np.uint16)
    scl = np.full((1, 1), 4, np.uint8)
    cpu.ndvi_codes(red, nir, scl, table, (-1000, -1000), out=np.empty((2, 2), np.int16))
    tally.count_classes(scl, scene_table())
