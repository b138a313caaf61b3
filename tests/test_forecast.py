"""Forecasts: an independent simulation says the same, laws of scheduling hold, bad files are told."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runs
from ndvi_scale import open_reader
from ndvi_scale.errors import ConfigError
from ndvi_scale.estimate import estimate_plan
from ndvi_scale.forecast import (
    MOST_SIMULATED,
    Calibration,
    Forecast,
    Site,
    Work,
    assumptions,
    forecast,
    look_ahead,
    makespan,
    read_calibration,
    scheduler_limit,
    sensible_sizes,
    work_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox

BASE = Calibration(
    name="a table",
    sizes=(1, 2),
    repeats=5,
    fixed=2.0,
    latency=0.01,
    compute=0.1,
    cpu=0.12,
    serial=0.002,
    spread=(0.8, 0.95, 1.0, 1.05, 1.4),
    between=0.05,
    freedom=8,
    bandwidth=10e6,
    startup=(5.0, 0.1),
)
WORK = Work(regions=400, pixels=4e6, bytes=8e6, requests=20)
STEADY = replace(BASE, spread=(1.0, 1.0), between=0.0)

numbers = st.integers(1, 64)
works = st.builds(Work, st.integers(1, 300), st.floats(1e4, 1e8), st.floats(0, 1e8), st.floats(0, 100))
calibrations = st.builds(
    replace,
    st.just(BASE),
    fixed=st.floats(0, 10),
    compute=st.floats(0.01, 1),
    serial=st.floats(1e-4, 0.05),
    between=st.floats(0, 0.3),
    cores=st.none() | st.integers(1, 64),
    total_bandwidth=st.none() | st.floats(1e6, 1e9),
    gap=st.floats(0, 0.1),
)


def walls(calibration: Calibration, work: Work, sizes: list[int], cores: int | None = None) -> list[float]:
    return [forecast(calibration, work, Site(workers, cores=cores)).wall for workers in sizes]


def by_events(seconds: list[float], slots: int, interval: float) -> float:
    """The same as `makespan`, written otherwise: time goes on in steps from event to event."""
    waiting = [(number * interval, own) for number, own in enumerate(seconds)]
    running: list[float] = []
    now = last = 0.0
    while waiting or running:
        running = [end for end in running if end > now]
        while waiting and waiting[0][0] <= now and len(running) < slots:
            _, own = waiting.pop(0)
            running.append(now + own)
            last = max(last, now + own)
        ahead = [end for end in running if end > now]
        if waiting and len(running) < slots:
            ahead.append(waiting[0][0])
        if not ahead:
            break
        now = min(ahead)
    return last


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=60), st.integers(1, 12), st.sampled_from([0.0, 0.05, 1.0])
)
def test_scheduling_is_that_of_an_independent_simulation(seconds: list[float], slots: int, interval: float) -> None:
    found = makespan(seconds, slots, interval)
    assert found == pytest.approx(by_events(seconds, slots, interval))
    if not interval:  # Graham (1966): never worse than the mean load and most of the longest
        assert found <= sum(seconds) / slots + max(seconds) * (1 - 1 / slots) + 1e-9
    assert found >= max(sum(seconds) / slots, *seconds, (len(seconds) - 1) * interval) - 1e-9


@given(calibrations, works, numbers, numbers)
@settings(deadline=None, max_examples=40)
def test_more_workers_are_never_slower(calibration: Calibration, work: Work, first: int, second: int) -> None:
    fewer, more = sorted((first, second))
    slow, fast = walls(calibration, work, [fewer, more], calibration.cores)
    # Where each region has a worker, other runs are drawn than where regions queue.
    assert fast <= slow * (1.05 if fewer < work.regions <= more else 1 + 1e-9)


@given(calibrations, works, numbers)
@settings(deadline=None, max_examples=40)
def test_no_bound_is_beaten(calibration: Calibration, work: Work, workers: int) -> None:
    calibration = replace(calibration, spread=(1.0, 1.0))
    found = forecast(calibration, work, Site(workers, cores=calibration.cores))
    regions = found.wall - calibration.fixed + 1e-6
    assert regions >= work.regions * calibration.region_seconds(work) / workers
    assert regions >= (work.regions - 1) * calibration.serial
    assert found.low <= found.wall <= found.high
    if calibration.cores:
        assert regions >= work.regions * calibration.cpu * work.mpx / calibration.cores
    if calibration.total_bandwidth:
        assert regions >= work.regions * work.bytes / calibration.total_bandwidth


@given(works, numbers, st.integers(1, 8), st.floats(0.01, 10))
@settings(deadline=None, max_examples=30)
def test_cost_is_worker_hours_at_their_price(work: Work, workers: int, threads: int, price: float) -> None:
    found = forecast(BASE, work, Site(workers, threads, price=price))
    assert found.cost == pytest.approx(workers * found.wall / 3600 * price)
    assert forecast(BASE, work, Site(workers, threads)).cost is None
    assert found.startup == pytest.approx(5 + 0.1 * workers)


def test_time_grows_with_the_work() -> None:
    one = forecast(STEADY, WORK, Site(4)).wall - STEADY.fixed
    twice = forecast(STEADY, replace(WORK, regions=800), Site(4)).wall - STEADY.fixed
    assert twice == pytest.approx(2 * one, rel=0.01)
    assert STEADY.region_seconds(WORK) == pytest.approx(20 * 0.01 + 8 / 10 + 4 * 0.1)
    dearer = replace(WORK, bytes=2 * WORK.bytes, pixels=2 * WORK.pixels, requests=2 * WORK.requests)
    assert STEADY.region_seconds(dearer) == pytest.approx(2 * STEADY.region_seconds(WORK))
    threads = forecast(STEADY, WORK, Site(2, threads=2)).wall
    assert threads == pytest.approx(forecast(STEADY, WORK, Site(4)).wall)


def test_what_limits_is_named() -> None:
    def limit(workers: int, cores: int | None = None, calibration: Calibration = STEADY, regions: int = 400) -> str:
        return forecast(calibration, replace(WORK, regions=regions), Site(workers, cores=cores)).limit

    assert limit(8) == "workers"
    assert limit(400) == "too few regions"
    assert limit(8, cores=2) == "cores"
    assert limit(64, calibration=replace(STEADY, total_bandwidth=20e6)) == "bandwidth"
    assert limit(2000, calibration=replace(STEADY, serial=0.02), regions=10_000) == "scheduler"
    assert limit(2000, calibration=replace(STEADY, serial=0.02), regions=100_000) == "scheduler"


@given(st.floats(1e-4, 0.1), st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_beyond_its_limit_the_scheduler_is_all(serial: float, threads: int) -> None:
    calibration = replace(STEADY, serial=serial)
    most = scheduler_limit(calibration, WORK, threads)
    mean = calibration.region_seconds(WORK)
    assert most * threads * serial <= mean * 1.000001 or most == 1
    assert (most + 1) * threads * serial > mean * 0.999999
    if most * threads > 4000:
        return
    work = replace(WORK, regions=max(100, 20 * (most + 1) * threads))
    if work.regions <= MOST_SIMULATED:
        there, beyond = (forecast(calibration, work, Site(n, threads)).wall for n in (most + 1, 4 * most))
        assert beyond >= there * 0.9


def test_the_sum_says_what_the_simulation_says() -> None:
    """Just below and just above the number of regions from which nothing is scheduled one by one."""
    for workers in (4, 64, 1000):
        below, above = (
            forecast(BASE, replace(WORK, regions=regions), Site(workers)).wall - BASE.fixed
            for regions in (MOST_SIMULATED, MOST_SIMULATED + 1)
        )
        assert above == pytest.approx(below, rel=0.03)


@pytest.mark.parametrize(("regions", "workers"), [(20_000, 64), (1_000_000, 4000), (1_000_000, 1), (3000, 5000)])
def test_thousands_of_workers_take_less_than_a_second(regions: int, workers: int) -> None:
    began = time.process_time()
    found = forecast(BASE, replace(WORK, regions=regions), Site(workers))
    assert time.process_time() - began < 1
    assert found.wall > 0


def test_the_interval_holds_as_many_runs_as_it_says() -> None:
    """Runs drawn here, by other code: regions one after another to the first free, a factor a run."""
    chance = np.random.default_rng(5)
    calibration = replace(BASE, freedom=10_000, between=0.1, sizes=(1, 8))
    found = forecast(calibration, replace(WORK, regions=60), Site(8))
    mean = calibration.region_seconds(WORK)
    inside = 0
    for _ in range(400):
        own = mean * np.interp(chance.random(60), np.linspace(0, 1, 5), np.array(BASE.spread) / 1.025)
        wall = (by_events(own.tolist(), 8, BASE.serial) + BASE.fixed) * np.exp(chance.normal(0, 0.1))
        inside += found.holds(wall)
    assert 0.86 <= inside / 400 <= 0.94


def test_an_interval_is_wider_the_farther_a_size_is_from_those_measured() -> None:
    calibration = replace(BASE, sizes=(1, 4), between=0.01, freedom=1000)
    found = [forecast(calibration, replace(WORK, regions=5000), Site(workers)) for workers in (2, 4, 8, 16, 64)]
    widths = [math.log(one.high / one.low) for one in found]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)
    assert widths[1] < widths[2] < widths[3] < widths[4]
    assert all(one.low < one.wall < one.high for one in found)


def test_sizes_go_on_while_they_may_help() -> None:
    assert sensible_sizes(STEADY, replace(WORK, regions=1)) == [1]
    assert sensible_sizes(STEADY, replace(WORK, regions=9)) == [1, 2, 4, 8, 16]
    assert sensible_sizes(STEADY, replace(WORK, regions=9), threads=4) == [1, 2, 4]
    assert sensible_sizes(replace(STEADY, serial=1e-5), replace(WORK, regions=10**6))[-1] == 4096
    assert sensible_sizes(replace(STEADY, serial=0.14), replace(WORK, regions=10**6))[-1] == 32  # limit: 10


def test_an_outlook_says_what_it_takes_for_granted() -> None:
    known = replace(BASE, notes=("nodes were emulated",))
    found = look_ahead(known, WORK, Site(3, cores=2))
    assert found.forecasts == (forecast(known, WORK, Site(3, cores=2)),)
    many = look_ahead(known, WORK, Site(0, cores=2))
    assert [one.workers for one in many.forecasts] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert found.scheduler_limit == pytest.approx(700, abs=1)
    told = " ".join(found.assumptions)
    for words in ("share 2 cores", "10 MB/s", "10 ms a request", "2 ms a region", "nodes were emulated", "90 %"):
        assert words in told
    assert "waits for no bytes" in " ".join(assumptions(replace(BASE, latency=0.0, bandwidth=None), Site(1)))
    assert "cores of its own" in " ".join(assumptions(BASE, Site(1)))
    assert "5 MB/s in all" in " ".join(assumptions(replace(BASE, total_bandwidth=5e6), Site(1)))


def test_no_workers_and_no_regions_are_refused() -> None:
    for work, site in ((WORK, Site(0)), (replace(WORK, regions=0), Site(1))):
        with pytest.raises(ConfigError, match="one of each"):
            forecast(BASE, work, site)


def test_a_plan_is_work_of_its_mean_region(sandbox: Sandbox) -> None:
    plan = runs.plan_of(sandbox)
    estimate = estimate_plan(plan, open_reader())
    work = work_of(plan, estimate)
    assert work.regions == len(plan.index)
    assert work.bytes * work.regions == pytest.approx(estimate.traffic.bytes)
    assert work.requests * work.regions == pytest.approx(estimate.traffic.requests)
    assert work.pixels * work.regions == pytest.approx(sum(map(plan.region_pixels, plan.index)))
    monthly = runs.plan_of(sandbox, period="month", reducer="median")
    total = work_of(monthly, estimate)
    assert total.pixels * total.regions == pytest.approx(
        work.pixels * work.regions
    )  # its days are read all the same
    coarse = runs.plan_of(sandbox, resolution=20)
    more = work_of(coarse, estimate)
    assert more.pixels * more.regions == pytest.approx(4 * sum(map(coarse.region_pixels, coarse.index)))


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration = replace(BASE, cores=2, total_bandwidth=1e6, price=0.1, notes=("a", "b"))
    path.write_text(calibration.to_json(), encoding="utf-8")
    assert read_calibration(path) == calibration


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 1"),
        ({"fixed": -1}, "fixed -1"),
        ({"serial": 0}, "above 0"),
        ({"cpu": "fast"}, "cpu 'fast'"),
        ({"cpu": True}, "cpu True"),
        ({"compute": float("nan")}, "compute nan"),
        ({"between": None}, "between None"),
        ({"latency": [1]}, "latency"),
        ({"spread": [1]}, "spread"),
        ({"spread": [1, 0.5]}, "ascend"),
        ({"spread": [0, 0]}, "above 0"),
        ({"spread": 3}, "list for a number"),
        ({"startup": [1]}, "startup"),
        ({"startup": [1, "x"]}, "startup 'x'"),
        ({"sizes": []}, "sizes"),
        ({"bandwidth": 0}, "bandwidth 0"),
        ({"cores": -2}, "cores -2"),
        ({"price": -1}, "price -1"),
        ({"colour": 1}, "colour"),
        ({"name": 5}, "text"),
        ({"notes": [5]}, "text"),
        ({"notes": None}, "list for a number"),
        ({"freedom": 0}, "freedom 0"),
        ({"sizes": [0, 1]}, "sizes 0"),
        ({"sizes": [1.5]}, "1.5 of a calibration: sizes, repeats"),
        ({"threads": 1.5}, "are whole"),
        ({"cores": 0.5}, "are whole"),
        ({"fixed": 1e308}, "fixed 1e+308"),
        ({"fixed": 10**400}, "fixed with too many digits"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(json.loads(BASE.to_json()) | change), encoding="utf-8")
    with pytest.raises(ConfigError, match="calibration") as caught:
        read_calibration(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"{}", b'{"format": 1}', b"null"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "calibration.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_calibration(path)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="ndvi-scale bench"):
        read_calibration(path)


def test_a_forecast_knows_what_it_holds() -> None:
    found = Forecast(1, 2.0, 1.0, 3.0, 0.0, None, "workers")
    assert found.holds(1.0)
    assert found.holds(3.0)
    assert not found.holds(3.1)
