"""What the demo says at its end: how the output compares with the sandbox's known NDVI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import rasterio
import zarr
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from ndvi_scale.errors import NdviScaleError
from ndvi_scale.kernels import FILL_CODE
from ndvi_scale.lattice import centres_inside, pixel_place
from ndvi_scale.ledger import load_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store


def check_truth(store: Store, sandbox: Sandbox) -> str:
    """One line: how many codes of an output were compared with the sandbox's truth, all of them equal.

    Raises NdviScaleError when one differs, is missing, or stands where the sandbox has no valid pixel.
    """
    plan = load_plan(store)
    if plan is None:
        raise NdviScaleError(f"{store.url} holds no run to check")
    codes = zarr.open_array(store.zarr(read_only=True), path="ndvi", mode="r")
    compared = wrong = 0
    inside = _inside(plan)
    for layer, day in enumerate(plan.days):
        with (
            rasterio.open(sandbox.truth / f"ndvi_{day:%Y%m%d}.tif") as truth,
            rasterio.open(sandbox.truth / f"valid_{day:%Y%m%d}.tif") as valid,
        ):
            grid = GeoBox((truth.height, truth.width), truth.transform, truth.crs)
            column, row = pixel_place(grid, plan.lattice.geobox)
            height, width = plan.lattice.geobox.shape
            window = Window(column, row, width, height)  # pyright: ignore[reportCallIssue]
            expected = np.where(valid.read(1, window=window) == 1, truth.read(1, window=window), FILL_CODE)
        found = np.asarray(codes[layer])
        expected[~inside] = FILL_CODE
        compared += int((expected != FILL_CODE).sum())
        wrong += int((found != expected).sum())
    if wrong:
        raise NdviScaleError(
            f"{wrong:,} of {compared:,} NDVI codes differ from the sandbox's truth: please report it"
        )
    return f"Checked against the sandbox's truth: all {compared:,} NDVI codes are equal."


def _inside(plan: Plan) -> NDArray[np.bool_]:
    geobox, area = plan.lattice.geobox, plan.aoi_geometry
    return np.ones(geobox.shape.yx, np.bool_) if area is None else centres_inside(geobox, area)
