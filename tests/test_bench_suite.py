"""The suite on a real cluster: honest rows, taken up where it was broken off, and what goes wrong told in rows."""

from __future__ import annotations

import fcntl
import json
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ndvi_scale.bench import environment, measure, probe, suite
from ndvi_scale.bench.factors import Place, Study, Table
from ndvi_scale.bench.rows import append, read_rows
from ndvi_scale.bench.suite import RESULTS, Watch, run_suite
from ndvi_scale.cluster.opening import open_cluster
from ndvi_scale.errors import ClusterError, ConfigError, NdviScaleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ndvi_scale.bench.rows import Row
    from ndvi_scale.cluster.spec import ClusterSpec

pytestmark = pytest.mark.timeout(240)

NODES = Study("nodes", "strong", workers=(1, 2), chunks=(64,), dates=6, seconds=0.05)
STAGES = Study(
    "stages", "stages", workers=(2,), chunks=(64,), tile=128, dates=2,
    stages=("search", "plan", "submit", "read", "kernel", "write", "full"),
)  # fmt: skip
MONTHS = Study("months", "granularity", workers=(2,), chunks=(64, 128), tile=128, dates=6, workloads=("monthly",))


def small_cells(table: Table) -> list[Any]:
    return [cell for group in table.rows() for cell in group]


