"""The tables of docs/benchmarks.md, between markers that say which workload's they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.peers.results import Results
    from benchmarks.peers.stats import Interval
    from benchmarks.peers.workloads import Contender

OURS: Final = "ours"
SPEED_COLUMNS: Final = (
    "", "wall s", "ours is faster by", "× floor", "whole process s", "processor s", "peak MB", "requests",
    "bytes ÷ needed", "build s", "tasks", "other pixels",
)  # fmt: skip
GRAPH_COLUMNS: Final = ("", "plan s", "build s", "materialise s", "tasks", "chunks", "tasks per chunk", "peak MB")
BYTES_COLUMNS: Final = (
    "", "wall s", "requests", "blocks", "header reads", "files", "MB fetched", "bytes ÷ needed", "peak MB",
    "bound MB",
)  # fmt: skip
MISSING: Final = "–"


def write_docs(page: Path, sections: dict[str, str]) -> None:
    """Put each text between ``<!-- peers:NAME -->`` and ``<!-- /peers:NAME -->`` of a page. Raises ValueError."""
    text = page.read_text(encoding="utf-8")
    for name, section in sections.items():
        begin, end = f"<!-- peers:{name} -->", f"<!-- /peers:{name} -->"
        found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not found.search(text):
            raise ValueError(f"{page} has no place for {name!r}: put {begin} and {end} where its table is to stand")
        text = found.sub(lambda _, held=f"{begin}\n\n{section}\n\n{end}": held, text)
    page.write_text(text, encoding="utf-8")


def section(results: Results, contenders: Sequence[Contender]) -> str:
    """The text of one workload: what was measured where, and its table."""
    columns, cells = {
        "graph": (GRAPH_COLUMNS, graph_cells),
        "tile": (SPEED_COLUMNS, speed_cells),
        "window": (SPEED_COLUMNS, speed_cells),
    }.get(results.header["workload"], (BYTES_COLUMNS, byte_cells))
    lines = [
        f"**{results.header['title']}.** {_circumstances(results)}",
        "",
        _row(columns),
        "|" + "---|" * len(columns),
    ]
    for contender in contenders:
        failure = results.failure(contender.name)
        if failure is not None:
            told = f"FAILED: {' '.join(failure.replace('|', '/').split())[:160]}"
            lines.append(_row([contender.label, told, *[""] * (len(columns) - 2)]))
        elif results.of(contender.name):
            lines.append(_row([contender.label, *cells(results, contender.name)]))
    return "\n".join(lines)


def _circumstances(results: Results) -> str:
    header, needed = results.header, results.header["needed"]
    rounds = max((run["round"] for run in results.runs), default=0)
    told = [header["date"], f"commit {header['commit']}", header["machine"], f"origin: {header['origin']}"]
    told.append(f"{rounds} rounds")
    if needed:
        told.append(f"needed: {needed['blocks']} blocks of {needed['files']} files, {needed['bytes'] / 1e6:.1f} MB")
    return "; ".join(told) + "."


def speed_cells(results: Results, name: str) -> list[str]:
    """A contender's time, and what it took beside."""
    return [
        spread(results.interval(name, "wall")),
        MISSING if name == OURS else spread(results.ratio(name, OURS), "×"),
        spread(results.ratio(name, "floor")),
        spread(results.interval(name, "process_wall")),
        spread(results.interval(name, "processor")),
        spread(results.interval(name, "memory"), scale=1e-6, digits=0),
        spread(results.interval(name, "requests"), digits=0),
        spread(_over_needed(results, name)),
        spread(results.interval(name, "build")),
        spread(results.interval(name, "tasks"), digits=0),
        f"{max(run['different'] for run in results.of(name)):,}",
    ]


def graph_cells(results: Results, name: str) -> list[str]:
    """Time to a graph, and how large it is."""
    tasks, chunks = results.interval(name, "tasks"), results.interval(name, "chunks")
    return [
        spread(results.interval(name, "plan")),
        spread(results.interval(name, "graph")),
        spread(results.interval(name, "compute")),
        spread(tasks, digits=0),
        spread(chunks, digits=0),
        MISSING if tasks is None or chunks is None else f"{tasks.median / chunks.median:.2f}",
        spread(results.interval(name, "memory"), scale=1e-6, digits=0),
    ]


def byte_cells(results: Results, name: str) -> list[str]:
    """What ours asks of the origin, and the memory that it takes."""
    needed = results.header["needed"]
    return [
        spread(results.interval(name, "wall")),
        spread(results.interval(name, "requests"), digits=0),
        str(needed["blocks"]),
        spread(results.interval(name, "headers"), digits=0),
        str(needed["files"]),
        spread(results.interval(name, "bytes"), scale=1e-6, digits=1),
        spread(_over_needed(results, name)),
        spread(results.interval(name, "memory"), scale=1e-6, digits=0),
        spread(results.interval(name, "allowed"), scale=1e-6, digits=0),
    ]


def _over_needed(results: Results, name: str) -> Interval | None:
    found = results.interval(name, "bytes")
    needed = results.header["needed"]["bytes"]
    if found is None or not found.median:  # the floor asks the origin nothing
        return None
    return type(found)(found.median / needed, found.low / needed, found.high / needed, found.coverage)


def spread(found: Interval | None, unit: str = "", *, scale: float = 1, digits: int = 2) -> str:
    """Median, with the interval where it is wider than what is shown."""
    if found is None:
        return MISSING
    middle, low, high = (f"{value * scale:,.{digits}f}" for value in (found.median, found.low, found.high))
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low}–{high})"


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
