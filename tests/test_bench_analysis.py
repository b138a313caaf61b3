"""What rows say: published ones say what was published, known laws are found, and what is not sound is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_rows import CELL, HAL, HERE, full_suite, hal, measured, repeats, row
from ndvi_scale.bench.analysis import EMULATED, OVERSUBSCRIBED, analyse
from ndvi_scale.bench.rows import KINDS, STAGES, Measured
from ndvi_scale.bench.sieve import sift
from ndvi_scale.scaling import Usl

if TYPE_CHECKING:
    from ndvi_scale.bench.findings import Findings, Series


def _only(findings: Findings) -> Series:
    (study,) = findings.studies
    (series,) = study.series
    return series


def test_rows_of_hal_say_what_was_published() -> None:
    series = _only(analyse(hal(5)))
    assert {n: round(gain.speedup, 2) for n, gain in series.gains.items()} == {
        1: 1,
        2: 1.35,
        4: 1.92,
        8: 3.84,
        16: 2.33,
    }
    assert series.gains[2].serial == pytest.approx(0.482, abs=0.001)
    assert series.gains[1].serial is None
    assert series.law is not None
    assert series.law.usl.sigma == pytest.approx(0.124, abs=0.001)
    assert series.law.usl.kappa == pytest.approx(0.0131, abs=0.0001)
    assert series.law.peak == pytest.approx(8.2, abs=0.1)
    assert series.law.peak_interval == pytest.approx((series.law.peak, series.law.peak))
    assert series.advice is not None
    assert series.advice.enough == 8
    assert series.advice.cheapest == 1
    assert "retrograde: 16 workers are slower than 8" in series.flags
    assert [point.median for point in series.points] == list(HAL.values())


def test_without_repeats_there_are_no_intervals_and_the_reason_is_given() -> None:
    series = _only(analyse(hal(1)))
    assert series.law is not None
    assert series.law.interval is None
    assert series.gains[8].interval is None
    assert series.points[0].quartiles is None
    assert "1 of 3 repeats that it takes: no difference is demonstrated" in series.flags
    assert any("no interval of the law: 1 repeats" in reason for reason in series.reasons)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.floats(0.01, 0.2), st.floats(5e-4, 0.01), st.integers(0, 2**32))
def test_a_drawn_law_is_found_within_its_interval_or_near_it(sigma: float, kappa: float, seed: int) -> None:
    law, noise = Usl(sigma, kappa), np.random.default_rng(seed)
    rows = []
    for n in (1, 2, 4, 8, 16, 32):
        walls = [float(100 / law.at(n) * noise.normal(1, 0.01)) for _ in range(5)]
        rows += repeats(replace(CELL, workers=n), walls)
    series = _only(analyse(measured(*rows)))
    assert series.law is not None
    assert series.law.interval is not None
    for n in (2, 8, 32):
        assert series.law.usl.at(n) == pytest.approx(law.at(n), rel=0.05)
        low, high = series.law.interval.at(n)
        assert low <= series.law.usl.at(n) <= high
        gain = series.gains[n]
        assert gain.interval is not None
        assert gain.interval[0] <= gain.speedup <= gain.interval[1]


def test_one_size_gives_a_table_and_the_reason_why_no_more() -> None:
    series = _only(analyse(measured(*repeats(replace(CELL, workers=4), [10.0, 11.0, 12.0]))))
    assert series.points[0].median == 11
    assert series.advice is None
    assert series.law is None
    assert "only 4 workers can be used" in series.reasons[0]


def test_three_sizes_give_advice_and_no_law() -> None:
    rows = [
        one for n in (2, 4, 8) for one in repeats(replace(CELL, workers=n), [80 / n + r for r in (0, 0.1, 0.2)])
    ]
    series = _only(analyse(measured(*rows)))
    assert series.baseline == 2
    assert series.gains[8].efficiency == pytest.approx(series.gains[8].speedup / 4)
    assert series.advice is not None
    assert series.law is None
    assert "3 numbers of workers (2, 4, 8)" in series.reasons[0]


def test_more_than_ideal_is_doubted_and_no_serial_part_is_negative() -> None:
    rows = [
        one for n, wall in {1: 100, 2: 40, 4: 20}.items() for one in repeats(replace(CELL, workers=n), [wall] * 3)
    ]
    series = _only(analyse(measured(*rows)))
    assert [gain.serial for gain in series.gains.values()] == [None] * 3
    assert "no serial fraction at 2, 4 workers: more than the ideal speed-up" in series.reasons
    assert any("baseline is suspect" in flag for flag in series.flags)


def test_no_gain_is_said_where_none_is_demonstrated() -> None:
    rows = repeats(CELL, [10.0, 12.0, 11.0]) + repeats(replace(CELL, workers=2), [10.5, 11.5, 10.6])
    assert any(
        flag.startswith("no demonstrated gain from 1 to 2") for flag in _only(analyse(measured(*rows))).flags
    )


def test_a_row_whose_output_differs_is_a_failure() -> None:
    rows = hal(3).rows
    odd = replace(rows[4], digest="another", wall=1.0)
    found = analyse(measured(*rows[:4], odd, *rows[5:]))
    assert [one.row.cell for one in found.omitted] == [odd.cell]
    assert "output differs: its digest is another, where 14 of 15" in found.omitted[0].reason
    point = _only(found).points[1]
    assert point.walls == (46.03, 46.03)
    assert point.left_out == 1


def test_without_a_majority_no_output_is_right() -> None:
    rows = [replace(one, digest=f"d{place % 2}") for place, one in enumerate(hal(2).rows)]
    found = analyse(measured(*rows))
    assert len(found.omitted) == 10
    assert all("none has a majority" in one.reason for one in found.omitted)
    assert _only(found).fastest is None
    assert "nothing can be said of scaling" in _only(found).reasons[-1]


def test_a_row_without_digest_beside_others_that_have_one_is_a_failure() -> None:
    rows = hal(1).rows
    found = analyse(measured(replace(rows[0], digest=""), *rows[1:]))
    assert [one.reason[:9] for one in found.omitted] == ["no digest"]


def test_rows_that_nobody_compared_are_used_and_it_is_said() -> None:
    found = analyse(measured(*(replace(one, digest="") for one in hal(1).rows)))
    assert found.omitted == ()
    assert "strong: no digest" in found.problems[0]


def test_degraded_failed_and_timeless_rows_are_shown_and_not_used() -> None:
    cells = [replace(CELL, workers=8, repeat=n) for n in range(6)]
    bad = [
        row(cells[0], 1.0, arrived=7),
        row(cells[1], 1.0, status="degraded", reason="a worker was lost", arrived=8),
        row(cells[2], None, status="failed", reason="the source did not answer"),
        row(cells[3], None),
        row(cells[4], 0.0),
        row(cells[5], 1.0, status="fine"),
    ]
    found = analyse(measured(*hal(3).rows[:12], *bad))
    reasons = {one.row.cell.repeat: one.reason for one in found.omitted}
    assert reasons == {
        0: "degraded: 7 of 8 workers arrived",
        1: "degraded: a worker was lost",
        2: "the source did not answer",
        3: "no time was noted",
        4: "no time was noted",
        5: "status 'fine' is none of ok, degraded, failed",
    }
    series = _only(found)
    eight = series.points[3]
    assert eight.cell.workers == 8
    assert eight.arrived == 7
    assert eight.walls == (16.16,) * 3
    assert eight.left_out == 6


def test_sizes_that_never_arrived_stay_in_the_table() -> None:
    never = repeats(replace(CELL, workers=32), [1.0] * 3, status="failed", reason="no worker came", arrived=0)
    series = _only(analyse(measured(*hal(3).rows, *never)))
    assert series.points[-1].cell.workers == 32
    assert series.points[-1].walls == ()
    assert series.points[-1].arrived is None
    assert "nothing can be used of 32 workers" in series.reasons[0]
    assert 32 not in series.gains
    for kind, name in {
        "stages": "the stage read",
        "granularity": "chunks of 1024",
        "storage": "the store disk",
    }.items():
        cell = replace(CELL, kind=kind, stage="read" if kind == "stages" else "full")
        alone = _only(analyse(measured(*repeats(cell, [1.0], status="failed", reason="gone"))))
        assert f"nothing can be used of {name}: see the rows left out" in alone.reasons


def test_rows_of_other_machines_and_versions_are_left_out_by_name() -> None:
    new = replace(HERE, id="e2", versions=HERE.versions | {"dask": "2027.1.0"})
    rows = [replace(one, environment="e2" if one.cell.workers == 16 else "e1") for one in hal(3).rows]
    found = analyse(measured(*rows, environments=(HERE, new)))
    assert len(found.omitted) == 3
    assert found.omitted[0].reason == "measured in another environment: dask 2027.1.0 instead of 2026.7.1"
    assert "3 rows of 1 other environment left out" in found.problems[0]
    assert found.environment == HERE
    assert max(_only(found).gains) == 8


def test_of_as_many_rows_the_newer_environment_is_used() -> None:
    new = replace(HERE, id="e0", date="2026-12-01")
    rows = [*repeats(CELL, [1.0]), *repeats(replace(CELL, workers=2), [1.0], environment="e0")]
    assert analyse(measured(*rows, environments=(HERE, new))).environment == new


def test_rows_of_an_unknown_environment_are_left_out() -> None:
    found = analyse(measured(*hal(1).rows, environments=()))
    assert len(found.omitted) == 5
    assert found.environment is None
    assert "nobody can say where" in found.omitted[0].reason
    assert found.problems == ()


def test_oversubscribed_rows_are_labelled_and_nothing_rests_on_them() -> None:
    rows = [replace(one, oversubscribed=one.cell.workers > 4) for one in hal(3).rows]
    series = _only(analyse(measured(*rows)))
    assert series.advice is not None
    assert series.advice.enough == 4
    assert series.law is None
    assert any(label.startswith(OVERSUBSCRIBED) and "8, 16" in label for label in series.labels)
    assert series.gains[8].speedup == pytest.approx(3.84, abs=0.01)
    assert series.gains[8].serial is None
    assert series.fastest is not None
    assert series.fastest.cell.workers == 4


def test_emulated_nodes_are_labelled() -> None:
    rows = [replace(one, cell=replace(one.cell, seconds=0.5)) for one in hal(1).rows]
    assert _only(analyse(measured(*rows))).labels[0].startswith(EMULATED)


def test_emulated_nodes_that_compute_or_have_little_to_do_are_doubted() -> None:
    cells = [replace(CELL, workers=n, regions=40, seconds=0.5) for n in (1, 4)]
    rows = [one for cell in cells for one in repeats(cell, [10.0 / cell.workers] * 3, worker_cpu=1.0)]
    flags = _only(analyse(measured(*rows))).flags
    assert any(
        flag.startswith("an emulated node used 10 % of a core, more than 5 % (all together 40 %") for flag in flags
    )
    assert any(flag.startswith("only 10 regions an emulated node, fewer than 20") for flag in flags)
    assert not any("emulated" in flag for flag in analyse(full_suite()).studies[1].series[0].flags)


def _weak(workers: int, regions: int, wall: float) -> list:
    cell = replace(CELL, kind="weak", study="weak", workers=workers, regions=regions)
    return repeats(cell, [wall] * 3, pixels=regions * 1000)


def test_growing_work_is_compared_where_each_has_the_same() -> None:
    rows = [*_weak(1, 20, 10.0), *_weak(2, 40, 10.5), *_weak(4, 80, 12.5), *_weak(8, 100, 5.0)]
    (study,) = analyse(measured(*rows)).studies
    series, odd = study.series
    assert {n: gain.efficiency for n, gain in series.gains.items()} == pytest.approx(
        {1: 1, 2: 0.9524, 4: 0.8}, abs=1e-4
    )
    assert series.gains[4].speedup == pytest.approx(3.2)
    assert series.gains[4].serial == pytest.approx(0.8 / 3)
    assert series.law is None
    assert series.advice is None
    assert [point.cell.workers for point in odd.points] == [8]
    assert "only 8 workers can be used" in odd.reasons[0]


def test_work_that_is_not_the_same_is_doubted() -> None:
    rows = hal(3).rows
    uneven = [replace(one, pixels=1000 if one.cell.workers < 16 else 1100) for one in rows]
    assert "the work of the points differs by 10 %" in _only(analyse(measured(*uneven))).flags[-1]


def test_a_suite_falls_into_studies_and_series() -> None:
    found = analyse(full_suite())
    assert [(study.name, study.kind, len(study.series)) for study in found.studies] == [
        ("cores", "strong", 1),
        ("strong", "strong", 3),
        ("weak", "weak", 1),
        ("chunk size", "granularity", 1),
        ("stages", "stages", 1),
        ("storage", "storage", 1),
    ]
    assert [series.cell.cluster for series in found.studies[1].series] == ["kubernetes", "local", "slurm"]
    chunk, stages, store = (study.series[0] for study in found.studies[3:])
    assert [point.cell.chunk for point in chunk.points] == [512, 1024, 2048, 4096]
    assert chunk.fastest is not None
    assert chunk.fastest.cell.chunk == 2048
    assert {point.cell.chunk for point in chunk.near} == {1024, 2048}
    assert [point.cell.stage for point in stages.points][-1] == "full"
    assert stages.points[0].rate is None
    assert [point.cell.store for point in store.points] == ["disk", "s3"]


def test_what_workers_and_scheduler_used_is_a_part_of_a_core() -> None:
    facts = {"worker_cpu": 8.0, "scheduler_cpu": 1.0, "peak_memory": 5, "memory_limit": 10, "startup": 2.0}
    rows = repeats(replace(CELL, workers=4), [10.0, 10.0], **facts, busy=0.5)
    series = _only(analyse(measured(*rows, environments=(replace(HERE, price=90.0),))))
    (point,) = series.points
    assert (point.worker_cpu, point.scheduler_cpu, point.busy) == (0.2, 0.1, 0.5)
    assert (point.peak_memory, point.memory_limit, point.startup, point.cost) == (5, 10, 2.0, 1.0)
    assert point.rate is None


def test_a_rate_is_that_of_the_median() -> None:
    rows = [row(replace(CELL, repeat=n), wall, pixels=6_000_000) for n, wall in enumerate([1.0, 2.0, 4.0, 9.0])]
    assert _only(analyse(measured(*rows))).points[0].rate == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["granularity", "storage"])
def test_what_is_not_demonstrably_slower_is_said(kind: str) -> None:
    cells = [replace(CELL, kind=kind, workers=2, tile=1024, chunk=chunk, store=store)
             for chunk, store in (((512, "disk"), (1024, "disk"), (256, "disk")) if kind == "granularity" else
                                  ((512, "disk"), (512, "s3"), (512, "gs")))]  # fmt: skip
    walls = [[10.0, 10.2, 10.4, 10.1, 10.3], [10.1, 9.9, 10.6, 10.2, 10.8], [20.0, 20.2, 20.4, 20.1, 20.3]]
    rows = [one for cell, own in zip(cells, walls, strict=True) for one in repeats(cell, own, digest="same")]
    series = _only(analyse(measured(*rows)))
    assert series.fastest is not None
    assert series.fastest.cell == cells[0]
    assert series.slower.keys() == {cells[1], cells[2]}
    assert series.slower[cells[2]][0] > 1.9
    near, best = ("1024 px", "512 px") if kind == "granularity" else ("s3", "disk")
    (flag,) = series.flags
    assert flag.startswith(f"no demonstrated difference of {near} to {best} (0.9")


def test_of_two_repeats_nothing_is_ranked() -> None:
    cells = [replace(CELL, kind="storage", store=store) for store in ("disk", "s3")]
    series = _only(analyse(measured(*(one for cell in cells for one in repeats(cell, [1.0, 1.1])))))
    assert series.flags == ("2 of 3 repeats that it takes: no difference is demonstrated",)
    assert not series.slower


def test_rows_of_older_conditions_are_left_out() -> None:
    old = repeats(replace(CELL, workers=1), [4.0] * 3, conditions="a")
    new = repeats(replace(CELL, workers=2), [2.0] * 3, conditions="b", began="2026-11-27T09:00:00+00:00")
    other = repeats(replace(CELL, workers=2, store="s3"), [2.0] * 3, conditions="c")
    sifted = sift(measured(*old, *new, *other))
    assert {row.conditions for row in sifted.used} == {"b", "c"}
    assert all("under other conditions" in reason for reason in sifted.reasons.values())


def test_growing_work_that_is_not_done_any_faster_is_doubted() -> None:
    cells = [replace(CELL, kind="weak", workers=n, regions=20 * n) for n in (1, 2)]
    walls = [[10.0, 10.4, 9.8], [19.0, 21.0, 20.0]]
    rows = [one for cell, own in zip(cells, walls, strict=True) for one in repeats(cell, own)]
    (flag,) = _only(analyse(measured(*rows))).flags
    assert flag.startswith("no demonstrated gain of 2 workers over 1 (0.")


@pytest.mark.parametrize(("here", "count"), [("", 5), ("e2", 1), ("e9", 5)])
def test_the_environment_that_is_wished_for_counts(here: str, count: int) -> None:
    rows = [*repeats(CELL, [4.0] * 5), row(CELL, 3.0, environment="e2")]
    sifted = sift(measured(*rows, environments=(HERE, replace(HERE, id="e2", cores=4))), here)
    assert len(sifted.used) == count
    assert len(sifted.reasons) == 6 - count


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_row_is_used_or_left_out_with_a_reason(data: st.DataObject) -> None:
    draw = data.draw
    rows = []
    for n in draw(st.lists(st.sampled_from([1, 2, 3]), max_size=5)):
        kind, stage = draw(st.sampled_from(KINDS)), draw(st.sampled_from(STAGES))
        cell = replace(CELL, workers=n, repeat=len(rows), kind=kind, stage=stage)
        rows.append(
            row(
                replace(cell, study=cell.kind),
                draw(st.none() | st.floats(0, 1e6)),
                status=draw(st.sampled_from(["ok", "degraded", "failed"])),
                digest=draw(st.sampled_from(["", "a", "b"])),
                arrived=draw(st.integers(0, 3)),
                environment=draw(st.sampled_from(["e1", "e2", "e3"])),
                oversubscribed=draw(st.booleans()),
            )
        )
    found = analyse(measured(*rows, environments=(HERE, replace(HERE, id="e2", cores=4))))
    points = [point for study in found.studies for series in study.series for point in series.points]
    assert sum(len(point.walls) for point in points) + len(found.omitted) == len(rows)
    assert sum(point.left_out for point in points) == len(found.omitted)
    assert all(one.reason for one in found.omitted)
    assert all(
        gain.serial is None or gain.serial >= 0
        for s in found.studies
        for x in s.series
        for gain in x.gains.values()
    )


def test_no_rows_say_nothing() -> None:
    found = analyse(Measured((), {}, ("nothing there",)))
    assert found.studies == ()
    assert found.problems == ("nothing there",)


def test_the_order_of_a_report_is_not_that_of_the_run() -> None:
    rows = full_suite().rows
    found = [(study.name, [one.cell for one in study.series]) for study in analyse(full_suite()).studies]
    turned = Measured(tuple(replace(one, order=-one.order) for one in rows), full_suite().environments)
    assert [(study.name, [one.cell for one in study.series]) for study in analyse(turned).studies] == found
