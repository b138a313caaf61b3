"""Findings as charts: SVG text that takes its colours from the page around it, or from its own without one.

Figures are drawn with matplotlib's objects, never through pyplot, so that no state is shared. The same findings
always give the same bytes.
"""

from __future__ import annotations

import io
import re
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.bench.wording import STAGE_NAMES, point_name, series_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ndvi_scale.bench.findings import Point, Series, Study

WIDTH: Final = 6.4
"""Inches; of a chart that is a column wide."""

HEIGHT: Final = 3.7

NAME: Final = 56
"""Characters of a series' name on a line."""

_INK: Final = "#010101"
_MUTED: Final = "#020202"
_GRID: Final = "#030303"
_CARD: Final = "#040404"
_SERIES: Final = ("#110101", "#110202", "#110303", "#110404", "#110505", "#110606")
"""What is drawn with: names of colours, which `_themed` replaces."""

_COLOURS: Final = {
    _INK: ("ink", "#1d2530"),
    _MUTED: ("muted", "#5c6775"),
    _GRID: ("rule", "#dde2e8"),
    _CARD: ("card", "#ffffff"),
    # Okabe and Ito's (2008), which every kind of colour vision tells apart; their yellow is too pale for lines.
    _SERIES[0]: ("c1", "#0072b2"),
    _SERIES[1]: ("c2", "#d55e00"),
    _SERIES[2]: ("c3", "#009e73"),
    _SERIES[3]: ("c4", "#cc79a7"),
    _SERIES[4]: ("c5", "#e69f00"),
    _SERIES[5]: ("c6", "#56b4e9"),
}

_MARKERS: Final = ("o", "s", "^", "D", "v", "P")

_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ndvi-scale",
    "text.parse_math": False,  # names are others': a dollar is a dollar
    "font.family": ["sans-serif"],
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}


def study_charts(study: Study) -> dict[str, str]:
    """Caption → SVG, of all that a study has enough points for."""
    if study.kind == "strong":
        laws = [series for series in study.series if series.law]
        charts = {"Run time against the ideal": runtime_chart, "Efficiency": efficiency_chart}
        found = {caption: chart(study) for caption, chart in charts.items() if _has_points(study)}
        return found | {_law_caption(study, series): law_chart(study, series) for series in laws}
    chart = {
        "weak": ("Efficiency as work grows", efficiency_chart),
        "stages": ("Stages", stages_chart),
        "granularity": ("Time by chunk size", granularity_chart),
        "storage": ("Time by store", storage_chart),
    }.get(study.kind)
    return {chart[0]: chart[1](study)} if chart and _has_points(study) else {}


def _has_points(study: Study) -> bool:
    return any(sum(bool(point.walls) for point in series.points) > 1 for series in study.series)


def _law_caption(study: Study, series: Series) -> str:
    name = series_name(study, series)
    return f"Scalability law: {name}" if name else "Scalability law"


def runtime_chart(study: Study) -> str:
    """Seconds by workers, both logarithmic, with the line of ideal speed-up from each baseline."""
    return _drawn(study.name + "-runtime", lambda figure: _runtime(figure, study))


def _runtime(figure: Figure, study: Study) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.subplots()
    for place, series in enumerate(study.series):
        points = [point for point in series.points if point.walls]
        if not points:
            continue
        colour = _colour(place)
        _ideal(axes, points, series.baseline)
        for point in points:
            axes.plot([point.cell.workers] * len(point.walls), point.walls, ".", color=colour, alpha=0.45, ms=4)
        sizes = [point.cell.workers for point in points]
        medians = [point.median or 0 for point in points]
        axes.plot(sizes, medians, "-", color=colour, marker=_marker(place), label=_label(study, series))
        aside = {point.cell.workers: point.median or 0 for point in points if not point.counts}
        _hollow(axes, aside, colour, _marker(place))
    _log_sizes(axes, [point.cell.workers for series in study.series for point in series.points])
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="workers", ylabel="seconds")
    _legend(axes, figure)


def _ideal(axes: Axes, points: Sequence[Point], base: int | None) -> None:
    first = next((point for point in points if point.cell.workers == base), None)
    if first is None or first.median is None:
        return
    sizes = [point.cell.workers for point in points if point.cell.workers >= first.cell.workers]
    ideal = [first.median * first.cell.workers / workers for workers in sizes]
    known = axes.get_legend_handles_labels()[1]
    label = "_" if "ideal" in known else "ideal"
    axes.plot(sizes, ideal, "--", color=_MUTED, linewidth=1.1, label=label)


