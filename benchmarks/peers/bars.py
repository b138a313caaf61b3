"""What has to be reached, and whether it is: always the end of the interval that is worse for ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.peers.results import Results

ODC: Final = ("odc", "odc-2", "odc-8", "odc-pool")
STACKSTAC: Final = ("stackstac", "stackstac-2", "stackstac-8")
LAZYCOGS: Final = ("lazycogs", "lazycogs-2", "lazycogs-8")
SPEED: Final = (
    # workload, what, peers of whom the fastest counts, ours, at least
    ("tile", "faster than stackstac's usual expression", ("stackstac",), "ours", 3.5),
    ("tile", "faster than odc-stac at the same two threads", ("odc-2",), "ours-2", 2.5),
    ("tile", "faster than odc-stac at its best", ODC, "ours", 1.8),
    ("tile", "faster than lazycogs at its best", LAZYCOGS, "ours", 1.0),
    ("window", "faster than stackstac at its best", STACKSTAC, "ours", 4.0),
    ("window", "faster than odc-stac at its best", ODC, "ours", 2.0),
    ("window", "faster than lazycogs at its best", LAZYCOGS, "ours", 1.0),
)


@dataclass(frozen=True)
class Bar:
    """One aim and what was measured of it."""

    what: str
    aim: str
    measured: str
    met: bool


def bars(held: Mapping[str, Results]) -> list[Bar]:
    """Every aim whose workload was measured."""
    found = [bar for line in SPEED if line[0] in held for bar in _speed(held[line[0]], *line)]
    if "tile" in held:
        found += _floor(held["tile"])
        found += _traffic(held["tile"], "one aligned tile", 1.05)
    if "nine" in held:
        found += _traffic(held["nine"], "nine tiles", 1.3)
    if "graph" in held:
        found += _graph(held["graph"])
    found += _memory(held)
    return found


def _speed(
    results: Results, workload: str, what: str, peers: tuple[str, ...], ours: str, aim: float
) -> Iterator[Bar]:
    walls = {peer: results.interval(peer, "wall") for peer in peers}
    medians = {peer: wall.median for peer, wall in walls.items() if wall is not None}
    if not medians:
        return
    fastest = min(medians, key=medians.__getitem__)
    ratio = results.ratio(fastest, ours)
    if ratio is not None:
        measured = f"{ratio.low:.2f} × (median {ratio.median:.2f}, {fastest} / {ours})"
        yield Bar(f"{workload}: {what}", f"≥ {aim:g} ×", measured, met=ratio.low >= aim)


def _floor(results: Results) -> Iterator[Bar]:
    ratio = results.ratio("ours", "floor")
    if ratio is not None:
        measured = f"{ratio.high:.2f} × (median {ratio.median:.2f})"
        yield Bar("tile: over the processor floor", "≤ 1.25 ×", measured, met=ratio.high <= 1.25)


def _traffic(results: Results, what: str, aim: float) -> Iterator[Bar]:
    sent, requests, headers = (results.interval("ours", name) for name in ("bytes", "requests", "headers"))
    if sent is None or requests is None or headers is None:
        return
    needed = results.header["needed"]
    over = sent.high / needed["bytes"]
    yield Bar(f"{what}: bytes over those needed", f"≤ {aim:g} ×", f"{over:.3f} ×", met=over <= aim)
    asked = f"{requests.high:.0f} of {needed['blocks']}"
    yield Bar(f"{what}: requests over blocks", "≤ 1 ×", asked, met=requests.high <= needed["blocks"])
    read = f"{headers.high:.0f} of {needed['files']} files"
    yield Bar(f"{what}: each header once", "= files", read, met=headers.high <= needed["files"])


def _graph(results: Results) -> Iterator[Bar]:
    built, tasks, chunks = (results.interval("ours", name) for name in ("graph", "tasks", "chunks"))
    if built is None or tasks is None or chunks is None:
        return
    yield Bar("25 tiles × 20 dates: lazy graph ready", "< 1 s", f"{built.high:.2f} s", met=built.high < 1)
    each = tasks.high / chunks.median
    yield Bar("25 tiles × 20 dates: tasks a chunk", "1", f"{each:.3f}", met=each < 1.01)


def _memory(held: Mapping[str, Results]) -> Iterator[Bar]:
    peaks = {name: held[name].interval("ours-4", "memory") for name in ("few", "dates", "nine") if name in held}
    for name, peak in peaks.items():
        allowed = held[name].interval("ours-4", "allowed")
        if peak is not None and allowed is not None:
            measured = f"{peak.high / 1e6:.0f} of {allowed.low / 1e6:.0f} MB"
            yield Bar(
                f"{name}: peak memory within the printed bound", "≤ bound", measured, met=peak.high <= allowed.low
            )
    small = peaks.get("few")
    for name in ("dates", "nine"):
        large = peaks.get(name)
        if small is not None and large is not None:
            grown = large.high / small.low
            yield Bar(f"{name}: peak memory over that of few", "≤ 1.15 ×", f"{grown:.2f} ×", met=grown <= 1.15)


def bar_rows(found: list[Bar]) -> list[str]:
    """The aims as a Markdown table."""
    lines = ["| aim | must be | measured | |", "|---|---|---|---|"]
    lines += [f"| {b.what} | {b.aim} | {b.measured} | {'met' if b.met else '**not met**'} |" for b in found]
    return lines
