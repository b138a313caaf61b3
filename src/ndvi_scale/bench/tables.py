"""Findings as tables of text: what a page prints, whether HTML or Markdown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ndvi_scale.bench.wording import MISSING, decimals, moment, point_name
from ndvi_scale.report import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ndvi_scale.bench.findings import Findings, Gain, Point, Series, Study

_HEADS: Final = {"granularity": "Chunk", "stages": "Stage", "storage": "Store"}


@dataclass(frozen=True)
class Column:
    """Head of a column."""

    name: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Line:
    """A row of cells, as many as there are columns."""

    cells: tuple[str, ...]
    mark: str = ""
    """``best``, ``aside`` (shown, not used) or nothing."""
    note: str = ""
    """Why it is marked."""


@dataclass(frozen=True)
class Table:
    """Text in columns."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def series_tables(study: Study, series: Series, currency: str) -> list[Table]:
    """Times first, then what they took."""
    if study.kind in {"strong", "weak"}:
        first = _scaling(study, series, currency)
    else:
        first = _comparison(study, series, currency)
    return [_filled(first), _filled(_means(study, series))]


def _filled(table: Table) -> Table:
    """Without columns that hold nothing."""
    keep = [n for n in range(len(table.columns)) if n == 0 or any(line.cells[n] != MISSING for line in table.lines)]
    lines = [replace(line, cells=tuple(line.cells[n] for n in keep)) for line in table.lines]
    return replace(table, columns=tuple(table.columns[n] for n in keep), lines=tuple(lines))


def _scaling(study: Study, series: Series, currency: str) -> Table:
    gained = "Scaled speed-up" if study.kind == "weak" else "Speed-up"
    columns = [Column("Workers"), *_time_columns(), Column(gained), Column("95 %"), Column("Efficiency")]
    columns += [
        Column("Serial", "Gustafson" if study.kind == "weak" else "Karp–Flatt"),
        Column("Rate", "Mpx/s"),
        Column("Cost", currency),
    ]
    digits = _digits(series)
    lines = []
    for point in series.points:
        gain = series.gains.get(point.cell.workers)
        cells = [f"{point.cell.workers}", *_times(point, digits), *_gain_cells(gain)]
        lines.append(_line(series, point, [*cells, *_yield_cells(series, point)]))
    return Table("Times and scaling", tuple(columns), tuple(lines))


def _comparison(study: Study, series: Series, currency: str) -> Table:
    base = series.point("full") if study.kind == "stages" else series.fastest
    share = Column("Of a full run", "%") if study.kind == "stages" else Column("To the fastest", "×")
    first = Column(_HEADS[study.kind], numeric=study.kind == "granularity")
    columns = [first, *_time_columns(), share, Column("95 %"), Column("Rate", "Mpx/s"), Column("Cost", currency)]
    digits = _digits(series)
    form = _percent if study.kind == "stages" else "{:.2f}".format
    lines = []
    for point in series.points:
        ratio = _shown(_ratio(point.median, base.median if base else None), form)
        span = series.slower.get(point.cell)
        ends = f"{span[0]:.2f}–{span[1]:.2f}" if span else MISSING
        cells = [
            point_name(study.kind, point.cell),
            *_times(point, digits),
            ratio,
            ends,
            *_yield_cells(series, point),
        ]
        lines.append(_line(series, point, cells))
    return Table("Times", tuple(columns), tuple(lines))


def _means(study: Study, series: Series) -> Table:
    head = _HEADS.get(study.kind, "Workers")
    columns = [Column(head, numeric=study.kind not in {"stages", "storage"}), Column("Arrived", "of asked")]
    columns += [Column("Left out", "rows"), Column("Start-up", "s"), Column("First hand-over", "s")]
    columns += [Column("Busy", "%"), Column("CPU a worker", "% of a core"), Column("Scheduler CPU", "% of a core")]
    columns += [Column("Peak memory"), Column("Of limit", "%")]
    lines = [
        _line(series, point, [point_name(study.kind, point.cell), *_means_cells(point)]) for point in series.points
    ]
    return Table("What it took", tuple(columns), tuple(lines))


