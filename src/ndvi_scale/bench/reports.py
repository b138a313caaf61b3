"""What is written of results: a page, its tables as Markdown, tidy rows as CSV, and a calibration for `plan`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ndvi_scale.bench.analysis import OVERSUBSCRIBED, analyse
from ndvi_scale.bench.calibrate import LEAST_SIZES, calibrate, held_out, median_error, series_of, site_of
from ndvi_scale.bench.page import Extra, Foretold, to_html, to_markdown
from ndvi_scale.bench.rows import read_rows, to_csv
from ndvi_scale.bench.sieve import sift
from ndvi_scale.bench.wording import answer, headline, omitted_by_reason, percent, rows_of, series_name
from ndvi_scale.errors import ConfigError
from ndvi_scale.forecast import assumptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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


def write_reports(results: Path, method: Sequence[str] = (), here: str = "") -> Written:
    """Write the report beside a file of results. Raises ConfigError where it holds no row that can be read.

    `method`: more on how it was measured, a line each. `here`: the environment that it is of, where the file has
    several; the one of most rows by default.
    """
    measured = read_rows(results)
    sifted = sift(measured, here)
    findings = analyse(measured, sifted)
    usable = replace(measured, rows=sifted.used)
    foretold = list(_foretold(usable))
    extra = Extra(foretold=foretold, method=method)
    html, markdown = results.with_name(REPORT), results.with_name("report.md")
    price = sifted.environment.price if sifted.environment else None
    csv = to_csv(measured.rows, sifted.reasons, price)
    html.write_text(to_html(findings, extra), encoding="utf-8")
    markdown.write_text(to_markdown(findings, extra), encoding="utf-8")
    results.with_name("results.csv").write_text(csv, encoding="utf-8")
    lines = [
        headline(findings),
        *(f"Problem: {problem}" for problem in findings.problems),
        *_left_out(findings),
        *_answers(findings),
        *(f"Forecast of {one.name}: {one.told}" for one in foretold),
        _calibrated(usable, results),
    ]
    return Written(html, markdown, tuple(lines))


def _left_out(findings: Findings) -> Iterator[str]:
    """Reason by reason, of which studies."""
    for why, rows in omitted_by_reason(findings).items():
        studies = dict.fromkeys(row.cell.study for row in rows)
        yield f"Left out: {rows_of(len(rows))} of {', '.join(studies)}: {why}"


def _answers(findings: Findings) -> Iterator[str]:
    """The answer to each study, or why its rows give none."""
    currency = findings.environment.currency if findings.environment else ""
    for study in findings.studies:
        for series in study.series:
            found = answer(study, series, currency)
            name = series_name(study, series)
            where = f"{study.name}{f' ({name})' if name else ''}"
            crowded = [label for label in series.labels if label.startswith(OVERSUBSCRIBED)]
            doubts = "".join(f" But: {flag}." for flag in (*series.flags, *crowded))
            if found is None:
                yield f"{where}: no answer. {' '.join(f'{reason}.' for reason in series.reasons)}{doubts}"
            else:
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
    return f"What a run elsewhere would take, by {calibration.name}: ndvi-scale plan … --calibration {path}"


def _foretold(measured: Measured) -> Iterator[Foretold]:
    """Of every series with sizes to spare: calibrated on the smallest two, forecasts of the others."""
    for series, rows in series_of(measured.rows).items():
        sizes = sorted({row.cell.workers for row in rows})
        if len(sizes) <= LEAST_SIZES:
            continue
        try:
            calibration = calibrate(measured, sizes[:LEAST_SIZES], series)
        except ConfigError as error:
            yield Foretold(str(series), f"none: {error}")
            continue
        held = held_out(rows, calibration)
        seen = " and ".join(map(str, calibration.sizes))
        inside = sum(one.contained for one in held)
        told = (
            f"calibrated on {seen} workers, median error {percent(median_error(held))}, {inside} of {len(held)} "
            "larger sizes within the 90 % interval"
        )
        lines = [_line(series, one) for one in held]
        yield Foretold(str(series), told, lines, assumptions(calibration, site_of(rows[0], calibration)))


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