def efficiency_chart(study: Study) -> str:
    """Efficiency by workers, with its interval; 1 is ideal."""
    return _drawn(study.name + "-efficiency", lambda figure: _efficiency(figure, study))


def _efficiency(figure: Figure, study: Study) -> None:
    axes = figure.subplots()
    axes.axhline(1, linestyle="--", color=_MUTED, linewidth=1.1, label="ideal")
    for place, series in enumerate(study.series):
        if not series.gains:
            continue
        colour, sizes = _colour(place), sorted(series.gains)
        shares = [series.gains[workers].efficiency for workers in sizes]
        axes.plot(sizes, shares, "-", color=colour, marker=_marker(place), label=_label(study, series))
        for workers in sizes:
            gain = series.gains[workers]
            if gain.interval and gain.speedup:
                ends = [end * gain.efficiency / gain.speedup for end in gain.interval]
                axes.plot([workers] * 2, ends, "-", color=colour, linewidth=3.5, alpha=0.3, solid_capstyle="butt")
        aside = {point.cell.workers for point in series.points if not point.counts} & series.gains.keys()
        _hollow(axes, {workers: series.gains[workers].efficiency for workers in aside}, colour, _marker(place))
    _log_sizes(axes, [workers for series in study.series for workers in series.gains])
    axes.set(xlabel="workers", ylabel="efficiency", ylim=(0, max(1.12, axes.get_ylim()[1])))
    _legend(axes, figure)


def law_chart(study: Study, series: Series) -> str:
    """Speed-ups, the law that was fitted to them with its interval, and its peak."""
    name = f"{study.name}-law-{study.series.index(series)}"
    return _drawn(name, lambda figure: _law(figure, study, series))


def _law(figure: Figure, study: Study, series: Series) -> None:
    import numpy as np

    law = series.law
    if law is None:
        return
    axes = figure.subplots()
    colour = _colour(study.series.index(series))
    top = law.largest * 1.5
    sizes = np.linspace(law.base, top, 80)
    axes.plot(sizes, sizes / law.base, "--", color=_MUTED, linewidth=1.1, label="ideal")
    highest = max(gain.speedup for gain in series.gains.values())
    if law.interval:
        lows, highs = zip(*(law.interval.at(one / law.base) for one in sizes), strict=True)
        highest = max(highest, *highs)
        axes.fill_between(sizes, lows, highs, color=colour, alpha=0.18, linewidth=0, label="95 %")
    axes.plot(sizes, [law.usl.at(one / law.base) for one in sizes], color=colour, label="law")
    used = [point.cell.workers for point in series.points if point.counts]
    gains = [series.gains[workers].speedup for workers in used]
    axes.plot(used, gains, "o", color=colour, markeredgecolor=_CARD, markersize=7, label="measured")
    if law.peak <= top:
        axes.axvline(law.peak, color=_MUTED, linewidth=1, linestyle=":")
        axes.annotate(
            f"peak {law.peak:.1f}", (law.peak, 0), (5, 6), textcoords="offset points", color=_MUTED, fontsize=9
        )
    if top > law.largest:
        axes.axvspan(law.largest, top, color=_GRID, alpha=0.35, linewidth=0)
    axes.set(xlabel="workers", ylabel="speed-up", xlim=(law.base - 0.02 * top, top), ylim=(0, highest * 1.25))
    _legend(axes, figure)


def stages_chart(study: Study) -> str:
    """Seconds of each stage alone, one panel a series."""
    return _bars(study, "stages", lambda point: STAGE_NAMES[point.cell.stage])


def storage_chart(study: Study) -> str:
    """Seconds by store."""
    return _bars(study, "storage", lambda point: point_name("storage", point.cell))


