"""``dataset.s2``: the functions of this package as methods of xarray's Dataset. Forwarding only.

Registered when this module is imported: ``import ndvi_scale.accessor``.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from ndvi_scale.by_period import composite_by_period
from ndvi_scale.lazy import compute_ndvi


@xr.register_dataset_accessor("s2")
class Sentinel2Accessor:
    """Methods of a dataset that holds Sentinel-2 bands."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def ndvi(self, **options: Any) -> xr.DataArray:
        """See `ndvi_scale.compute_ndvi`; options are its keyword arguments."""
        return compute_ndvi(self._dataset, **options)

    def composite(self, variable: str = "ndvi", **options: Any) -> xr.Dataset:
        """See `ndvi_scale.composite_by_period`, of one variable; options are its keyword arguments."""
        return composite_by_period(self._dataset[variable], **options)
