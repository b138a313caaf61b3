"""What is written of results: page, Markdown, CSV, calibration, and the lines for a terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from bench_rows import HERE, full_suite, hal
from bench_truth import Truth, measured
from ndvi_scale.bench.reports import CALIBRATION, REPORT, write_reports
from ndvi_scale.bench.rows import Measured, append, read_rows
from ndvi_scale.bench.suite import RESULTS
from ndvi_scale.cli import cli
from ndvi_scale.errors import ClusterError, ConfigError, IncompleteRunError
from ndvi_scale.forecast import read_calibration

if TYPE_CHECKING:
    from pathlib import Path


def saved(folder: Path, found: Measured) -> Path:
    for one in (*found.environments.values(), *found.rows):
        append(folder / RESULTS, one)
    return folder / RESULTS


def test_a_whole_suite_is_written_beside_its_results(tmp_path: Path) -> None:
    results = saved(tmp_path, full_suite())
    written = write_reports(results, ["Measured by a test, seed 7."])
    assert written.html == tmp_path / REPORT
    page = written.html.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "Measured by a test, seed 7." in page
    assert HERE.machine in page
    text = written.markdown.read_text(encoding="utf-8")
    assert "### " in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8"))))
    assert len(rows) == len(read_rows(results).rows)
    assert any("enough" in line for line in written.lines)


def test_the_published_rows_advise_eight_workers(tmp_path: Path) -> None:
    written = write_reports(saved(tmp_path, hal(3)))
    assert any(line.startswith("strong: 8 workers are enough") for line in written.lines)
    assert any("No calibration" in line for line in written.lines)  # a published table has no seconds of regions
    assert not (tmp_path / CALIBRATION).exists()


def test_a_terminal_is_told_what_is_damaged_and_left_out(tmp_path: Path) -> None:
    results = saved(tmp_path, full_suite())
    with results.open("a", encoding="utf-8") as file:
        file.write('{"format": 2, "type": "row", "ce')
    lines = write_reports(results).lines
    number = len(results.read_text(encoding="utf-8").splitlines())
    assert any(line.startswith(f"Problem: line {number} of results.jsonl cannot be read") for line in lines)
    assert "Left out: 5 rows of strong: no worker came within 120 s" in lines
    assert any(line.startswith("Left out: 1 row of strong: output differs") for line in lines)
    rows = csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8")))
    assert sum(row["used"] == "False" for row in rows) == 8


def test_a_report_is_of_the_environment_that_was_measured(tmp_path: Path) -> None:
    found = hal(3)
    new = replace(HERE, id="e2", versions=HERE.versions | {"dask": "2027.1.0"})
    again = tuple(replace(row, environment="e2", wall=5.0) for row in found.rows[:3])
    both = Measured((*found.rows, *again), found.environments | {"e2": new})
    results = saved(tmp_path, both)
    assert "15 of 18 rows used" in write_reports(results).lines[0]
    assert "3 of 18 rows used" in write_reports(results, here="e2").lines[0]


def test_results_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run `ndvi-scale bench` first"):
        write_reports(tmp_path / RESULTS)
    (tmp_path / RESULTS).write_text("{}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="hold no row that can be used"):
        write_reports(tmp_path / RESULTS)


def test_the_command_line_reports_what_is_measured(tmp_path: Path) -> None:
    saved(tmp_path, hal(3))
    done = CliRunner().invoke(cli, ["bench", "--report", "--work", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "8 workers are enough" in done.stderr
    assert f"Report: {tmp_path / REPORT}" in done.stderr.replace("\n", "")


@pytest.mark.parametrize("more", [["a.toml"], ["--quick"], ["--only", "nodes"]])
def test_a_report_is_of_all_that_is_measured(tmp_path: Path, more: list[str]) -> None:
    done = CliRunner().invoke(cli, ["bench", "--report", "--work", str(tmp_path), *more])
    assert isinstance(done.exception, ConfigError)
    assert "has no effect" in str(done.exception)


def test_an_old_calibration_is_not_left_beside_results_that_give_none(tmp_path: Path) -> None:
    results = saved(tmp_path, measured(Truth(), (1, 2, 4)))
    write_reports(results)
    assert (tmp_path / CALIBRATION).exists()
    results.unlink()
    write_reports(saved(tmp_path, hal(3)))
    assert not (tmp_path / CALIBRATION).exists()


def test_only_rows_that_the_report_uses_are_calibrated_on(tmp_path: Path) -> None:
    found = measured(Truth(), (1, 2, 4))
    last = found.rows[-1]
    extra = [replace(last, wall=900.0, arrived=1, cell=replace(last.cell, repeat=99))]
    for folder, rows in (("a", found.rows), ("b", (*found.rows, *extra))):
        (tmp_path / folder).mkdir()
        write_reports(saved(tmp_path / folder, replace(found, rows=rows)))
    one, other = (read_calibration(tmp_path / folder / CALIBRATION) for folder in "ab")
    assert one == other


def test_that_more_workers_were_not_measured_is_said(tmp_path: Path) -> None:
    written = write_reports(saved(tmp_path, measured(Truth(), (1, 2, 4, 8), kind="strong")))
    (line,) = (line for line in written.lines if "enough" in line)
    assert "More were not measured, and may be faster." in line


def test_the_command_line_refuses_what_is_no_table(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["bench", str(tmp_path / "none.toml")])
    assert isinstance(done.exception, ConfigError)
    assert "no such factor table" in str(done.exception)


def test_rows_that_cannot_be_used_end_in_an_exit_code_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise ClusterError("no workers came within 5 s: the queue is full")

    monkeypatch.setattr("ndvi_scale.bench.suite.open_cluster", refuse)
    (tmp_path / "t.toml").write_text('repeats = 3\n[[study]]\nname = "a"\nkind = "strong"\nworkers = [1, 2]\n')
    done = CliRunner().invoke(cli, ["bench", str(tmp_path / "t.toml"), "--work", str(tmp_path / "work")])
    assert isinstance(done.exception, IncompleteRunError)
    assert str(done.exception).startswith("6 of 6 rows cannot be used")
    assert "Left out: 6 rows of a: no workers came within 5 s: the queue is full" in done.stderr.replace("\n", " ")
    assert (tmp_path / "work" / REPORT).exists()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_command_line_measures_a_table(tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text(
        """
        repeats = 3
        delay = 0.001
        [[study]]
        name = "small"
        kind = "strong"
        workers = [1]
        chunks = 64
        dates = 3
        """,
        encoding="utf-8",
    )
    work = tmp_path / "work"
    done = CliRunner().invoke(cli, ["bench", str(tmp_path / "table.toml"), "--work", str(work)])
    assert done.exit_code == 0, done.output
    assert "3/3 small" in done.stderr
    assert (work / REPORT).is_file()
    rows = read_rows(work / RESULTS).rows
    assert [row.status for row in rows] == ["ok"] * 3
    calibrated = CliRunner().invoke(cli, ["bench", "--report", "--work", str(work)])
    assert "a calibration needs 2 sizes" in calibrated.stderr.replace("\n", " ")


def test_a_calibration_is_there_for_plan(tmp_path: Path) -> None:
    saved(tmp_path, measured(Truth(), (1, 2, 4, 8)))
    written = write_reports(tmp_path / RESULTS)
    assert read_calibration(tmp_path / CALIBRATION).sizes
    assert any("--calibration" in line for line in written.lines)
    assert any("within the 90 % interval" in line for line in written.lines)