def _bars(study: Study, name: str, label: Callable[[Point], str]) -> str:
    shown = [series for series in study.series if any(point.walls for point in series.points)]
    lines = sum(len(series.points) for series in shown)
    height = 0.8 + 0.36 * lines + sum(0.65 + 0.2 * (len(series_name(study, one)) // NAME) for one in shown)
    return _drawn(f"{study.name}-{name}", lambda figure: _bar_panels(figure, study, shown, label), height)


def _bar_panels(figure: Figure, study: Study, shown: Sequence[Series], label: Callable[[Point], str]) -> None:
    heights = [len(series.points) + 1 for series in shown]
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
    widest = max(max([point.median or 0, *(point.quartiles or ())]) for series in shown for point in series.points)
    for place, (axes, series) in enumerate(zip(panels[:, 0], shown, strict=True)):
        points = [point for point in series.points if point.walls]
        for line, point in enumerate(points):
            _bar(axes, line, point, _colour(place))
        axes.set_yticks(range(len(points)), [label(point) for point in points])
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.invert_yaxis()
        axes.set_xlim(0, widest * 1.16)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        if len(shown) > 1:
            axes.set_title(fill(series_name(study, series), NAME))
    panels[-1, 0].set_xlabel("seconds")


def _bar(axes: Axes, line: int, point: Point, colour: str) -> None:
    median = point.median or 0
    axes.barh(line, median, height=0.62, color=_CARD)  # the grid is not to shine through what is paler
    axes.barh(line, median, height=0.62, color=colour, alpha=1 if point.cell.stage == "full" else 0.6)
    span = point.quartiles
    if span:
        axes.plot(span, [line, line], color=_INK, linewidth=1.4)
    end = max(median, span[1] if span else 0)
    axes.annotate(
        f"{median:.3g}", (end, line), (6, 0), textcoords="offset points", va="center", color=_INK, fontsize=9
    )


def granularity_chart(study: Study) -> str:
    """Seconds by chunk side, with quartiles."""
    return _drawn(study.name + "-granularity", lambda figure: _granularity(figure, study))


def _granularity(figure: Figure, study: Study) -> None:
    axes = figure.subplots()
    for place, series in enumerate(study.series):
        points = [point for point in series.points if point.walls]
        colour = _colour(place)
        sides = [point.cell.chunk for point in points]
        medians = [point.median or 0 for point in points]
        axes.plot(sides, medians, "-", color=colour, marker=_marker(place), label=_label(study, series))
        for point in points:
            if point.quartiles:
                axes.plot([point.cell.chunk] * 2, point.quartiles, color=colour, linewidth=3.5, alpha=0.3)
    _log_sizes(axes, [point.cell.chunk for series in study.series for point in series.points])
    axes.set(xlabel="pixels along a chunk's side", ylabel="seconds")
    axes.set_ylim(bottom=0)
    _legend(axes, figure)


def _label(study: Study, series: Series) -> str:
    name = fill(series_name(study, series), NAME) or "measured"
    return f" {name}" if name.startswith("_") else name  # matplotlib hides such names


def _colour(place: int) -> str:
    return _SERIES[place % len(_SERIES)]


def _marker(place: int) -> str:
    return _MARKERS[place % len(_MARKERS)]


def _hollow(axes: Axes, aside: Mapping[int, float], colour: str, marker: str) -> None:
    """Points from which nothing is concluded are drawn empty."""
    if aside:
        style = {"color": colour, "markerfacecolor": _CARD, "markersize": 7, "label": "oversubscribed"}
        axes.plot(list(aside), list(aside.values()), marker, **style)


def _log_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    """Ticks where something was measured, and nowhere else."""
    from matplotlib.ticker import NullLocator

    ticks = sorted(set(sizes))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(axes: Axes, figure: Figure) -> None:
    """Above the chart, where it covers nothing; of many lines it makes the figure higher."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if len(once) < 2:  # noqa: PLR2004 - what is alone needs no name
        return
    lines = [line for label in once for line in label.split("\n")]
    widest = 0.6 + 0.08 * max(map(len, lines))  # inches: the stroke, and about so much a character
    columns = max(1, min(4, int((WIDTH - 0.6) / widest)))
    figure.set_figheight(HEIGHT + 0.23 * ((len(lines) - 1) // columns))
    axes.legend(once.values(), once.keys(), loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns)


def _drawn(name: str, draw: Callable[[Figure], None], height: float = HEIGHT) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        draw(figure)
        for axes in figure.axes:
            axes.set_facecolor("none")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return _themed(_inline(out.getvalue(), re.sub(r"\W+", "-", name)))


def _inline(svg: str, name: str) -> str:
    """An SVG as a page may hold it beside others: without prolog and metadata, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" {_SPACES}>', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    return re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL).strip()


_SPACES: Final = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def _themed(svg: str) -> str:
    for name, (variable, colour) in _COLOURS.items():
        svg = svg.replace(name, f"var(--{variable}, {colour})")
    return svg
