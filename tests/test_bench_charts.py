"""Charts: well-formed SVG that says what was measured, the same each time, whole by itself."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench_rows import CELL, full_suite, hal, measured, repeats
from ndvi_scale.bench.analysis import analyse
from ndvi_scale.bench.charts import efficiency_chart, law_chart, runtime_chart, stages_chart, study_charts

if TYPE_CHECKING:
    from ndvi_scale.bench.findings import Findings, Study

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def findings() -> Findings:
    return analyse(full_suite())


@pytest.fixture(scope="module")
def charts(findings: Findings) -> dict[str, dict[str, str]]:
    return {study.name: study_charts(study) for study in findings.studies}


def _texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own


def _study(findings: Findings, name: str) -> Study:
    return next(study for study in findings.studies if study.name == name)


def test_each_study_has_its_charts(charts: dict[str, dict[str, str]]) -> None:
    assert {name: list(drawn) for name, drawn in charts.items()} == {
        "strong": [
            "Run time against the ideal",
            "Efficiency",
            "Scalability law: kubernetes",
            "Scalability law: local",
            "Scalability law: slurm",
        ],
        "weak": ["Efficiency as work grows"],
        "cores": ["Run time against the ideal", "Efficiency"],
        "chunk size": ["Time by chunk size"],
        "stages": ["Stages"],
        "storage": ["Time by store"],
    }


def test_charts_are_whole_by_themselves_and_share_no_id(charts: dict[str, dict[str, str]]) -> None:
    ids: list[str] = []
    for svg in (one for drawn in charts.values() for one in drawn.values()):
        ET.fromstring(svg)  # noqa: S314 - our own
        own = re.findall(r'\bid="([^"]+)"', svg)
        asked = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
        assert {first or second for first, second in asked} <= set(own)
        ids += own
        assert not re.search(r'(?:href|src)="(?!#)', svg)
        assert "<metadata" not in svg
        assert "#010101" not in svg  # a name of a colour that was not replaced
    assert len(ids) == len(set(ids))


def test_the_same_rows_give_the_same_bytes(findings: Findings, charts: dict[str, dict[str, str]]) -> None:
    for study in findings.studies[:2]:
        assert study_charts(study) == charts[study.name]


def test_colours_are_the_page_s_or_their_own(findings: Findings) -> None:
    svg = runtime_chart(_study(findings, "strong"))
    assert "var(--c1, #0072b2)" in svg
    assert "var(--c3, #009e73)" in svg
    assert not set(re.findall(r"(?<![-, ])#[0-9a-f]{6}", svg)) - {"#000000"}


def test_axes_name_what_was_measured(findings: Findings) -> None:
    texts = _texts(runtime_chart(_study(findings, "strong")))
    assert {"1", "2", "4", "8", "16", "32", "workers", "seconds", "ideal", "local", "slurm", "kubernetes"} <= set(
        texts
    )
    assert "3" not in texts
    assert {"search", "read only", "full run", "8.96"} <= set(_texts(stages_chart(_study(findings, "stages"))))
    assert "oversubscribed" in _texts(efficiency_chart(_study(findings, "cores")))


def test_the_law_of_hal_is_drawn_with_its_peak() -> None:
    (study,) = analyse(hal(3)).studies
    texts = _texts(law_chart(study, study.series[0]))
    assert {"peak 8.2", "95 %", "law", "measured", "ideal"} <= set(texts)


def test_a_study_without_two_points_has_no_chart() -> None:
    (study,) = analyse(measured(*repeats(CELL, [1.0] * 3))).studies
    assert study_charts(study) == {}


def test_stages_of_several_series_have_a_panel_each() -> None:
    rows = []
    for workers in (1, 2):
        for stage, seconds in (("read", 2.0), ("full", 3.0)):
            cell = replace(CELL, kind="stages", study="stages", workers=workers, stage=stage)
            rows += repeats(cell, [seconds / workers] * 3)
    (study,) = analyse(measured(*rows)).studies
    texts = _texts(stages_chart(study))
    assert {"1 worker", "2 workers", "1.5"} <= set(texts)
    assert texts.count("read only") == 2


def test_names_of_others_are_text_in_a_chart() -> None:
    evil = "<script>alert(1)</script>$x$"
    rows = [*hal(3).rows, *(replace(one, cell=replace(one.cell, cluster=evil)) for one in hal(3).rows)]
    (study,) = analyse(measured(*rows)).studies
    svg = runtime_chart(study)
    assert "<script" not in svg
    assert evil in _texts(svg)


def test_many_series_with_long_names_find_room() -> None:
    cells = [replace(CELL, cluster="_c" * 30, store=f"s{n}", threads=n, workload="w" * 40) for n in range(1, 11)]
    rows = [one for cell in cells for n in (1, 2) for one in repeats(replace(cell, workers=n), [4.0 / n])]
    (study,) = analyse(measured(*rows)).studies
    texts = "".join(_texts(runtime_chart(study)))  # a warning of collapsed axes would be an error
    assert all(f"to s{n}" in texts for n in range(1, 11))
    stages = [
        replace(one, cell=replace(one.cell, kind="stages", stage=s)) for one in rows for s in ("read", "full")
    ]
    (study,) = analyse(measured(*stages)).studies
    assert "to s10" in "".join(_texts(stages_chart(study)))
