"""The report: one HTML page that needs nothing beside it, and the same in Markdown.

All text of rows, profiles and environments is escaped here; what comes before handles plain text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.bench.analysis import EMULATED
from ndvi_scale.bench.charts import study_charts
from ndvi_scale.bench.tables import Table, environment_table, forecast_table, series_tables
from ndvi_scale.bench.wording import (
    Answer,
    answer,
    headline,
    law_lines,
    method,
    omitted_names,
    purpose,
    series_name,
    shared_facts,
)
from ndvi_scale.errors import ConfigError
from ndvi_scale.outside import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ndvi_scale.bench.findings import Findings, Series, Study

TITLE: Final = "Cluster sizes compared"

_TEMPLATE: Final = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Foretold:
    """A series' forecasts of sizes that it was not calibrated on, beside what was measured."""

    name: str
    """Of the series."""
    told: str
    """How good they are, or why there are none."""
    rows: Sequence[Mapping[str, str]] = ()
    """Lines of the forecast's table: column → cell."""
    assumptions: Sequence[str] = ()


@dataclass(frozen=True)
class Extra:
    """What a report says beside its findings."""

    foretold: Sequence[Foretold] = ()
    method: Sequence[str] = ()
    """More on how it was measured: the seed, the command."""
    title: str = TITLE


@dataclass(frozen=True)
class _Series:
    """A series as the page shows it."""

    name: str
    kind: str
    """What is said wherever it is named: that nodes are emulated."""
    answer: Answer | None
    flags: tuple[str, ...]
    reasons: tuple[str, ...]
    labels: tuple[str, ...]
    law: list[tuple[str, str]]
    tables: list[Table]


def to_html(findings: Findings, extra: Extra | None = None) -> str:
    """A page that is whole by itself: styles and charts inside, no script. Raises ConfigError without jinja2."""
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError:
        raise ConfigError("a page is written by jinja2: pip install 'ndvi-scale[bench]'") from None
    extra = extra or Extra()
    studies = []
    for place, study in enumerate(findings.studies):
        charts = {caption: Markup(svg) for caption, svg in study_charts(study).items()}  # noqa: S704 - text in it is escaped by matplotlib
        studies.append(_study_view(findings, study) | {"anchor": f"study-{place}", "charts": charts})
    environment = Environment(autoescape=True, finalize=_clean)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        **_common(findings, extra),
        studies=studies,
        scripts=findings.environment.scripts if findings.environment else {},
    )


def _study_view(findings: Findings, study: Study) -> dict[str, Any]:
    return {
        "name": study.name,
        "purpose": purpose(study),
        "facts": shared_facts(study),
        "series": [_series_view(findings, study, series) for series in study.series],
    }


def _series_view(findings: Findings, study: Study, series: Series) -> _Series:
    currency = findings.environment.currency if findings.environment else ""
    return _Series(
        name=series_name(study, series),
        kind=EMULATED if series.cell.emulated else "",
        answer=answer(study, series, currency),
        flags=series.flags,
        reasons=series.reasons,
        labels=series.labels,
        law=law_lines(series.law) if series.law else [],
        tables=series_tables(study, series, currency),
    )


def _common(findings: Findings, extra: Extra) -> dict[str, Any]:
    return {
        "title": extra.title,
        "headline": headline(findings),
        "forecast": forecast_table([row for one in extra.foretold for row in one.rows]),
        "foretold": extra.foretold,
        "omitted": omitted_names(findings),
        "problems": findings.problems,
        "method": [*method(findings), *extra.method],
        "machine": environment_table(findings),
    }


def _clean(value: Any) -> Any:
    """Text without what steers: lines and tabs stay, since job scripts have them."""
    if type(value) is not str:  # Markup is text that is already as it should be
        return value
    return re.sub(r"[^\n\t]+", lambda found: printable(found[0]), value)


def to_markdown(findings: Findings, extra: Extra | None = None) -> str:
    """The same without charts, headings from level 3 on: a part of a page."""
    extra = extra or Extra()
    told = _common(findings, extra)
    blocks = [_text(told["headline"])]
    for study in findings.studies:
        blocks += [
            f"### {_text(study.name)}",
            _text(" ".join([purpose(study), _joined(shared_facts(study))]).strip()),
        ]
        for series in study.series:
            blocks += _series_blocks(_series_view(findings, study, series))
    if told["forecast"]:
        blocks += ["### Beyond what was measured", _markdown_table(told["forecast"])]
    for one in told["foretold"]:
        blocks += [f"**Forecast of {_text(one.name)}**: {_text(one.told)}.", _bullets(one.assumptions)]
    if told["problems"] or told["omitted"]:
        left_out = [
            f"{len(rows)} left out, {reason}: {'; '.join(rows)}" for reason, rows in told["omitted"].items()
        ]
        blocks += ["### Problems, and rows left out", _bullets([*told["problems"], *left_out])]
    blocks += ["### How it was measured", _bullets(told["method"])]
    blocks += ["### Machine and versions", _markdown_table(told["machine"])] if told["machine"] else []
    return "\n\n".join(block for block in blocks if block) + "\n"


def _series_blocks(view: _Series) -> list[str]:
    blocks = [f"#### {_text(view.name)}"] if view.name else []
    if view.answer:
        said = f"{view.answer.detail} {view.answer.also}".strip()
        blocks.append(f"**{_text(f'{view.answer.figure} {view.answer.claim}')}.** {_text(said)}")
    blocks.append(_bullets([*(f"Doubt: {flag}" for flag in view.flags), *view.labels, *view.reasons]))
    blocks.append(_bullets([f"{name}: {value}" for name, value in view.law]))
    return blocks + [_markdown_table(table) for table in view.tables]


def _joined(facts: Sequence[str]) -> str:
    return f"{', '.join(facts)}." if facts else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _markdown_table(table: Table) -> str:
    heads = [f"{column.name}, {column.unit}" if column.unit else column.name for column in table.columns]
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [[_with_note(line.cells[0], line.note), *line.cells[1:]] for line in table.lines]
    written = [heads, *lines]
    body = ["| " + " | ".join(_text(cell) for cell in cells) + " |" for cells in written]
    return "\n".join([body[0], "|" + "|".join(rules) + "|", *body[1:]])


def _with_note(cell: str, note: str) -> str:
    return f"{cell} ({note})" if note else cell


def _text(text: str) -> str:
    """Text of others on one line, in which nothing is markup."""
    line = printable(text.replace("\n", " "))
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", line).replace("\\<", "&lt;").replace("\\>", "&gt;")
