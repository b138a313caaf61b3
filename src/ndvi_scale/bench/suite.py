"""The whole suite: the rows of a factor table that are not measured yet, in a random order, cluster by cluster."""

from __future__ import annotations

import datetime as dt
import fcntl
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from ndvi_scale.bench import rows as kept
from ndvi_scale.bench.conditions import Conditions
from ndvi_scale.bench.environment import environment
from ndvi_scale.bench.measure import Bench, Opened, measured
from ndvi_scale.bench.origin import Pace
from ndvi_scale.bench.rows import Row
from ndvi_scale.bench.sieve import sift
from ndvi_scale.bench.workload import Sources
from ndvi_scale.cluster.opening import open_cluster
from ndvi_scale.cluster.profiles import find_spec, read_profiles
from ndvi_scale.cluster.rendering import render
from ndvi_scale.errors import ConfigError, NdviScaleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ndvi_scale.bench.factors import Table
    from ndvi_scale.bench.rows import Cell
    from ndvi_scale.cluster.spec import ClusterSpec
    from ndvi_scale.cluster.submit import DaskSubmit

RESULTS: Final = "results.jsonl"


@dataclass(frozen=True)
class Watch:
    """Who is told of what goes on."""

    say: Callable[[str], None]
    """A line for a person."""
    measured: Callable[[Row, int, int], None]
    """A row, its number from 1, and how many there are."""


@dataclass(frozen=True)
class Ran:
    """Where results are, and how many of the table they hold."""

    results: Path
    environment: str
    """Id of the one that was measured in."""
    done: int
    """Rows of the table that can be used."""
    missing: int
    """Rows of the table that cannot."""


def run_suite(table: Table, folder: Path, cluster_file: Path | None, watch: Watch) -> Ran:
    """Measure what the results in `folder` do not hold yet.

    A run that was broken off is taken up: rows that a report would use are not measured again. Rows of another
    machine, other versions or other conditions are, since they could not be compared. Raises ConfigError or
    StoreError for what can never be measured, before anything is, and for a folder that another run uses.
    """
    profiles = read_profiles(cluster_file)
    names = sorted({cluster for study in table.studies for cluster in study.clusters})
    specs = {name: find_spec(name, profiles) for name in names}
    conditions = Conditions(table, specs)
    conditions.require()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), Sources(folder, watch.say, Pace(table.rate, table.delay, table.host)) as sources:
        here = environment(table.price, table.currency, {name: _script(spec) for name, spec in specs.items()})
        results = folder / RESULTS
        wanted = table.rows()
        cells = {cell: conditions.of(cell) for group in wanted for cell in group}
        done = _done(results, here.id, cells)
        kept.append(results, here)
        groups = [left for group in wanted if (left := [cell for cell in group if cell not in done])]
        bench = Bench(table, sources, here.id, folder, f"{dt.datetime.now(dt.UTC):%H%M%S%f}", conditions)
        total, number = sum(map(len, groups)), 0
        for group in groups:
            for row in _measured_group(bench, group, specs[group[0].cluster], number):
                number += 1
                kept.append(results, row)
                watch.measured(row, number, total)
        shutil.rmtree(folder / "outputs", ignore_errors=True)
    done = _done(results, here.id, cells)
    return Ran(results, here.id, len(done), len(cells) - len(done))


def _done(results: Path, here: str, cells: Mapping[Cell, str]) -> set[Cell]:
    """Those that need not be measured again, of cells with their conditions."""
    if not results.exists():
        return set()
    try:
        used = sift(kept.read_rows(results), here).used
    except ConfigError:  # not one row: nothing to take up
        return set()
    return {row.cell for row in used if row.environment == here and cells.get(row.cell) == row.conditions}


def _script(spec: ClusterSpec) -> str:
    """What would be submitted, where there is such a thing."""
    try:
        return render(spec) or ""
    except NdviScaleError as error:  # opening it will say the same, in its rows
        return f"cannot be rendered: {error}"


def _measured_group(bench: Bench, group: list[Cell], spec: ClusterSpec, number: int) -> Iterator[Row]:
    """The rows of cells that share a cluster. One that does not come fails them all, and says why."""
    first, rows = group[0], 0
    sized = replace(spec, workers=first.workers, threads=first.threads, adapt=None)
    try:
        began = time.perf_counter()
        with open_cluster(sized) as submit:
            # Conditions let no threads of this process pass, so it is workers of Dask that came.
            opened = Opened.of(cast("DaskSubmit", submit), time.perf_counter() - began)
            for cell in group:
                row = measured(bench, cell, opened, number + rows)
                rows += 1
                yield row
    except NdviScaleError as error:  # what is wrong with one cluster keeps no other from being measured
        for place, cell in enumerate(group[rows:], number + rows):
            yield _failed(bench, cell, str(error), place)


def _failed(bench: Bench, cell: Cell, why: str, order: int) -> Row:
    began = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    conditions = bench.conditions.of(cell)
    return Row(cell, bench.environment, began, order, status="failed", reason=why, conditions=conditions)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only run in a folder: two would slow each other down. Raises ConfigError."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another benchmark measures in {folder}: wait for it, or give another folder"
            ) from None
        yield
