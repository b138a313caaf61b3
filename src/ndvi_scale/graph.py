"""A plan as a dask graph: one task a chunk, and the plan once."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import dask.array as da
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import normalize_chunks
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        # Dask takes arrays of one name for one graph. All of the index is numbers: its hash is the same anywhere.
        self._token = tokenize(plan.id, hash(tuple(plan.index.items())), reader)
        self._layers: dict[str, dict[Any, Any]] = {}
        self._needs: dict[str, set[str]] = {}
        self._shared: Shared | TaskRef = Shared(plan, reader)
        if len(pickle.dumps(plan)) * len(plan.index) > RIDES:
            name = f"plan-{self._token}"
            self._add(name, {name: DataNode(name, self._shared)}, set())
            self._shared = TaskRef(name)

    def compute(self, name: str, function: Callable[..., Any], nothing: Callable[[int, int], Any]) -> str:
        """Add ``function(shared, layer, iy, ix)`` for every region, ``nothing(height, width)`` where no granule is.

        Returns the name of the layer.
        """
        name = f"{name}-{self._token}"
        _, heights, widths = self._sides
        tasks: dict[Any, Any] = {}
        for place in self._places():
            key = (name, *place)
            if place in self._plan.index:
                tasks[key] = Task(key, function, self._shared, *place)
            else:
                tasks[key] = Task(key, nothing, heights[place[1]], widths[place[2]])
        return self._add(name, tasks, set(self._layers))

    def take(self, name: str, layer: str, function: Callable[..., NDArray[Any]], *args: Any) -> str:
        """Add ``function(result, *args)`` of every result of a layer; returns the new layer's name."""
        name = f"{name}-{self._token}"
        keys = [(name, *place) for place in self._places()]
        return self._add(name, {k: Task(k, function, TaskRef((layer, *k[1:])), *args) for k in keys}, {layer})

    def array(self, layer: str, dtype: DTypeLike) -> da.Array:
        """The array whose chunks are a layer's results of shape (1, y, x)."""
        graph = HighLevelGraph(dict(self._layers), dict(self._needs))
        return da.Array(graph, layer, self._sides, meta=np.empty((0, 0, 0), dtype))  # pyright: ignore[reportCallIssue]

    @cached_property
    def _sides(self) -> tuple[tuple[int, ...], ...]:
        """Lengths of the chunks along each dimension."""
        layers, height, width = self._plan.shape
        return normalize_chunks((1, *self._plan.lattice.object_shape), shape=(layers, height, width))

    def _places(self) -> Iterator[tuple[int, ...]]:
        return product(*(range(len(lengths)) for lengths in self._sides))

    def _add(self, name: str, tasks: dict[Any, Any], needs: set[str]) -> str:
        self._layers[name], self._needs[name] = tasks, needs
        return name
