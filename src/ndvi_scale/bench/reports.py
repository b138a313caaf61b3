"""What is written of results: a page, its tables as Markdown, tidy rows as CSV, and a calibration for `plan`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ndvi_scale.bench.analysis import analyse
from ndvi_scale.bench.calibrate import LEAST_SIZES, calibrate, median_error, series_of, site_of, validate
from ndvi_scale.bench.page import Extra, to_html, to_markdown
from ndvi_scale.bench.rows import read_rows, to_csv
from ndvi_scale.bench.sieve import sift
from ndvi_scale.bench.wording import answer, headline, series_name
from ndvi_scale.errors import ConfigError
from ndvi_scale.forecast import assumptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ndvi_scale.bench.calibrate import Held, Series
    from ndvi_scale.bench.findings import Findings
    from ndvi_scale.bench.rows import Measured

CALIBRATION: Final = "calibration.json"
REPORT: Final = "report.html"


@dataclass(frozen=True)
class Written:
    """Where the report is, and what a terminal may show of it."""

    html: Path
    markdown: Path
    lines: tuple[str, ...]
    """What was found, a line each."""


def write_reports(results: Path, method: Sequence[str] = ()) -> Written:
    """Write the report beside a file of results. Raises ConfigError where it holds no row that can be used.

    `method`: more on how it was measured, a line each.
    """
    measured = read_rows(results)
    findings = analyse(measured)
    usable = replace(measured, rows=sift(measured).used)
    checked = list(_checked(usable))
    told = [line for one in checked for line in one.assumptions]
    extra = Extra(
        forecast_rows=[line for one in checked for line in one.lines],
        assumptions=tuple(dict.fromkeys(told)),
        method=method,
    )
    html, markdown = results.with_name(REPORT), results.with_name("report.md")
    html.write_text(to_html(findings, extra), encoding="utf-8")
    markdown.write_text(to_markdown(findings, extra), encoding="utf-8")
    results.with_name("results.csv").write_text(to_csv(measured.rows), encoding="utf-8")
    lines = [
        headline(findings),
        *_answers(findings),
        *(one.told for one in checked),
        _calibrated(usable, results),
    ]
    return Written(html, markdown, tuple(line for line in lines if line))


def _answers(findings: Findings) -> Iterator[str]:
    """The answer to each study, where its rows give one."""
    currency = findings.environment.currency if findings.environment else ""
    for study in findings.studies:
        for series in study.series:
            found = answer(study, series, currency)
            if found is not None:
                name = series_name(study, series)
                doubts = "".join(f" But: {flag}." for flag in series.flags)
                where = f"{study.name}{f' ({name})' if name else ''}"
                yield f"{where}: {found.figure} {found.claim}. {found.detail}{doubts}"


def _calibrated(measured: Measured, results: Path) -> str:
    """Write what `plan` forecasts with; says where, or why not. An older one is not left then."""
    path = results.with_name(CALIBRATION)
    try:
        calibration = calibrate(measured)
    except ConfigError as error:
        path.unlink(missing_ok=True)
        return f"No calibration for `plan`: {error}"
    path.write_text(calibration.to_json(), encoding="utf-8")
    return f"What a run elsewhere would take: ndvi-scale plan … --calibration {path}"


@dataclass(frozen=True)
class _Checked:
    """A series' forecasts of sizes that it was not calibrated on, beside what was measured."""

    lines: Sequence[Mapping[str, str]]
    assumptions: list[str]
    told: str


def _checked(measured: Measured) -> Iterator[_Checked]:
    """Of every series with sizes to spare; calibrated on the smallest two."""
    for series, rows in series_of(measured.rows).items():
        sizes = sorted({row.cell.workers for row in rows})
        if len(sizes) <= LEAST_SIZES:
            continue
        seen = sizes[:LEAST_SIZES]
        try:
            held = validate(measured, seen, series)
            calibration = calibrate(measured, seen, series)
        except ConfigError as error:
            yield _Checked([], [f"{series}: no forecast: {error}"], "")
            continue
        inside = sum(one.contained for one in held)
        told = (
            f"Forecast of {series}, calibrated on {' and '.join(map(str, seen))} workers: median error "
            f"{median_error(held):.0%}, {inside} of {len(held)} larger sizes within the 90 % interval"
        )
        lines = [_line(series, one) for one in held]
        yield _Checked(lines, [told, *assumptions(calibration, site_of(rows[0], calibration))], told)


def _line(series: Series, held: Held) -> dict[str, str]:
    return {
        "series": str(series),
        "workers": str(held.workers),
        "regions": f"{held.regions:,}",
        "measured": f"{held.measured:.2f} s",
        "forecast": f"{held.forecast.wall:.2f} s",
        "90 % interval": f"{held.forecast.low:.2f}–{held.forecast.high:.2f} s",
        "error": f"{held.error:+.0%}",
        "": "inside" if held.contained else "outside",
    }
