"""The file of rows: what was written comes back, and what is not right is said, line by line."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_rows import CELL, HERE, row
from ndvi_scale.bench.rows import FORMAT, Row, append, read_rows, to_csv
from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [row(replace(CELL, workers=n), 60 / n, region_seconds=(0.5, 0.25), startup=1.5) for n in (1, 2, 4)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    append(path, HERE)
    for one in ROWS:
        append(path, one)
    return path


def test_what_was_written_comes_back(file: Path) -> None:
    found = read_rows(file)
    assert found.rows == tuple(ROWS)
    assert found.environments == {"e1": HERE}
    assert found.problems == ()


def test_a_row_that_was_cut_off_is_named_and_the_next_one_is_whole(file: Path) -> None:
    text = file.read_text()
    file.write_text(text[:-40])
    found = read_rows(file)
    assert found.rows == tuple(ROWS[:2])
    assert "line 4" in found.problems[0]
    assert "broken off" in found.problems[0]
    append(file, ROWS[2])
    assert read_rows(file).rows == tuple(ROWS)
    assert len(read_rows(file).problems) == 1


def test_a_row_that_was_measured_again_replaces_the_first(file: Path) -> None:
    append(file, replace(ROWS[0], wall=50.0))
    assert [one.wall for one in read_rows(file).rows] == [50.0, 30, 15]


def _line(**facts: object) -> str:
    return json.dumps({"format": FORMAT, "type": "row", **asdict(ROWS[0]), **facts})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("not json", "Expecting value"),
        ("[1, 2]", "list is not an object"),
        ("{}", "format"),
        ('{"format": 99}', "format is not 2"),
        ('{"format": 2, "type": "song"}', "'song'"),
        (_line(wall="fast"), "wall 'fast' is not float"),
        (_line(wall=-1), "wall -1"),
        (_line(wall=float("nan")), "wall nan"),
        (_line(wall=float("inf")), "wall inf"),
        (_line(wall=True), "wall True"),
        (_line(digest=None), "digest None is not str"),
        (_line(arrived=2.5), "arrived 2.5 is not int"),
        (_line(region_seconds=[1, "x"]), "region_seconds"),
        (_line(colour="red"), "colour"),
        (_line(cell=asdict(replace(CELL, kind="sideways"))), "kind 'sideways' is none of strong"),
        (_line(cell=asdict(replace(CELL, stage="sleep"))), "stage 'sleep'"),
        (_line(cell=asdict(replace(CELL, workers=0))), "workers 0"),
        (_line(cell=asdict(replace(CELL, regions=10**12))), "regions 1000000000000 is not from 1 to 10,000,000"),
        (_line(region_seconds=[500.0]), "a region of 500 s in a wall of 60 s"),
        (_line(wall=1e300), "wall 1e+300 is no time"),
        (_line(bytes_read=10**400), "bytes_read beyond all measure is no time"),
        (_line(cell=asdict(CELL) | {"workers": "four"}), "workers 'four' is not int"),
        (_line(cell={"study": "strong"}), "missing"),
        (
            json.dumps({"format": FORMAT, "type": "environment", **asdict(HERE), "versions": "new"}),
            "versions 'new'",
        ),
    ],
)
def test_a_line_that_is_no_row_is_left_out_with_its_reason(file: Path, line: str, why: str) -> None:
    with file.open("a") as out:
        out.write(line + "\n\n")
    append(file, replace(ROWS[0], cell=replace(CELL, workers=8)))
    found = read_rows(file)
    assert len(found.rows) == 4
    assert len(found.problems) == 1
    assert found.problems[0].startswith("line 5 of results.jsonl cannot be read and is left out: ")
    assert why in found.problems[0]


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl cannot be read: No such file.*run `ndvi-scale bench`"):
        read_rows(tmp_path / "none.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ConfigError, match="hold no row that can be used"):
        read_rows(empty)
    empty.write_bytes(b"\x00\xff\xfe garbage")
    with pytest.raises(ConfigError, match="line 1 of"):
        read_rows(empty)


def test_rows_of_an_unknown_environment_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, ROWS[0])
    assert "environments that the file does not hold: e1" in read_rows(path).problems[0]


@given(st.binary(max_size=300), st.integers(0, 900))
def test_whatever_is_in_a_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int
) -> None:
    path = tmp_path_factory.mktemp("noise") / "r.jsonl"
    append(path, HERE)
    append(path, ROWS[0])
    path.write_bytes(path.read_bytes()[:cut] + noise)
    append(path, ROWS[1])
    found = read_rows(path)
    assert ROWS[1] in found.rows
    assert all(isinstance(one, Row) for one in found.rows)


def test_another_machine_s_row_of_the_same_cell_is_kept(file: Path) -> None:
    append(file, replace(HERE, id="e2"))
    append(file, replace(ROWS[0], environment="e2", wall=50.0))
    assert [(one.environment, one.wall) for one in read_rows(file).rows] == [
        ("e1", 60), ("e1", 30), ("e1", 15), ("e2", 50.0),
    ]  # fmt: skip


def test_a_row_that_went_worse_when_measured_again_does_not_count(file: Path) -> None:
    append(file, replace(ROWS[0], status="failed", reason="gone", wall=None))
    append(file, replace(ROWS[1], status="degraded", wall=31.0))
    append(file, replace(ROWS[2], status="degraded", wall=16.0))
    append(file, replace(ROWS[2], wall=17.0))
    append(file, replace(ROWS[2], status="failed", wall=None))
    assert [(one.status, one.wall) for one in read_rows(file).rows] == [("ok", 60), ("ok", 30), ("ok", 17.0)]


def test_the_price_of_the_last_run_is_the_price(file: Path) -> None:
    append(file, replace(HERE, price=36.0))
    found = read_rows(file)
    assert found.environments["e1"].price == 36.0
    assert [one.cost(36.0) for one in found.rows] == [0.6, 0.6, 0.6]
    assert found.rows[0].cost(None) is None


def test_csv_has_a_line_for_each_row_its_rate_its_cost_and_why_it_is_not_used() -> None:
    row = replace(ROWS[1], pixels=60_000_000)
    text = to_csv([row, ROWS[0]], {ROWS[0]: "degraded: 1 of 2"}, 36.0)
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["used"], line["why_not"]) for line in lines] == [("True", ""), ("False", "degraded: 1 of 2")]
    assert lines[0]["cost"] == "0.6"
    assert lines[0]["workers"] == "2"
    assert lines[0]["wall"] == "30.0"
    assert lines[0]["rate"] == "2.0"
    assert "region_seconds" not in lines[0]