def _means_cells(point: Point) -> list[str]:
    came = MISSING if point.arrived is None else f"{point.arrived} of {point.cell.workers}"
    memory = _ratio(point.peak_memory, point.memory_limit)
    percents = (_shown(value, _percent) for value in (point.busy, point.worker_cpu, point.scheduler_cpu))
    return [
        came,
        f"{point.left_out}" if point.left_out else MISSING,
        _shown(point.startup, "{:.1f}".format),
        _shown(point.submit, "{:.2f}".format),
        *percents,
        _shown(point.peak_memory, size),
        _shown(memory, _percent),
    ]


def _time_columns() -> list[Column]:
    return [Column("n"), Column("Median", "s"), Column("Least", "s"), Column("Quartiles", "s")]


def _times(point: Point, digits: int) -> list[str]:
    if not point.walls:
        return ["0", MISSING, MISSING, MISSING]
    span = point.quartiles
    quartiles = f"{span[0]:.{digits}f}–{span[1]:.{digits}f}" if span else MISSING
    return [f"{len(point.walls)}", f"{point.median:.{digits}f}", f"{min(point.walls):.{digits}f}", quartiles]


def _digits(series: Series) -> int:
    """Decimals of all times of a series, so that they stand below each other."""
    return decimals([wall for point in series.points for wall in point.walls])


def _gain_cells(gain: Gain | None) -> list[str]:
    if gain is None:
        return [MISSING] * 4
    interval = f"{gain.interval[0]:.2f}–{gain.interval[1]:.2f}" if gain.interval else MISSING
    return [f"{gain.speedup:.2f}", interval, f"{gain.efficiency:.2f}", _shown(gain.serial, "{:.3f}".format)]


def _yield_cells(series: Series, point: Point) -> list[str]:
    """Rate and cost, with the decimals that the smallest of each column needs."""
    columns = [(point.rate, [one.rate for one in series.points]), (point.cost, [one.cost for one in series.points])]
    return [_shown(value, f"{{:,.{decimals(all_of)}f}}".format) for value, all_of in columns]


def _line(series: Series, point: Point, cells: Iterable[str]) -> Line:
    found = Line(tuple(cells))
    if not point.walls:
        return replace(found, mark="aside", note="no row")
    if point.oversubscribed:
        return replace(found, mark="aside", note="oversubscribed")
    advice = series.advice
    if advice and point.cell.workers == advice.enough:
        return replace(found, mark="best", note="enough")
    if not series.gains and point is series.fastest and point.cell.stage == "full" and len(series.points) > 1:
        return replace(found, mark="best", note="fastest")
    if point.cell.workers == series.baseline:
        return replace(found, note="baseline" if series.baseline == 1 else f"baseline of {series.baseline}")
    return found


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _shown(value: float | None, form: Callable[[float], str]) -> str:
    return MISSING if value is None else form(value)


def _percent(share: float) -> str:
    return f"{share * 100:.1f}" if share < 0.1 else f"{share * 100:.0f}"  # noqa: PLR2004 - two digits


def environment_table(findings: Findings) -> Table | None:
    """Machine, versions, price."""
    environment = findings.environment
    if environment is None:
        return None
    price = MISSING if environment.price is None else f"{environment.price:g} {environment.currency} an hour"
    facts = {
        "machine": environment.machine,
        "cores": f"{environment.cores}",
        "memory": size(environment.memory),
        "measured": f"{moment(findings.began)} to {moment(findings.ended)}",
        "price of a worker": price,
    }
    named = facts | {name: environment.versions[name] for name in sorted(environment.versions)}
    lines = tuple(Line((name, value)) for name, value in named.items())
    return Table("Where and with what", (Column("", numeric=False), Column("", numeric=False)), lines)


def forecast_table(rows: Iterable[Mapping[str, str]]) -> Table | None:
    """Rows of a forecast, columns in the order in which they first appear."""
    found = list(rows)
    names = list(dict.fromkeys(name for row in found for name in row))
    if not names:
        return None
    lines = tuple(Line(tuple(str(row.get(name, MISSING)) for name in names)) for row in found)
    columns = tuple(Column(name, numeric=_mostly_numbers([row.get(name, "") for row in found])) for name in names)
    return Table("Forecast", columns, lines)


def _mostly_numbers(values: list[str]) -> bool:
    """Whether cells are figures, which stand at the right."""
    return sum(str(value)[:1].isdigit() for value in values) * 2 > len(values)
