"""Reading through GDAL: one dataset a thread and asset, kept open for the regions that follow."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from rasterio.windows import Window as RasterWindow

from ndvi_scale.readers import OPEN_FILES, BlockingReader, Layout, Traffic
from ndvi_scale.readers.gdal import layout_of, open_checked, traffic_of, with_access

if TYPE_CHECKING:
    import numpy as np
    import rasterio
    from numpy.typing import NDArray

    from ndvi_scale.access import Opening
    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window
    from ndvi_scale.readers.pacing import Pacer


class RasterioReader(BlockingReader):
    """The reader for everything that GDAL decodes."""

    name = "rasterio"

    def __init__(self) -> None:
        self._local = threading.local()
        self._seen: set[str] = set()

    def __reduce__(self) -> tuple[type[RasterioReader], tuple[()]]:
        """Open files stay where they were opened."""
        return RasterioReader, ()

    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[NDArray[np.generic], Traffic]:
        """See `Reader.read`."""

        def action(opening: Opening, pacer: Pacer) -> tuple[NDArray[np.generic], Traffic]:
            source = self._open(opening, item_id, asset)
            traffic = traffic_of(source, window) + self._header_traffic(asset.href)
            pacer.spend(traffic)
            area = RasterWindow(window.column, window.row, window.width, window.height)  # pyright: ignore[reportCallIssue]
            try:
                return source.read(1, window=area), traffic
            except Exception:
                self._forget(asset)
                raise

        return with_access(item_id, asset, action)

    def layout(self, item_id: str, asset: Asset) -> Layout:
        """See `Reader.layout`."""
        return with_access(item_id, asset, lambda opening, _: layout_of(self._open(opening, item_id, asset)))

    def _open(self, opening: Opening, item_id: str, asset: Asset) -> rasterio.DatasetReader:
        files: OrderedDict[tuple[str, int], tuple[str, rasterio.DatasetReader]]
        image = asset.href, asset.overview
        files = self._local.__dict__.setdefault("files", OrderedDict())
        path, source = files.get(image, ("", None))
        if source is not None and path == opening.path:
            files.move_to_end(image)
            return source
        if source is not None:  # under a token that is no longer the one to use
            del files[image]
            source.close()
        source = open_checked(opening, item_id, asset)
        files[image] = opening.path, source
        if len(files) > OPEN_FILES:
            files.popitem(last=False)[1][1].close()
        return source

    def _header_traffic(self, href: str) -> Traffic:
        # Counted once a process: another thread that opens the same file is served from GDAL's own cache.
        new = href not in self._seen
        self._seen.add(href)
        return Traffic(requests=int(new))

    def _forget(self, asset: Asset) -> None:
        _, source = self._local.files.pop((asset.href, asset.overview), ("", None))
        if source is not None:
            source.close()
