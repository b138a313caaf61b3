"""What makes a row another one though its cell is the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench_rows import CELL
from ndvi_scale.bench.conditions import Conditions
from ndvi_scale.bench.factors import Place, Study, Table
from ndvi_scale.cluster.spec import LocalSpec

TABLE = Table((Study("one", "strong"),), stores={"far": Place("s3://a/b")})
SPECS = {"local": LocalSpec(memory="1GiB")}
SLOW = {"delay": 0.5}
NARROW = {"rate": 1000}
MOVED = {"stores": {"far": Place("s3://a/c")}}
DEARER = {"price": 3.0, "repeats": 7, "seed": 9}


@pytest.mark.parametrize(
    ("cell", "changed", "other"),
    [
        ({}, SLOW, True),
        ({}, NARROW, True),
        ({}, MOVED, False),
        ({}, DEARER, False),
        ({"source": "files"}, SLOW | NARROW, False),
        ({"seconds": 0.5}, NARROW, False),  # it has a rate of its own
        ({"seconds": 0.5}, SLOW, True),
        ({"store": "far"}, MOVED, True),
    ],
)
def test_what_a_row_depends_on(cell: dict[str, Any], changed: dict[str, Any], *, other: bool) -> None:
    row = replace(CELL, **cell)
    before, after = (Conditions(table, SPECS).of(row) for table in (TABLE, replace(TABLE, **changed)))
    assert (before != after) == other


def test_another_profile_is_another_condition_but_for_what_the_cell_says() -> None:
    own = Conditions(TABLE, SPECS).of(CELL)
    assert Conditions(TABLE, {"local": LocalSpec(memory="1GiB", workers=4, threads=2)}).of(CELL) == own
    assert Conditions(TABLE, {"local": LocalSpec(memory="2GiB")}).of(CELL) != own
