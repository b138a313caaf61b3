"""NDVI of Sentinel-2 over a region and a date range, at any size.

A run, whole::

    items = search_items("earth-search", aoi=parse_bbox("1.2,43.4,1.6,43.7"), datetime="2023-06")
    plan = build_plan(items, RunConfig(aoi=parse_bbox("1.2,43.4,1.6,43.7")))
    store = open_store("ndvi.zarr")
    with thread_pool() as submit:
        run_batch(plan, store, submit)

The same in a notebook, lazily: ``open_ndvi(plan)``.

The map, top to bottom as the data goes: `search_items` finds items; `build_plan` freezes what is computed from
which of them onto which grid; `compute_region` computes one stored object from one plan, in plain numpy;
`run_batch` does so for all of them into a store, `open_ndvi` for those that a dask graph asks for. Names below
are imported when first used, so that importing the package costs nothing.

Elsewhere than in threads: ``with open_cluster(find_spec("my-slurm", read_profiles())) as submit``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndvi_scale.aoi import Aoi, parse_bbox, read_aoi
    from ndvi_scale.batch import RunReport, run_batch, thread_pool
    from ndvi_scale.by_period import composite_by_period
    from ndvi_scale.cluster.opening import open_cluster
    from ndvi_scale.cluster.profiles import find_spec, read_profiles
    from ndvi_scale.cluster.spec import ClusterSpec
    from ndvi_scale.config import RunConfig
    from ndvi_scale.errors import NdviScaleError
    from ndvi_scale.estimate import Estimate, estimate_plan
    from ndvi_scale.item_files import load_items, save_items
    from ndvi_scale.lazy import compute_ndvi, load_bands, open_cube, open_ndvi
    from ndvi_scale.ledger import load_plan
    from ndvi_scale.plan import Plan, build_plan, build_plans
    from ndvi_scale.readers import open_reader
    from ndvi_scale.region import compute_region
    from ndvi_scale.sandbox import make_sandbox
    from ndvi_scale.search import search_items
    from ndvi_scale.store import Store, open_store
    from ndvi_scale.write import store_digest

__version__ = version("ndvi-scale")

_HOMES = {
    "Aoi": "aoi",
    "ClusterSpec": "cluster.spec",
    "Estimate": "estimate",
    "NdviScaleError": "errors",
    "Plan": "plan",
    "RunConfig": "config",
    "RunReport": "batch",
    "Store": "store",
    "build_plan": "plan",
    "build_plans": "plan",
    "composite_by_period": "by_period",
    "compute_ndvi": "lazy",
    "compute_region": "region",
    "estimate_plan": "estimate",
    "find_spec": "cluster.profiles",
    "load_bands": "lazy",
    "load_items": "item_files",
    "load_plan": "ledger",
    "make_sandbox": "sandbox",
    "open_cluster": "cluster.opening",
    "open_cube": "lazy",
    "open_ndvi": "lazy",
    "open_reader": "readers",
    "open_store": "store",
    "parse_bbox": "aoi",
    "read_aoi": "aoi",
    "read_profiles": "cluster.profiles",
    "run_batch": "batch",
    "save_items": "item_files",
    "search_items": "search",
    "store_digest": "write",
    "thread_pool": "batch",
}

__all__ = [
    "Aoi",
    "ClusterSpec",
    "Estimate",
    "NdviScaleError",
    "Plan",
    "RunConfig",
    "RunReport",
    "Store",
    "__version__",
    "build_plan",
    "build_plans",
    "composite_by_period",
    "compute_ndvi",
    "compute_region",
    "estimate_plan",
    "find_spec",
    "load_bands",
    "load_items",
    "load_plan",
    "make_sandbox",
    "open_cluster",
    "open_cube",
    "open_ndvi",
    "open_reader",
    "open_store",
    "parse_bbox",
    "read_aoi",
    "read_profiles",
    "run_batch",
    "save_items",
    "search_items",
    "store_digest",
    "thread_pool",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
