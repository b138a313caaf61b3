"""Scaling: published rows come out as published, known laws are found again, and what says nothing is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndvi_scale.errors import ConfigError
from ndvi_scale.scaling import (
    Usl,
    advise,
    amdahl,
    efficiency,
    fit_usl,
    gain_interval,
    gustafson,
    gustafson_serial,
    karp_flatt,
    ratio_interval,
    speedup,
    speedup_interval,
    usl_interval,
    weak_efficiency,
)

HAL = {1: 62.13, 2: 46.03, 4: 32.33, 8: 16.16, 16: 26.64}
"""Seconds of the spatial anomaly on CNES' HAL, by nodes."""


def test_rows_of_hal_come_out_as_published() -> None:
    gains = speedup(HAL)
    assert {n: round(gain, 2) for n, gain in gains.items()} == {1: 1.0, 2: 1.35, 4: 1.92, 8: 3.84, 16: 2.33}
    assert {n: round(e, 2) for n, e in efficiency(HAL).items()} == {1: 1.0, 2: 0.67, 4: 0.48, 8: 0.48, 16: 0.15}
    fractions = [karp_flatt(gains[n], n) for n in (2, 4, 8, 16)]
    assert [round(e or 0, 2) for e in fractions] == [0.48, 0.36, 0.15, 0.39]
    assert karp_flatt(gains[2], 2) == pytest.approx(0.482, abs=0.001)
    law = fit_usl(HAL)
    assert law.sigma == pytest.approx(0.124, abs=0.001)
    assert law.kappa == pytest.approx(0.0131, abs=0.0001)
    assert law.peak == pytest.approx(8.2, abs=0.1)
    found = advise({n: [time] for n, time in HAL.items()})
    assert found.enough == 8
    assert found.cheapest == 1
    assert found.flags == ("retrograde: 16 workers are slower than 8",)


@given(
    st.floats(0, 0.3),
    st.floats(1e-4, 0.02),
    st.integers(0, 2**32),
    st.integers(1, 4),
)
def test_a_law_is_found_again_from_noisy_times(sigma: float, kappa: float, seed: int, base: int) -> None:
    law, noise = Usl(sigma, kappa), np.random.default_rng(seed)
    sizes = [1, 2, 4, 8, 16, 32]
    seconds = {n * base: 100 / law.at(n) * (1 if n == 1 else noise.uniform(0.995, 1.005)) for n in sizes}
    found = fit_usl(seconds)
    for n in sizes:
        assert found.at(n) == pytest.approx(law.at(n), rel=0.03)
    exact = fit_usl({n * base: 100 / law.at(n) for n in sizes})
    assert exact.sigma == pytest.approx(sigma, abs=1e-4)
    assert exact.kappa == pytest.approx(kappa, abs=1e-5)


@given(st.floats(0, 1), st.integers(2, 10_000))
def test_karp_and_flatt_find_amdahls_serial_part(serial: float, workers: int) -> None:
    assert karp_flatt(amdahl(serial, workers), workers) == pytest.approx(serial, abs=1e-9) or serial < 1e-9


@given(st.floats(0, 1), st.integers(2, 10_000))
def test_gustafsons_serial_part_is_found_again(serial: float, workers: int) -> None:
    found = gustafson_serial(gustafson(serial, workers), workers)
    assert found == pytest.approx(serial, abs=1e-9) or serial < 1e-9
    assert gustafson_serial(workers * 1.1, workers) is None
    with pytest.raises(ConfigError, match="1 workers: it takes more"):
        gustafson_serial(1.0, 1)


def test_laws_at_their_ends() -> None:
    assert amdahl(0, 8) == gustafson(0, 8) == 8
    assert amdahl(1, 8) == gustafson(1, 8) == 1
    assert Usl(0, 0).peak == math.inf
    assert Usl(0, 0).at(8) == 8
    assert weak_efficiency({1: 10, 8: 12.5}) == {1: 1, 8: 0.8}
    assert efficiency({2: 10, 8: 2.5}) == {2: 1, 8: 1}  # relative to the smallest that was measured


def test_a_serial_part_is_never_negative() -> None:
    assert karp_flatt(2.4, 2) is None
    assert "efficiency 1.20 at 2 workers: the baseline is suspect" in advise({1: [24.0], 2: [10.0]}).flags


def test_no_gain_is_said_where_repeats_overlap() -> None:
    same = {1: [10.0, 11.0, 12.0], 2: [5.0, 5.1, 5.2], 4: [4.9, 5.1, 5.2, 5.0, 4.8]}
    found = advise(same)
    assert found.enough == 2
    assert [flag for flag in found.flags if flag.startswith("no demonstrated gain from 2 to 4 workers")]
    low, high = gain_interval(same, 2)
    assert 1.9 < low < high < 2.5


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: fit_usl({1: 3.0, 2: 2.0, 4: 1.0}), "3 numbers of workers (1, 2, 4)"),
        (lambda: speedup({}), "no time was measured"),
        (lambda: speedup({1: 0.0}), "seconds above 0"),
        (lambda: speedup({0: 1.0}), "workers from 1 on"),
        (lambda: speedup({1: math.nan}), "seconds above 0"),
        (lambda: gain_interval({1: [1.0], 2: [1.0]}, 2), "1 repeats of a size"),
        (lambda: gain_interval({2: [1.0]}, 2), "2 workers and fewer"),
        (lambda: karp_flatt(1.0, 1), "more than the baseline"),
    ],
)
def test_what_says_nothing_is_refused(action: object, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        action()  # type: ignore[operator]
    assert words in str(refused.value)


def test_intervals_of_speed_ups_hold_them() -> None:
    repeats = {1: [10.0, 10.4, 9.8, 10.1, 9.9], 4: [3.0, 3.2, 2.9, 3.1, 3.0]}
    low, high = speedup_interval(repeats, 4)
    assert 2.9 < low < 10 / 3 < high < 3.7
    assert speedup_interval(repeats, 1) == (1, 1)
    assert speedup_interval(repeats, 4) == (low, high)
    assert ratio_interval([2.0] * 3, [1.0] * 3) == (2, 2)
    with pytest.raises(ConfigError, match="2 workers have to be measured: there are 1, 4"):
        speedup_interval(repeats, 2)
    with pytest.raises(ConfigError, match="2 repeats of a size"):
        ratio_interval([1.0, 1.0], [1.0] * 3)


def test_laws_of_resampled_repeats_spread_with_the_noise() -> None:
    noise, law = np.random.default_rng(1), Usl(0.05, 0.002)
    repeats = {n: [100 / law.at(n) * noise.normal(1, 0.05) for _ in range(5)] for n in (1, 2, 4, 8, 16)}
    spread = usl_interval(repeats, seed=3)
    low, high = spread.peak
    assert low < law.peak < high
    assert spread.sigma[0] <= spread.sigma[1] < 0.3
    assert 0 <= spread.kappa[0] < spread.kappa[1]
    assert spread.at(16)[0] < law.at(16) < spread.at(16)[1]
    assert usl_interval(repeats, seed=3) == spread


def test_a_law_without_a_peak_has_an_infinite_interval() -> None:
    spread = usl_interval({n: [8 / n] * 3 for n in (1, 2, 4, 8)})
    assert spread.peak == (math.inf, math.inf)
    with pytest.raises(ConfigError, match="3 numbers of workers"):
        usl_interval({n: [8 / n] * 3 for n in (1, 2, 4)})
    with pytest.raises(ConfigError, match="1 repeats"):
        usl_interval({n: [8 / n] for n in (1, 2, 4, 8)})
