"""The factor table: what it combines, in which order, and what it refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndvi_scale.bench.factors import KINDS, OWN, Study, Table, chosen_table, read_table, table_of
from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def study(**given: Any) -> Study:
    return Study(**{"name": "one", "kind": "strong"} | given)


@given(
    workers=st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True),
    chunks=st.lists(st.sampled_from([16, 256, 1024]), min_size=1, max_size=3, unique=True),
    repeats=st.integers(3, 6),
    seed=st.integers(0, 100),
)
def test_every_combination_is_measured_as_often_as_asked_once_a_round(
    workers: list[int], chunks: list[int], repeats: int, seed: int
) -> None:
    table = Table((study(workers=tuple(workers), chunks=tuple(chunks)),), repeats=repeats, seed=seed)
    cells = [cell for group in table.rows() for cell in group]
    assert len({cell.key for cell in cells}) == len(cells) == repeats * len(workers) * len(chunks)
    assert Counter(cell.repeat for cell in cells) == dict.fromkeys(range(repeats), len(workers) * len(chunks))
    assert [cell.repeat for cell in cells] == sorted(cell.repeat for cell in cells)
    for group in table.rows():
        assert len({(cell.cluster, cell.workers, cell.threads, cell.repeat) for cell in group}) == 1
    assert table.rows() == table.rows()


def test_the_order_is_that_of_the_seed_and_changes_from_round_to_round() -> None:
    table = Table((study(workers=tuple(range(1, 9))),), repeats=3)
    rounds = [[group[0].workers for group in table.rows()[8 * n : 8 * n + 8]] for n in range(3)]
    assert rounds[0] != rounds[1]
    assert [sorted(one) for one in rounds] == [list(range(1, 9))] * 3
    assert replace(table, seed=2).rows() != table.rows()


def test_work_grows_in_a_weak_study_alone() -> None:
    strong, weak = study(dates=4), study(kind="weak", dates=4)
    assert {cell.regions for cell in strong.cells()} == {4}
    assert {cell.workers: cell.regions for cell in weak.cells()} == {1: 4, 2: 8, 4: 16, 8: 32}


def test_regions_are_chunks_of_days_or_months() -> None:
    (daily,) = study(workers=(1,), chunks=(512,), tile=2048, dates=3).cells()
    assert daily.regions == 3 * 16
    (monthly,) = study(workers=(1,), chunks=(512,), tile=1024, dates=12, workloads=("monthly",)).cells()
    assert monthly.regions == 2 * 4


@pytest.mark.parametrize("name", ["full.toml", "quick.toml"])
def test_our_own_tables_are_tables(name: str) -> None:
    table = read_table(OWN / name)
    assert {study.kind for study in table.studies} >= {"strong", "weak", "granularity", "stages"}
    emulated = [study for study in table.studies if study.seconds is not None]
    assert emulated
    assert all(set(study.clusters) == {"local"} for study in table.studies)


def test_the_full_table_keeps_the_method() -> None:
    table = read_table(OWN / "full.toml")
    assert table.repeats >= 5
    for one in table.studies:
        if one.seconds is not None:  # at least twenty equal regions a worker
            assert all(cell.regions >= 20 * cell.workers for cell in one.cells())


def test_a_table_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text(
        """
        repeats = 4
        seed = 9
        delay = 0.1
        rate = 1000
        price = 1
        currency = "EUR"
        [store.bucket]
        url = "s3://bench/suite"
        options = { region = "eu" }
        [[study]]
        name = "where"
        kind = "storage"
        clusters = ["local"]
        workers = 2
        stores = ["disk", "bucket"]
        chunks = [256]
        shard = 512
        tile = 512
        dates = 2
        source = "files"
        """,
        encoding="utf-8",
    )
    table = read_table(file)
    assert (table.repeats, table.seed, table.delay, table.rate, table.price, table.currency) == (
        4, 9, 0.1, 1000, 1.0, "EUR",
    )  # fmt: skip
    assert table.stores["bucket"].url == "s3://bench/suite"
    assert table.stores["bucket"].options == (("region", "eu"),)
    cells = list(table.studies[0].cells())
    assert [cell.store for cell in cells] == ["disk", "bucket"]
    assert {(cell.shard, cell.source, cell.emulated) for cell in cells} == {(512, "files", False)}


GOOD: dict[str, Any] = {"name": "one", "kind": "strong"}


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({}, r"no study: give a \[\[study\]\]"),
        ({"study": GOOD}, r"write \[\[study\]\]"),
        ({"study": [GOOD], "repeat": 5}, "unknown key 'repeat'.*'repeats'"),
        ({"study": [GOOD], "repeats": 2}, "repeats 2: give 3 to"),
        ({"study": [GOOD], "repeats": "5"}, "repeats '5' is not a whole number"),
        ({"study": [GOOD], "repeats": True}, "repeats True is not a whole number"),
        ({"study": [GOOD], "price": -1}, "price -1.0"),
        ({"study": [GOOD], "host": 1}, "host 1 is not a text"),
        ({"study": [GOOD, GOOD]}, "two studies have one name"),
        ({"study": [{"name": "one"}]}, "has no kind"),
        ({"study": [GOOD | {"kind": "strnog"}]}, "'strnog' is none of.*'strong'"),
        ({"study": [GOOD | {"worker": [1]}]}, "unknown key 'worker'.*'workers'"),
        ({"study": [GOOD | {"workers": []}]}, r"workers \[\] is empty"),
        ({"study": [GOOD | {"workers": [1, 1]}]}, "names something twice"),
        ({"study": [GOOD | {"workers": [0]}]}, "workers 0 is below 1"),
        ({"study": [GOOD | {"workers": ["two"]}]}, "workers 'two' is not a whole number"),
        ({"study": [GOOD | {"chunks": [100]}]}, "100 is not a multiple of 16"),
        ({"study": [GOOD | {"seconds": 0}]}, "seconds 0.0 is no time"),
        ({"study": [GOOD | {"seconds": 1, "source": "files"}]}, "does not wait"),
        ({"study": [GOOD | {"stages": ["reed"]}]}, "'reed' is none of.*'read'"),
        ({"study": [GOOD | {"stores": ["bucket"]}]}, r"give a table \[store.bucket\]"),
        ({"study": [GOOD], "store": {"bucket": {}}}, "has no url"),
        ({"study": [GOOD], "store": 1}, "store is a table"),
        ({"study": [GOOD], "store": {"disk": {"url": "s3://a/b"}}}, "another name than"),
        ({"study": [GOOD], "delay": float("nan")}, "delay nan s"),
        ({"study": [GOOD], "delay": float("inf")}, "delay inf s"),
        ({"study": [GOOD], "host": "300.1.1.1"}, "host '300.1.1.1' is no IPv4 address"),
        ({"study": [GOOD], "host": ""}, "host '' is no IPv4 address"),
        ({"study": [GOOD | {"name": " "}]}, "name ' ' is empty"),
        ({"study": [GOOD | {"name": "a, b"}]}, "'a, b' is empty, or has a comma"),
        ({"study": [GOOD | {"workers": [10**12]}]}, "workers 1000000000000 is above 100,000"),
        ({"study": [GOOD | {"threads": 10**6}]}, "threads 1000000 is above"),
        ({"study": [GOOD | {"dates": 10**7}]}, "more than 1,000,000 regions"),
        ({"study": [GOOD | {"dates": 10, "chunks": 16, "tile": 10240}]}, "more than 1,000,000 regions"),
        ({"study": [GOOD | {"tile": 10**7}]}, "10000000 is above 10976, a tile of Sentinel-2"),
        ({"study": [GOOD | {"tile": 512, "chunks": 1024}]}, "chunks 1024 is more than the tile's 512"),
        ({"study": [GOOD | {"shard": 1500}]}, "study 'one': shard 1500 does not hold several whole chunks"),
        ({"study": [GOOD | {"chunks": 64, "shard": 128}]}, "study 'one': chunk 64 is too small for a shard"),
        ({"study": [GOOD], "host": "::1"}, "host '::1' is no IPv4 address"),
        ({"study": [GOOD], "price": 1e308}, r"price 1e\+308 of a worker-hour: give 0 to 1,000,000"),
        ({"study": [GOOD], "store": {"bucket": {"url": ""}}}, "has no url"),
        ({"study": [GOOD | {"seconds": 1e9}]}, "seconds 1000000000.0 is no time"),
        ({"study": [GOOD | {"kind": "granularity"}]}, r"chunks \[1024\] is one: a granularity study compares"),
        ({"study": [GOOD | {"kind": "stages"}]}, r"stages \['full'\] is one"),
        ({"study": [GOOD | {"kind": "storage"}]}, r"stores \['disk'\] is one"),
        ({"study": [GOOD | {"kind": "weak", "workloads": "monthly", "dates": 8}]}, "no multiple of 6, a month"),
    ],
)
def test_what_cannot_be_measured_is_refused(raw: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        table_of(raw, "table.toml")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such factor table"):
        read_table(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("repeats = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        read_table(tmp_path / "bad.toml")


def test_what_a_command_line_chooses() -> None:
    assert chosen_table(None, quick=True, only=None).repeats == 3
    assert [one.name for one in chosen_table(None, quick=True, only="stages, nodes").studies] == ["nodes", "stages"]
    with pytest.raises(ConfigError, match=r"'nods' is no study.*did you mean 'nodes'"):
        chosen_table(None, quick=False, only="nods")
    with pytest.raises(ConfigError, match="one table or the other"):
        chosen_table("mine.toml", quick=True, only=None)
    assert set(KINDS) == {"strong", "weak", "granularity", "stages", "storage"}
