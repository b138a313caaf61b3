"""Small runs for tests: one call from a sandbox to a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ndvi_scale import RunConfig, build_plan, open_reader, open_store, run_batch, search_items, thread_pool

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.batch import RunReport
    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store


def plan_of(sandbox: Sandbox, **settings: Any) -> Plan:
    """A plan of all zone-31 items of a sandbox, in objects of 64 pixels."""
    config = RunConfig(**{"crs": "EPSG:32631", "chunk": 64, **settings})
    return build_plan(search_items(sandbox.items), config)


def run(plan: Plan, store: Store, workers: int = 2, **options: Any) -> RunReport:
    """Run a plan on threads."""
    with thread_pool(workers) as submit:
        settings = {"reader": open_reader(), "in_flight": workers, **options}
        return run_batch(plan, store, submit, **settings)


def finished_store(sandbox: Sandbox, folder: Path, **settings: Any) -> tuple[Plan, Store]:
    """A store that a run has finished."""
    plan, store = plan_of(sandbox, **settings), open_store(str(folder / "ndvi.zarr"))
    report = run(plan, store)
    assert not report.failed
    assert report.done == report.regions
    return plan, store
