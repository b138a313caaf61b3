"""Reading through stackstac, for comparison: one item with one asset, on its own grid, computed in this thread.

What stackstac 0.5.1 needs to give DN: all three of epsg, resolution and bounds (or it moves the grid), an EPSG code
(it does not know ``proj:code``), a fill value of the very dtype, and no error taken for nodata (it swallows 404).
Slower than `rasterio`: files are opened anew for each window, and read in whole chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import stackstac
from stackstac.rio_reader import AutoParallelRioReader, SingleThreadedRioDataset

from ndvi_scale.readers import BlockingReader, Layout, Traffic
from ndvi_scale.readers.gdal import environment, layout_of, open_checked, traffic_of, with_access

if TYPE_CHECKING:
    import rasterio
    from numpy.typing import NDArray

    from ndvi_scale.access import Opening
    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window
    from ndvi_scale.readers.pacing import Pacer

CHUNK: Final = 1024
"""Pixels that stackstac reads at once; the COGs' block."""

_KEY: Final = "data"


class StackstacReader(BlockingReader):
    """Reads as `rasterio` does, by another way through GDAL."""

    name = "stackstac"

    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[NDArray[np.generic], Traffic]:
        """See `Reader.read`."""

        def action(opening: Opening, pacer: Pacer) -> tuple[NDArray[np.generic], Traffic]:
            with open_checked(opening, item_id, asset) as source:
                traffic = traffic_of(source, window) + Traffic(requests=1)
                dtype, nodata = np.dtype(source.dtypes[0]), source.nodata
            pacer.spend(traffic)
            stack = stackstac.stack(
                [_item(item_id, asset)],
                **_grid(asset),
                assets=[_KEY],
                chunksize=CHUNK,
                dtype=dtype,
                fill_value=dtype.type(nodata or 0),
                rescale=False,
                properties=False,
                band_coords=False,
                xy_coords=False,
                gdal_env=_Environment(opening),  # pyright: ignore[reportArgumentType]
                errors_as_nodata=(),
                reader=_reader_of(opening, item_id, asset),
            )
            rows = slice(window.row, window.row + window.height)
            columns = slice(window.column, window.column + window.width)
            return stack[0, 0, rows, columns].compute(scheduler="synchronous").to_numpy(), traffic

        return with_access(item_id, asset, action)

    def layout(self, item_id: str, asset: Asset) -> Layout:
        """See `Reader.layout`."""

        def action(opening: Opening, _: Pacer) -> Layout:
            with open_checked(opening, item_id, asset) as source:
                return layout_of(source)

        return with_access(item_id, asset, action)


class _Environment:
    """GDAL's options of one asset where stackstac wants those of opening, of reading and of warping."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    @property
    def open(self) -> rasterio.Env:
        """Options to open a file."""
        return environment(self._opening)

    @property
    def read(self) -> rasterio.Env:
        """Options to read from it."""
        return environment(self._opening)


def _reader_of(opening: Opening, item_id: str, asset: Asset) -> type[AutoParallelRioReader]:
    """Stackstac's reader, opening a file only as the format it may have, and only on its item's grid."""

    class Checked(AutoParallelRioReader):
        def _open(self) -> Any:
            source = open_checked(opening, item_id, asset)
            return SingleThreadedRioDataset(self.gdal_env, source)

    return Checked


def _grid(asset: Asset) -> dict[str, Any]:
    geobox = asset.geobox
    box = geobox.boundingbox
    return {
        "epsg": geobox.crs.to_epsg() if geobox.crs else None,
        "resolution": (abs(geobox.resolution.x), abs(geobox.resolution.y)),
        "bounds": (box.left, box.bottom, box.right, box.top),
        "snap_bounds": False,
    }


def _item(item_id: str, asset: Asset) -> dict[str, Any]:
    """All that stackstac looks at, in the fields that it knows. The URL that is read is that of the opening."""
    grid = _grid(asset)
    return {
        "id": item_id,
        "properties": {"datetime": "2000-01-01T00:00:00Z", "proj:epsg": grid["epsg"], "proj:bbox": grid["bounds"]},
        "assets": {_KEY: {"href": "the opening's"}},
    }
