"""What the order of a run and its cache of blocks come to, in the simulation that they were chosen by."""

from __future__ import annotations

import pytest

import order
from ndvi_scale.readers import CACHE_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("chunk", order.CHUNKS)
def test_hardly_a_block_is_fetched_twice(chunk: int) -> None:
    found = {
        name: order.worst(works, order.chosen, CACHE_BYTES // order.MIB, counting=True)
        for name, works in order.workloads(chunk)
    }
    assert found[order.ALIGNED] <= 1.05
    assert found["nine tiles"] <= 1.15
    assert found["one tile, misaligned"] <= 1.05


def test_it_does_matter() -> None:
    works = dict(order.workloads(2048))["nine tiles"]
    cache = CACHE_BYTES // order.MIB
    chosen = order.worst(works, order.chosen, cache, counting=True)
    assert order.worst(works, order.by_rows, cache, counting=True) > 1.2 * chosen
    assert order.worst(works, order.chosen, 0, counting=False) > 1.5 * chosen


def test_without_neighbours_every_block_is_fetched_once() -> None:
    for work in dict(order.workloads(4096))[order.ALIGNED]:
        assert order.fetched(work, order.chosen(work.plan), order.Cache(0), 4) == 1
