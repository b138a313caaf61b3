"""What a row depends on beside cell and machine: how the source is paced, where a store is, what a cluster is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from ndvi_scale.bench.origin import free_port
from ndvi_scale.cluster.spec import LocalSpec
from ndvi_scale.errors import ConfigError
from ndvi_scale.store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ndvi_scale.bench.factors import Table
    from ndvi_scale.bench.rows import Cell
    from ndvi_scale.cluster.spec import ClusterSpec

OF_THE_CELL: Final = ("workers", "threads", "adapt")
"""Settings of a profile that a cell has in their place."""


@dataclass(frozen=True)
class Conditions:
    """Of a table, with the profiles that it names."""

    table: Table
    specs: Mapping[str, ClusterSpec]

    def of(self, cell: Cell) -> str:
        """A digest: rows of the same cell are repeats of one another only where it is the same."""
        spec = {name: value for name, value in asdict(self.specs[cell.cluster]).items() if name not in OF_THE_CELL}
        place = self.table.stores.get(cell.store)
        pace = None if cell.source == "files" else (self.table.delay, None if cell.emulated else self.table.rate)
        told = [spec, pace, place and (place.url, place.options)]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def require(self) -> None:
        """Raises ConfigError or StoreError for what can never be measured, before anything is."""
        for name, spec in self.specs.items():
            if isinstance(spec, LocalSpec) and not spec.processes:
                raise ConfigError(
                    f"cluster {name!r} is threads of this process: sizes are compared of processes, such as local"
                )
        for name, place in self.table.stores.items():
            if place.url.startswith("memory:"):
                raise ConfigError(f"store {name!r}: {place.url} is in this process alone, and workers are others")
            open_store(f"{place.url.rstrip('/')}/bench.zarr", dict(place.options))
        free_port(self.table.host)
