"""ndvi-scale: a plan, then `run_batch`, or `open_ndvi` written by xarray. Items come from a file, not a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask
import pystac
import shapely
from contender import Clock, Workload, read_workload
from dasked import write
from pyproj import Transformer

from ndvi_scale import RunConfig, build_plan, open_ndvi, open_reader, open_store, run_batch, thread_pool
from ndvi_scale.aoi import Aoi
from ndvi_scale.estimate import Estimate, default_workers, region_memory, regions_in_flight
from ndvi_scale.readers import Reader, Traffic

if TYPE_CHECKING:
    from ndvi_scale.plan import Plan


def main() -> None:
    """Plan, then compute in one of the two ways."""
    work = read_workload()
    lazy = work.options.get("way") == "lazy"
    reader = open_reader(*([work.options["reader"]] if "reader" in work.options else []))
    clock = Clock()
    items = pystac.ItemCollection.from_file(work.items)
    plan = build_plan(items, config_of(work))
    if work.graph_only:
        planned = clock.elapsed()
        write(work, clock, open_ndvi(plan, reader=reader), plan=planned)
    elif lazy:
        write_lazily(work, clock, plan, reader)
    else:
        write_batch(work, clock, plan, reader)


def config_of(work: Workload) -> RunConfig:
    """The window as a region: a metre smaller each way, for the lattice snaps outward to whole pixels of 20 m."""
    if work.options.get("whole"):
        return RunConfig(chunk=work.chunk, clip=False)
    left, bottom, right, top = work.bounds
    box = shapely.segmentize(shapely.box(left + 1, bottom + 1, right - 1, top - 1), 500)
    to_degrees = Transformer.from_crs(work.epsg, 4326, always_xy=True).transform
    area = shapely.transform(box, to_degrees, interleaved=False)
    return RunConfig(chunk=work.chunk, aoi=Aoi(area, "the workload"), clip=False)


def write_batch(work: Workload, clock: Clock, plan: Plan, reader: Reader) -> None:
    """As the command line does it."""
    store = open_store(work.out)
    clock.graph_built()
    workers = work.threads or default_workers(reader.name)
    in_flight = regions_in_flight(plan, workers, reader=reader.name)
    with thread_pool(workers) as submit:
        report = run_batch(plan, store, submit, reader=reader, in_flight=in_flight)
    if report.failed:
        raise SystemExit(f"{len(report.failed)} regions failed, the first: {next(iter(report.failed.values()))}")
    bound = Estimate(Traffic(), 0, region_memory(plan, reader.name)).memory(in_flight)
    clock.finish(tasks=report.regions, bound=bound, in_flight=in_flight)


def write_lazily(work: Workload, clock: Clock, plan: Plan, reader: Reader) -> None:
    """As a notebook does it."""
    dask.config.set(scheduler="threads", num_workers=work.threads)
    write(work, clock, open_ndvi(plan, reader=reader))


if __name__ == "__main__":
    main()
