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
    kind = results.header["workload"]
    rows = {"graph": graph_rows, "tile": speed_rows, "window": speed_rows}.get(kind, byte_rows)
    title = f"**{results.header['title']}.** {_circumstances(results)}"
    return "\n".join(
        [title, "", *rows(results, [c for c in contenders if results.of(c.name) or results.failure(c.name)])]
    )


def _circumstances(results: Results) -> str:
    header = results.header
    rounds = max((run["round"] for run in results.runs), default=0)
    needed = header["needed"]
    blocks = (
        f"; needed: {needed['blocks']} blocks of {needed['files']} files, {needed['bytes'] / 1e6:.1f} MB"
        if needed
        else ""
    )
    return (
        f"{header['date']}, commit {header['commit']}, {header['machine']}; origin: {header['origin']}; "
        f"{rounds} rounds{blocks}."
    )


def speed_rows(results: Results, contenders: Sequence[Contender]) -> list[str]:
    """Everybody's time, in the order of the list."""
    lines = _head(SPEED_COLUMNS)
    for contender in contenders:
        name = contender.name
        failure = results.failure(name)
        if failure is not None:
            lines.append(_row([contender.label, f"FAILED: {_cell(failure)}", *[""] * (len(SPEED_COLUMNS) - 2)]))
            continue
        different = [run["different"] for run in results.of(name)]
        cells = [
            contender.label,
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
            f"{max(different):,}",
        ]
        lines.append(_row(cells))
    return lines


def graph_rows(results: Results, contenders: Sequence[Contender]) -> list[str]:
    """Time to a graph, and how large it is."""
    lines = _head(GRAPH_COLUMNS)
    for contender in contenders:
        name = contender.name
        tasks, chunks = results.interval(name, "tasks"), results.interval(name, "chunks")
        per_chunk = MISSING if tasks is None or chunks is None else f"{tasks.median / chunks.median:.2f}"
        lines.append(
            _row(
                [
                    contender.label,
                    spread(results.interval(name, "plan")),
                    spread(results.interval(name, "graph")),
                    spread(results.interval(name, "compute")),
                    spread(tasks, digits=0),
                    spread(chunks, digits=0),
                    per_chunk,
                    spread(results.interval(name, "memory"), scale=1e-6, digits=0),
                ]
            )
        )
    return lines


def byte_rows(results: Results, contenders: Sequence[Contender]) -> list[str]:
    """What ours asks of the origin, and the memory that it takes."""
    lines = _head(BYTES_COLUMNS)
    needed = results.header["needed"]
    for contender in contenders:
        name = contender.name
        failure = results.failure(name)
        if failure is not None:
            lines.append(_row([contender.label, f"FAILED: {_cell(failure)}", *[""] * (len(BYTES_COLUMNS) - 2)]))
            continue
        cells = [
            contender.label,
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
        lines.append(_row(cells))
    return lines


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


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:160]


def _head(columns: Sequence[str]) -> list[str]:
    return [_row(columns), "|" + "---|" * len(columns)]


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
