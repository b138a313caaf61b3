"""Calibrations: known parameters come out of drawn rows, other sizes fall into the interval, too little is refused.

The rows are those of `bench_truth`.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_truth import Truth, changed, environment, measured
from ndvi_scale.bench.calibrate import (
    Held,
    Series,
    calibrate,
    held_out,
    median_error,
    nonnegative,
    series_of,
    site_of,
    work_of_row,
)
from ndvi_scale.bench.rows import Measured
from ndvi_scale.errors import ConfigError
from ndvi_scale.forecast import Forecast, forecast, read_calibration, scheduler_limit


def foretold(found: Measured, sizes: tuple[int, ...]) -> list[Held]:
    """What a calibration on some sizes says of the others."""
    series, rows = next(iter(series_of(found.rows).items()))
    return held_out(rows, calibrate(found, sizes, series))


def test_known_parameters_come_out(tmp_path: Any) -> None:
    truth = Truth(between=0.01, spread=0.2)
    both = [measured(truth, (1, 2, 4), kind=kind) for kind in ("weak", "strong")]
    found = calibrate(replace(both[0], rows=both[0].rows + both[1].rows))
    work = work_of_row(both[0].rows[0])
    assert (found.sizes, found.repeats, found.threads, found.cores) == ((1, 2, 4), 10, 1, None)
    assert found.fixed == pytest.approx(truth.fixed, abs=0.2)
    assert found.waiting(work) == pytest.approx(truth.wait, rel=0.1)
    assert found.compute * work.mpx == pytest.approx(truth.compute, rel=0.05)
    assert found.cpu * work.mpx == pytest.approx(truth.compute, rel=0.05)
    assert found.serial == pytest.approx(truth.serial, rel=0.05)
    assert found.startup == pytest.approx((4, 0.5))
    assert found.between < 0.05
    assert np.std(found.spread) == pytest.approx(truth.spread, rel=0.25)
    assert (found.price, found.currency) == (0.12, "EUR")
    assert scheduler_limit(found, work) == pytest.approx(1 / truth.serial, rel=0.1)
    (tmp_path / "calibration.json").write_text(found.to_json())
    assert read_calibration(tmp_path / "calibration.json") == found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_sizes_that_it_has_not_seen_fall_into_the_interval(kind: str) -> None:
    inside, rows, errors = 0, 0, []
    for seed in range(15):
        held = foretold(measured(Truth(), (1, 2, 4, 8, 32), seed=seed, kind=kind), (1, 2))
        assert [one.workers for one in held] == [4, 8, 32]
        inside += sum(one.repeats_contained for one in held)
        rows += sum(len(one.walls) for one in held)
        errors.append(median_error(held))
    assert 0.85 <= inside / rows < 1  # far sizes have room for what this machine does not do: `DRIFT`
    assert max(errors) <= 0.2
    assert statistics.median(errors) <= 0.05


@given(
    st.builds(
        Truth,
        fixed=st.floats(0, 5),
        wait=st.floats(0.05, 3),
        compute=st.floats(0.05, 1),
        spread=st.floats(0, 0.3),
        between=st.floats(0, 0.1),
    ),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=40)
@pytest.mark.slow
def test_any_machine_is_foretold_within_a_fifth(truth: Truth, seed: int) -> None:
    assert median_error(foretold(measured(truth, (1, 2, 4, 8), seed=seed), (1, 2))) <= 0.2


def test_workers_that_share_cores_are_foretold_by_their_cores() -> None:
    truth = Truth(wait=0.1, compute=0.9, cores=4, between=0.02, spread=0.05)
    held = foretold(measured(truth, (1, 2, 4, 8, 16), cluster="local"), (1, 2))
    assert median_error(held) <= 0.1
    assert [one.forecast.limit for one in held] == ["workers", "cores", "cores"]
    away = foretold(measured(truth, (1, 2, 8), cluster="slurm"), (1, 2))
    assert away[0].forecast.limit == "workers"
    assert away[0].error < -0.3  # nothing says that those share cores


def test_a_calibration_on_crowded_cores_takes_no_queue_for_waiting() -> None:
    truth = Truth(wait=0.1, compute=0.9, cores=2, between=0.01, spread=0.05)
    found = measured(truth, (2, 4, 8), cluster="local")
    found = replace(found, environments={"e": environment(cores=2)})
    calibration = calibrate(found)
    assert calibration.waiting(work_of_row(found.rows[0])) == pytest.approx(0.1, abs=0.03)
    row = found.rows[-1]
    told = forecast(calibration, work_of_row(row), site_of(row, calibration))
    assert told.wall == pytest.approx(row.wall or 0, rel=0.1)


def test_other_shapes_tell_latency_from_bandwidth() -> None:
    few = measured(Truth(wait=12 * 0.02 + 3 / 10, between=0.0, spread=0.0), (1, 2))
    many = changed(
        measured(Truth(wait=12 * 0.02 + 9 / 10, between=0.0, spread=0.0), (4,)), bytes_read=9_000_000 * 80
    )
    found = calibrate(replace(few, rows=few.rows + many.rows))
    assert found.latency == pytest.approx(0.02, rel=0.01)
    assert found.bandwidth == pytest.approx(10e6, rel=0.01)


def test_waiting_without_bytes_goes_with_requests_or_pixels() -> None:
    found = measured(Truth(between=0.0), (1, 2))
    no_bytes = calibrate(changed(found, bytes_read=0))
    assert no_bytes.latency == pytest.approx(0.8 / 12, rel=0.1)
    neither = calibrate(changed(found, bytes_read=0, requests=0))
    assert neither.latency == 0
    for one in (no_bytes, neither):
        assert one.bandwidth is None
        assert one.region_seconds(work_of_row(found.rows[0])) == pytest.approx(1.0, rel=0.1)


def test_idle_regions_bound_what_the_scheduler_takes() -> None:
    found = changed(measured(Truth(), (1, 2, 4)), scheduler_cpu=30.0, driver_cpu=None)
    assert any("while nothing happens" in note for note in calibrate(found).notes)
    idle = [
        replace(row, wall=0.003 * row.cell.regions, cell=replace(row.cell, stage="submit")) for row in found.rows
    ]
    better = calibrate(replace(found, rows=found.rows + tuple(idle)))
    assert better.serial == pytest.approx(0.003)
    assert not better.notes


def test_what_was_not_measured_is_noted() -> None:
    found = calibrate(
        changed(measured(Truth(), (1, 2)), worker_cpu=None, scheduler_cpu=None, driver_cpu=None, startup=None)
    )
    assert found.serial == 0.001
    assert found.startup == (0.0, 0.0)
    assert found.bandwidth is None
    for words in ("count as computing", "1 ms a region assumed", "none is counted"):
        assert words in " ".join(found.notes)
    emulated = measured(Truth(), (1, 2), seconds=0.8)
    (series,) = series_of(emulated.rows)
    assert "emulated" in " ".join(calibrate(emulated, series=series).notes)


def test_real_work_goes_before_emulated_nodes_which_foretell_nothing_of_it() -> None:
    real, emulated = measured(Truth(), (1, 2)), measured(Truth(), (1, 2, 4, 8), seconds=0.8)
    both = replace(real, rows=emulated.rows + real.rows)
    assert [series.seconds for series in series_of(both.rows)] == [None, 0.8]
    assert calibrate(both) == calibrate(real)
    with pytest.raises(ConfigError, match=r"emulated in every .* without `seconds`"):
        calibrate(emulated)


def test_rows_that_do_not_count_are_left_out() -> None:
    found = measured(Truth(), (1, 2, 4))
    bad = changed(measured(Truth(fixed=500), (1, 2, 4), seed=9), status="degraded")
    stage = [replace(row, wall=900.0, cell=replace(row.cell, stage="read")) for row in found.rows]
    mixed = replace(found, rows=found.rows + bad.rows + tuple(stage))
    assert calibrate(mixed) == calibrate(found)
    assert len(series_of(mixed.rows)) == 1


def test_the_series_with_most_sizes_comes_first() -> None:
    two, three = measured(Truth(), (1, 2), store="s3"), measured(Truth(), (1, 2, 4))
    both = replace(two, rows=two.rows + three.rows)
    assert [series.store for series in series_of(both.rows)] == ["disk", "s3"]
    assert calibrate(both).sizes == (1, 2, 4)
    other = Series("slurm", "s3", "daily", 1, 1024, None, 1024, "origin", None)
    assert calibrate(both, series=other).name.startswith("slurm, s3, daily, chunks of 1024")
    with pytest.raises(ConfigError, match="no row of slurm, s3, monthly"):
        calibrate(both, series=other._replace(workload="monthly"))


def test_more_threads_than_cores_are_no_base() -> None:
    found = measured(Truth(), (1, 2, 4))
    crowded = [replace(row, oversubscribed=row.cell.workers == 4) for row in found.rows]
    assert calibrate(replace(found, rows=tuple(crowded))).sizes == (1, 2)
    every = changed(found, oversubscribed=True)
    with pytest.raises(ConfigError, match="none; a calibration needs 2 sizes"):
        calibrate(every)


def test_of_equal_sizes_the_larger_work_comes_first() -> None:
    small, large = measured(Truth(), (1, 2), store="a"), measured(Truth(), (1, 2), store="b")
    more = tuple(replace(row, cell=replace(row.cell, regions=3 * row.cell.regions)) for row in large.rows)
    assert [series.store for series in series_of((*small.rows, *more))] == ["b", "a"]


@pytest.mark.parametrize(
    ("found", "sizes", "words"),
    [
        (measured(Truth(), (2,)), None, "5 of 2 workers; a calibration needs 2 sizes"),
        (measured(Truth(), (1, 2)), (2, 3), "needs 2 sizes"),
        (measured(Truth(), (1, 2)), (7, 9), "none; a calibration needs 2 sizes"),
        (
            measured(Truth(), (1, 2), repeats=2),
            None,
            "2 of 1 workers, 2 of 2 workers; a calibration needs 3",
        ),
        (changed(measured(Truth(), (1, 2)), status="failed"), None, "strong or weak study"),
        (changed(measured(Truth(), (1, 2)), region_seconds=()), None, "seconds of its regions"),
        (changed(measured(Truth(), (1, 2)), pixels=0), None, "pixels"),
        (changed(measured(Truth(), (1, 2)), environment="other"), None, "environments other"),
    ],
)
def test_too_little_is_refused(found: Measured, sizes: tuple[int, ...] | None, words: str) -> None:
    with pytest.raises(ConfigError, match=r"ndvi-scale bench|sizes|repeats|machine") as caught:
        calibrate(found, sizes)
    assert words in str(caught.value)


def test_several_machines_are_refused() -> None:
    found = measured(Truth(), (1, 2))
    rows = (*found.rows[:-1], replace(found.rows[-1], environment="f"))
    with pytest.raises(ConfigError, match="environments e, f: a calibration is of one machine"):
        calibrate(Measured(rows, {"e": environment(), "f": environment(id="f")}))


def test_nothing_held_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="no size beside 1, 2"):
        foretold(measured(Truth(), (1, 2)), (1, 2))


def test_what_is_held_says_how_it_went() -> None:
    held = Held(4, 80, (1.0, 2.0, 9.0), Forecast(4, 2.2, 1.5, 2.5, 0.0, None, "workers"))
    assert (held.measured, held.contained, held.repeats_contained) == (2.0, True, 1)
    assert held.error == pytest.approx(0.1)
    assert median_error([held, replace(held, walls=(1.1,))]) == pytest.approx(0.55)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=2), st.integers(0, 2**32 - 1))
def test_a_fit_has_no_negative_part(wanted: list[float], seed: int) -> None:
    """Compared with a search of all coefficients nearby, which is slower and simpler."""
    chance = np.random.default_rng(seed)
    columns = np.stack([np.ones(6), chance.uniform(1, 9, 6)], axis=1)
    target = columns @ np.array(wanted) + chance.normal(0, 1, 6)
    found = np.array(nonnegative(columns.tolist(), target.tolist()))
    assert (found >= 0).all()

    def error(own: Any) -> float:
        return float(((columns @ own - target) ** 2).sum())

    for step in ([0.05, 0], [-0.05, 0], [0, 0.05], [0, -0.05]):
        near = np.clip(found + step, 0, None)
        assert error(found) <= error(near) + 1e-9
    assert nonnegative([[1, 2], [1, 2]], [3, 3]) == pytest.approx([3, 0])  # of columns alike the first
