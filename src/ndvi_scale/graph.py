"""A plan as a dask graph: one task a chunk, and the plan once."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import dask.array as da
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import normalize_chunks
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

    from ndvi_scale.plan import Plan
    from ndvi_scale.readers import Reader

RIDES: Final = 64 << 20
"""Bytes that the plan may come to if every task carries it: then there is one task a chunk and nothing beside, for
less than a tenth of a granule sent. A larger plan is a node of its own, to which the tasks refer, so that a cluster
sends it once a worker: 25 tiles x 20 dates are 0.84 MB, which in 12,500 tasks were 10 GB."""


@dataclass(frozen=True)
class Shared:
    """What all tasks of a plan share."""

    plan: Plan
    reader: Reader


class PlanGraph:
    """Dask arrays ``(time, y, x)`` over the regions of a plan.

    The tasks are written down, not derived from a function of the whole array: so a chunk that no granule touches
    needs neither plan nor reader, and 12,500 take 0.1 s in place of 0.7 s.
    """

    def __init__(self, plan: Plan, reader: Reader) -> None:
        self._plan = plan
        self._token = tokenize(plan.id, reader.name)  # readers differ in speed, never in DN
        self._layers: dict[str, dict[Any, Any]] = {}
        self._needs: dict[str, set[str]] = {}
        self._shared: Shared | TaskRef = Shared(plan, reader)
        if len(pickle.dumps(plan)) * len(plan.index) > RIDES:
            name = f"plan-{self._token}"
            self._add(name, {name: DataNode(name, self._shared)}, set())
            self._shared = TaskRef(name)

    def compute(self, name: str, function: Callable[..., NDArray[Any]]) -> str:
        """Add ``function(shared, layer, iy, ix)`` of every region that granules touch; returns the layer's name."""
        name = f"{name}-{self._token}"
        tasks = {key: Task(key, function, self._shared, *key[1:]) for key in self._keys(name)}
        return self._add(name, tasks, set(self._layers))

    def take(self, name: str, layer: str, function: Callable[..., NDArray[Any]], *args: Any) -> str:
        """Add ``function(result, *args)`` of every result of a layer; returns the new layer's name."""
        name = f"{name}-{self._token}"
        tasks = {key: Task(key, function, TaskRef((layer, *key[1:])), *args) for key in self._keys(name)}
        return self._add(name, tasks, {layer})

    def array(self, layer: str, dtype: DTypeLike, fill: float) -> da.Array:
        """The array whose chunks are a layer's results of shape (1, y, x), and `fill` where no granule is."""
        layers, height, width = self._plan.shape
        sides = normalize_chunks((1, *self._plan.lattice.chunk_shape), shape=(layers, height, width))
        tasks = self._layers[layer]
        for place in product(*(range(len(axis)) for axis in sides)):
            key = (layer, *place)
            if key not in tasks:
                shape = tuple(axis[i] for axis, i in zip(sides, place, strict=True))
                tasks[key] = Task(key, np.full, shape, fill, dtype)
        graph = HighLevelGraph(dict(self._layers), dict(self._needs))
        return da.Array(graph, layer, sides, meta=np.empty((0, 0, 0), dtype))  # pyright: ignore[reportCallIssue]

    def _keys(self, name: str) -> list[tuple[Any, ...]]:
        return [(name, *region) for region in self._plan.index]

    def _add(self, name: str, tasks: dict[Any, Any], needs: set[str]) -> str:
        self._layers[name], self._needs[name] = tasks, needs
        return name