class Watched:
    """Keeps what the suite tells."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @property
    def watch(self) -> Watch:
        return Watch(lambda _: None, lambda row, _number, _total: self.rows.append(row))


@pytest.fixture(scope="module")
def clusters() -> Iterator[Callable[[ClusterSpec], Any]]:
    """What opens a cluster in the suite: each size is started once, and kept. To start them anew takes minutes."""
    with ExitStack() as stack:
        opened: dict[int | None, Any] = {}

        @contextmanager
        def open_once(spec: ClusterSpec) -> Iterator[Any]:
            if spec.workers not in opened:
                opened[spec.workers] = stack.enter_context(open_cluster(spec))
            yield opened[spec.workers]

        yield open_once


@pytest.fixture(autouse=True)
def _kept_clusters(clusters: Callable[[ClusterSpec], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "open_cluster", clusters)


@pytest.fixture(scope="module")
def ran(clusters: Callable[[ClusterSpec], Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    """A folder in which a table of all kinds of rows was measured."""
    folder = tmp_path_factory.mktemp("bench")
    table = Table((NODES, STAGES, MONTHS), repeats=3, delay=0.002, price=36.0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(suite, "open_cluster", clusters)
        run_suite(table, folder, None, Watched().watch)
    return folder, table


@pytest.mark.slow
def test_every_cell_has_a_row_that_is_ok(ran: tuple[Path, Table]) -> None:
    folder, table = ran
    found = read_rows(folder / RESULTS)
    assert not found.problems
    assert {row.cell for row in found.rows} == set(small_cells(table))
    assert {(row.status, row.reason) for row in found.rows} == {("ok", "")}
    assert [row.order for row in found.rows] == sorted(row.order for row in found.rows)
    assert not (folder / "outputs").exists()


@pytest.mark.slow
def test_a_row_says_what_a_run_took(ran: tuple[Path, Table]) -> None:
    rows = [row for row in read_rows(ran[0] / RESULTS).rows if row.cell.study == "nodes"]
    for row in rows:
        assert row.arrived == row.cell.workers
        assert row.tasks == row.cell.regions == len(row.region_seconds) == 6
        assert row.startup
        assert row.warmup
        assert row.wall
        assert row.submit
        assert 0 < row.submit < row.wall
        assert row.worker_seconds == pytest.approx(sum(row.region_seconds))
        assert row.busy == pytest.approx(row.worker_seconds / row.wall / row.cell.workers)
        assert 0 < row.busy <= 1
        assert row.cost(36.0) == pytest.approx(row.wall * row.cell.workers / 100)
        assert row.pixels == 6 * 64**2
        assert row.bytes_read > 1000
        assert row.requests >= 6 * 3
        assert row.peak_memory
        assert row.memory_limit
        assert 1e7 < row.peak_memory < row.memory_limit
        assert row.bytes_written
        assert (row.retries, row.spilled, row.oversubscribed) == (0, 0, False)
    assert len({row.digest for row in rows}) == 1
    assert rows[0].digest


@pytest.mark.slow
def test_two_emulated_nodes_take_half_the_time(ran: tuple[Path, Table]) -> None:
    walls: dict[int, list[float]] = {1: [], 2: []}
    for row in read_rows(ran[0] / RESULTS).rows:
        if row.cell.study == "nodes":
            walls[row.cell.workers].append(sum(row.region_seconds) / row.cell.workers)
    assert min(walls[1]) > 1.3 * min(walls[2])  # of what workers waited for; the wall is the machine's


@pytest.mark.slow
def test_a_stage_alone_is_not_all_of_it(ran: tuple[Path, Table]) -> None:
    rows = [row for row in read_rows(ran[0] / RESULTS).rows if row.cell.study == "stages"]
    for stage in ("search", "plan"):
        assert all(row.wall and row.wall > 0 and not row.tasks for row in rows if row.cell.stage == stage)
    for stage in ("submit", "read", "kernel", "write"):
        assert all(row.tasks == 8 and not row.digest for row in rows if row.cell.stage == stage)
    worked = {
        stage: min(row.worker_seconds or 0.0 for row in rows if row.cell.stage == stage)
        for stage in ("submit", "read", "kernel", "write", "full")
    }
    assert worked["submit"] == 0
    assert 0 < worked["kernel"] < worked["full"]
    assert worked["write"] > 0
    assert 0 < worked["read"] < worked["full"]


@pytest.mark.slow
def test_what_is_measured_is_not_measured_again(ran: tuple[Path, Table]) -> None:
    folder, table = ran
    watched = Watched()
    run_suite(table, folder, None, watched.watch)
    assert not watched.rows


@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on(ran: tuple[Path, Table], tmp_path: Path) -> None:
    folder, table = ran
    small = replace(table, studies=(replace(NODES, workers=(1,)),))
    found = read_rows(folder / RESULTS)
    for one in (*found.environments.values(), *(row for row in found.rows if row.cell in set(small_cells(small)))):
        append(tmp_path / RESULTS, one)
    whole = (tmp_path / RESULTS).read_text(encoding="utf-8")
    (tmp_path / RESULTS).write_text(whole[:-200], encoding="utf-8")  # the last line is cut
    watched = Watched()
    run_suite(small, tmp_path, None, watched.watch)
    assert len(watched.rows) == 1
    found = read_rows(tmp_path / RESULTS)
    assert len(found.rows) == 3
    assert len(found.problems) == 1


@pytest.mark.slow
def test_what_was_measured_under_other_conditions_is_measured_again(
    ran: tuple[Path, Table], tmp_path: Path
) -> None:
    folder, table = ran
    small = replace(table, studies=(replace(NODES, workers=(1,)),))
    found = read_rows(folder / RESULTS)
    for one in (*found.environments.values(), *(row for row in found.rows if row.cell in set(small_cells(small)))):
        append(tmp_path / RESULTS, one)
    watched = Watched()
    assert run_suite(small, tmp_path, None, watched.watch).done == 3
    assert not watched.rows
    assert run_suite(replace(small, delay=0.003), tmp_path, None, watched.watch).done == 3
    assert len(watched.rows) == 3
    assert len(read_rows(tmp_path / RESULTS).rows) == 3


def test_one_run_at_a_time(tmp_path: Path) -> None:
    table = Table((NODES,), repeats=3)
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another benchmark measures in"):
            run_suite(table, tmp_path, None, Watched().watch)


def test_a_cluster_that_is_not_there_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    table = Table((NODES, replace(NODES, name="other", clusters=("slrum",))), repeats=3)
    with pytest.raises(ConfigError, match=r"'slrum' is no profile.*'slurm'"):
        run_suite(table, tmp_path / "new", None, Watched().watch)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"stores": {"odd": Place("memory://a")}}, "in this process alone"),
        ({"stores": {"odd": Place("ftp://a/b")}}, "unknown store scheme 'ftp'"),
        ({"host": "192.0.2.77"}, r"host '192\.0\.2\.77' of the origin: .*address of this machine"),
        ({"studies": (replace(NODES, clusters=("threads",)),)}, "'threads' is threads of this process"),
    ],
)
def test_what_can_never_be_measured_is_told_before_anything_is(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(NdviScaleError, match=told):
        run_suite(replace(Table((NODES,), repeats=3), **changed), tmp_path / "new", None, Watched().watch)
    assert not (tmp_path / "new").exists()


def test_a_cluster_that_is_wrong_keeps_no_other_from_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(spec: ClusterSpec) -> Any:
        raise ConfigError(f"a {spec.kind} cluster lacks a package")

    monkeypatch.setattr(suite, "open_cluster", refuse)
    (tmp_path / "clusters.toml").write_text('[room]\nkind = "slurm"\nmemory = "1GiB"\n', encoding="utf-8")
    table = Table((replace(NODES, clusters=("local", "room"), workers=(1,)),), repeats=3)
    watched = Watched()
    ran = run_suite(table, tmp_path, tmp_path / "clusters.toml", watched.watch)
    assert (ran.done, ran.missing) == (0, 6)
    assert {(row.status, row.reason) for row in watched.rows} == {
        ("failed", "a local cluster lacks a package"), ("failed", "a slurm cluster lacks a package"),
    }  # fmt: skip


@pytest.mark.slow
def test_a_row_that_a_report_cannot_use_is_measured_again(ran: tuple[Path, Table], tmp_path: Path) -> None:
    folder, table = ran
    small = replace(table, studies=(replace(NODES, workers=(1,)),), price=1.0)
    found = read_rows(folder / RESULTS)
    rows = [row for row in found.rows if row.cell in set(small_cells(small))]
    odd = [rows[0], replace(rows[1], digest="another"), replace(rows[2], status="degraded")]
    for one in (*found.environments.values(), *odd):
        append(tmp_path / RESULTS, one)
    watched = Watched()
    again = run_suite(small, tmp_path, None, watched.watch)
    assert {row.cell for row in watched.rows} == {row.cell for row in rows[1:]}
    assert (again.done, again.missing) == (3, 0)
    assert {row.status for row in read_rows(tmp_path / RESULTS).rows} == {"ok"}


def test_a_cluster_that_does_not_come_fails_its_rows_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> Any:
        raise ClusterError("no workers came within 5 s: the queue is full")

    monkeypatch.setattr(suite, "open_cluster", refuse)
    watched = Watched()
    run_suite(Table((NODES,), repeats=3), tmp_path, None, watched.watch)
    assert [row.status for row in watched.rows] == ["failed"] * 6
    assert {row.reason for row in watched.rows} == {"no workers came within 5 s: the queue is full"}
    assert sorted(row.order for row in watched.rows) == list(range(6))
    again = Watched()
    run_suite(Table((NODES,), repeats=3), tmp_path, None, again.watch)
    assert len(again.rows) == 6  # failed ones are tried again


@pytest.mark.slow
def test_fewer_workers_than_asked_for_are_degraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "open_cluster", lambda spec: open_cluster(replace(spec, workers=1)))
    watched = Watched()
    run_suite(Table((replace(NODES, workers=(2,)),), repeats=3, delay=0.0), tmp_path, None, watched.watch)
    for row in watched.rows:
        assert (row.status, row.arrived, row.counts) == ("degraded", 1, False)
        assert "1 of 2 workers came" in row.reason
        assert row.wall


@pytest.mark.slow
def test_what_goes_wrong_in_a_row_is_told_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = suite.Sources.items

    def away(self: Any, cell: Any, tag: str) -> list[Any]:
        items = served(self, cell, tag)
        if not tag.endswith("warm"):
            items[3].assets["red"].href += ".gone"
        return items

    monkeypatch.setattr(suite.Sources, "items", away)
    watched = Watched()
    run_suite(Table((replace(NODES, workers=(1,)),), repeats=3, delay=0.0), tmp_path, None, watched.watch)
    assert [row.status for row in watched.rows] == ["failed"] * 3
    assert all("regions failed" in row.reason and row.wall is None for row in watched.rows)


def test_more_threads_than_cores_of_a_machine_are_a_crowd() -> None:
    one, other = probe.Machine("boot-1", 2), probe.Machine("boot-2", 8)
    assert not probe.crowded({"a": one, "b": one}, {"a": 1, "b": 1})
    assert probe.crowded({"a": one, "b": one, "c": other}, {"a": 1, "b": 2, "c": 1})
    assert not probe.crowded({"a": one, "b": other}, {"a": 2, "b": 8})
    assert not probe.crowded({}, {})
    assert probe.machine_here() == probe.machine_here()
    assert probe.machine_here().cores >= 1


@pytest.mark.slow
def test_rows_of_a_crowd_say_so_but_for_emulated_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.probe, "crowded", lambda *_: True)
    watched = Watched()
    both = (replace(NODES, workers=(2,), dates=2), replace(NODES, name="busy", workers=(2,), dates=2, seconds=None))
    run_suite(Table(both, repeats=3, delay=0.0), tmp_path, None, watched.watch)
    assert {(row.cell.study, row.oversubscribed) for row in watched.rows} == {("nodes", False), ("busy", True)}


def test_an_environment_is_that_of_a_machine_and_its_versions() -> None:
    here = environment.environment(0.1, "EUR", {"slurm": "#!/bin/sh"})
    assert here.id == environment.environment(0.1, "EUR", {}).id
    assert here.id == environment.environment(0.2, "USD", {}).id, "a price is no reason to measure again"
    assert here.cores >= 1
    assert "GiB" in here.machine
    assert {"python", "ndvi-scale", "dask", "numba"} <= here.versions.keys()
    assert environment.machine_id() not in json.dumps(here.versions) + here.host + here.id
