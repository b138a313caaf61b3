"""How long a large plan and its dask graph take to be ready, and how large they are.

25 tiles x 20 dates, from items that are made up: nothing is read. Each turn runs in a fresh process, as a person's
first call would.

    uv run python benchmarks/graph.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import pickle
import statistics
import subprocess
import sys
import time
from pathlib import Path

from archive import granule_items
from pages import PAGE, write_between

ACROSS, DATES = 5, 20


def turn() -> dict[str, float]:
    """Seconds and sizes of one turn; imports are not counted."""
    import cloudpickle
    import dask

    from ndvi_scale.config import RunConfig
    from ndvi_scale.lazy import load_bands, open_ndvi
    from ndvi_scale.plan import build_plan

    items = granule_items(ACROSS, DATES)
    times = [time.perf_counter()]
    plan = build_plan(items, RunConfig())
    times.append(time.perf_counter())
    lazy = open_ndvi(plan)
    times.append(time.perf_counter())
    (ready,) = dask.optimize(lazy)
    graph = dict(ready.__dask_graph__())
    times.append(time.perf_counter())
    dict(load_bands(plan).__dask_graph__())
    times.append(time.perf_counter())
    build, opened, optimised, bands = (after - before for before, after in itertools.pairwise(times))
    return {
        "build_plan": build,
        "open_ndvi": opened,
        "both": build + opened,
        "optimise": optimised,
        "load_bands": bands,
        "chunks": lazy.data.npartitions,
        "nodes": len(graph),
        "plan": len(pickle.dumps(plan)),
        "graph": len(cloudpickle.dumps(graph)),
        "task": max(len(cloudpickle.dumps(node)) for key, node in graph.items() if isinstance(key, tuple)),
    }


def table(turns: list[dict[str, float]]) -> str:
    """What was measured, as Markdown."""
    names = {
        "build_plan": "`build_plan`",
        "open_ndvi": "`open_ndvi(plan)`, every task written down",
        "both": "both: the graph is ready",
        "optimise": "`dask.optimize` of it",
        "load_bands": "`load_bands(plan)`, every task written down",
    }
    one = turns[0]
    lines = [
        f"{ACROSS**2} tiles x {DATES} dates: {one['chunks']:,} chunks, {one['nodes']:,} nodes (a task a chunk, and",
        f"the plan). The plan is {one['plan'] / 1e6:.2f} MB pickled, the graph {one['graph'] / 1e6:.2f} MB, its",
        f"largest task {one['task']:.0f} bytes. {len(turns)} turns, each in a fresh process.",
        "",
        "| | seconds, median (range) |",
        "|---|---|",
    ]
    for key, name in names.items():
        values = [found[key] for found in turns]
        lines.append(f"| {name} | {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--one", action="store_true", help="one turn, printed as JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(turn()))
        return
    command = [sys.executable, __file__, "--one"]
    turns = [json.loads(subprocess.check_output(command)) for _ in range(given.turns)]
    text = table(turns)
    write_between(given.page, "graph", text)
    print(text)


if __name__ == "__main__":
    main()
