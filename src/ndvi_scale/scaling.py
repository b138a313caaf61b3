"""What run times on several numbers of workers say: speed-up, efficiency, what holds it back, how many pay.

Pure functions of seconds by workers. The smallest number is the baseline, and all is relative to it: with a
baseline of two workers a speed-up of four is ideal at eight. Formulas: Amdahl (1967), Gustafson (1988), Karp and
Flatt (1990), the Universal Scalability Law of Gunther (2007).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEAST_SIZES: Final = 4
"""Numbers of workers from which two parameters may be told: with fewer a fit says what one wants to hear."""

SUSPECT: Final = 1.05
"""Efficiency above which the baseline is in doubt: it was slowed down, or the work was not the same."""

NEAR: Final = 0.1
"""Part of the fastest time that fewer workers may take longer and still be enough."""

ZERO: Final = 1e-12
"""What a fit takes for none."""

DRAWS: Final = 2000
"""Samples of a bootstrap."""

LAW_DRAWS: Final = 200
"""Laws that are fitted to samples: each takes some 5 ms."""

LEAST_REPEATS: Final = 3
"""Of a size, for an interval: a median of two is a mean. Five are better."""


def speedup(seconds: Mapping[int, float]) -> dict[int, float]:
    """Workers → how much faster than the smallest number of them. Raises ConfigError for times that are none."""
    _check(seconds)
    first = seconds[min(seconds)]
    return {workers: first / seconds[workers] for workers in sorted(seconds)}


def efficiency(seconds: Mapping[int, float]) -> dict[int, float]:
    """Workers → speed-up over the ideal one, fixed work. Raises ConfigError."""
    base = min(seconds, default=1)
    return {workers: gain * base / workers for workers, gain in speedup(seconds).items()}


def weak_efficiency(seconds: Mapping[int, float]) -> dict[int, float]:
    """Workers → time of the smallest number over theirs, where work grows with workers. Raises ConfigError."""
    return speedup(seconds)


def amdahl(serial: float, workers: int) -> float:
    """Speed-up of fixed work of which a part cannot be shared."""
    return 1 / (serial + (1 - serial) / workers)


def gustafson(serial: float, workers: int) -> float:
    """Speed-up of work that grows with workers, where a part of each time cannot be shared."""
    return workers - serial * (workers - 1)


def gustafson_serial(grown: float, workers: float) -> float | None:
    """Part of each time that is not shared, which so much more work in the same time would mean.

    None where it would be negative, as `karp_flatt`. Raises ConfigError.
    """
    if workers <= 1:
        raise ConfigError(f"serial fraction of {workers:g} workers: it takes more than the baseline's")
    found = (workers - grown) / (workers - 1)
    return None if found < 0 else found


def karp_flatt(gain: float, workers: float) -> float | None:
    """Serial fraction that a speed-up on so many workers (over the baseline's) would mean.

    None where it would be negative: then it is no measurement of a serial part, but a baseline in doubt.
    """
    if workers <= 1:
        raise ConfigError(f"serial fraction of {workers:g} workers: it takes more than the baseline's")
    found = (1 / gain - 1 / workers) / (1 - 1 / workers)
    return None if found < 0 else found


@dataclass(frozen=True)
class Usl:
    """Universal Scalability Law: S(N) = N / (1 + sigma (N - 1) + kappa N (N - 1)), N in units of the baseline."""

    sigma: float
    """Contention: what all wait for in turn."""
    kappa: float
    """Coherence: what each has to agree on with each other one."""

    def at(self, workers: float) -> float:
        """Speed-up of so many times the baseline's workers."""
        return float(_usl(np.float64(workers), self.sigma, self.kappa))

    @property
    def peak(self) -> float:
        """Workers beyond which it gets slower, in units of the baseline; infinite where it does not."""
        if self.kappa == 0:
            return math.inf
        return math.sqrt(max(0.0, 1 - self.sigma) / self.kappa)


def fit_usl(seconds: Mapping[int, float]) -> Usl:
    """The law that fits speed-ups best: least squares on S, S(1) = 1, sigma and kappa not negative.

    What is minimised matters: on times or logarithms the same rows give other peaks. Raises ConfigError for fewer
    than `LEAST_SIZES` sizes, and where scipy is not installed.
    """
    if len(seconds) < LEAST_SIZES:
        raise ConfigError(
            f"{len(seconds)} numbers of workers ({_listed(seconds)}): a scalability law needs {LEAST_SIZES}; "
            "measure more, such as 1, 2, 4, 8"
        )
    gains = speedup(seconds)
    base = min(gains)
    sizes = np.array([workers / base for workers in gains])
    wanted = np.array(list(gains.values()))
    try:
        from scipy.optimize import curve_fit
    except ImportError:
        raise ConfigError("a scalability law is fitted by scipy: pip install 'ndvi-scale[bench]'") from None
    start = _linear_start(sizes, wanted)
    try:
        found, _ = curve_fit(
            _usl, sizes, wanted, p0=start, jac=_usl_slopes, bounds=(0, np.inf), xtol=ZERO, ftol=ZERO
        )
    except RuntimeError:
        raise ConfigError(f"no scalability law was found for the times {dict(seconds)}; measure again") from None
    return _simplest(
        [Usl(*pair) for pair in product((0.0, float(found[0])), (0.0, float(found[1])))], sizes, wanted
    )


def _simplest(laws: Sequence[Usl], sizes: np.ndarray, gains: np.ndarray) -> Usl:
    """The one that is nearest to speed-ups, the first of equals: a fit within bounds never quite reaches them."""
    return min(laws, key=lambda law: float(np.sum((_usl(sizes, law.sigma, law.kappa) - gains) ** 2)))


def _usl(sizes: Any, sigma: Any, kappa: Any) -> Any:
    return sizes / (1 + sigma * (sizes - 1) + kappa * sizes * (sizes - 1))


def _usl_slopes(sizes: np.ndarray, sigma: float, kappa: float) -> np.ndarray:
    """Of `_usl`, along sigma and kappa."""
    terms = np.stack([sizes - 1, sizes * (sizes - 1)], axis=1)
    return -(_usl(sizes, sigma, kappa) ** 2 / sizes)[:, None] * terms


def _linear_start(sizes: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """N / S - 1 is linear in both parameters: near enough to begin with."""
    terms = np.stack([sizes - 1, sizes * (sizes - 1)], axis=1)
    found = np.linalg.lstsq(terms, sizes / gains - 1, rcond=None)[0]
    return np.clip(found, 1e-6, None)


@dataclass(frozen=True)
class UslInterval:
    """Laws of resampled repeats: how far another day's measurements might have led elsewhere."""

    laws: tuple[Usl, ...]
    level: float

    def at(self, workers: float) -> tuple[float, float]:
        """Lowest and highest speed-up of so many times the baseline's workers."""
        return self._of(_usl(np.float64(workers), *self._parameters))

    @property
    def sigma(self) -> tuple[float, float]:
        """Lowest and highest contention."""
        return self._of([law.sigma for law in self.laws])

    @property
    def kappa(self) -> tuple[float, float]:
        """Lowest and highest coherence."""
        return self._of([law.kappa for law in self.laws])

    @property
    def peak(self) -> tuple[float, float]:
        """Lowest and highest peak, in units of the baseline; infinite where some laws have none."""
        return self._of([law.peak for law in self.laws])

    @cached_property
    def _parameters(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([law.sigma for law in self.laws]), np.array([law.kappa for law in self.laws])

    def _of(self, values: Sequence[float] | np.ndarray) -> tuple[float, float]:
        ends = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = np.quantile(values, ends, method="nearest")  # between a number and infinity lies nothing
        return float(low), float(high)


def usl_interval(repeats: Mapping[int, Sequence[float]], seed: int = 0, level: float = 0.95) -> UslInterval:
    """Laws fitted to medians of resampled repeats. Raises ConfigError as `fit_usl`, and for too few repeats."""
    _check_repeats(repeats)
    chance = np.random.default_rng(seed)
    medians = {size: _medians(times, LAW_DRAWS, chance) for size, times in repeats.items()}
    laws = [fit_usl({size: float(drawn[one]) for size, drawn in medians.items()}) for one in range(LAW_DRAWS)]
    return UslInterval(tuple(laws), level)


def gain_interval(
    repeats: Mapping[int, Sequence[float]], workers: int, seed: int = 0, level: float = 0.9
) -> tuple[float, float]:
    """Interval of S(workers) / S(the next smaller number), by resampling the repeats' medians.

    It includes 1 where no gain is demonstrated. Raises ConfigError where a size has fewer than three repeats.
    """
    smaller = [size for size in repeats if size < workers]
    if workers not in repeats or not smaller:
        raise ConfigError(f"{workers} workers and fewer have to be measured: there are {_listed(repeats)}")
    return ratio_interval(repeats[max(smaller)], repeats[workers], seed, level)


def speedup_interval(
    repeats: Mapping[int, Sequence[float]], workers: int, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of S(workers), by resampling the repeats' medians. Raises ConfigError as `gain_interval`."""
    if workers not in repeats:
        raise ConfigError(f"{workers} workers have to be measured: there are {_listed(repeats)}")
    base = min(repeats)
    return (1.0, 1.0) if workers == base else ratio_interval(repeats[base], repeats[workers], seed, level)


def ratio_interval(
    before: Sequence[float], after: Sequence[float], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the median of times over that of others. Raises ConfigError for fewer than three of either."""
    _check_repeats({0: before, 1: after})
    chance = np.random.default_rng(seed)
    ratios = _medians(before, DRAWS, chance) / _medians(after, DRAWS, chance)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _medians(times: Sequence[float], draws: int, chance: np.random.Generator) -> np.ndarray:
    return np.median(chance.choice(np.asarray(times, float), (draws, len(times))), axis=1)


def _check_repeats(repeats: Mapping[int, Sequence[float]]) -> None:
    fewest = min(map(len, repeats.values()), default=0)
    if fewest < LEAST_REPEATS:
        raise ConfigError(f"{fewest} repeats of a size: an interval needs three, better five")


@dataclass(frozen=True)
class Advice:
    """How many workers are worth it."""

    enough: int
    """The smallest number within `NEAR` of the fastest time."""
    cheapest: int
    """The smallest product of workers and seconds."""
    flags: tuple[str, ...]
    """What to doubt."""


def advise(repeats: Mapping[int, Sequence[float]]) -> Advice:
    """Of the medians of repeats. Raises ConfigError."""
    seconds = {workers: statistics.median(times) for workers, times in sorted(repeats.items()) if times}
    _check(seconds)
    fastest = min(seconds.values())
    enough = min(workers for workers, time in seconds.items() if time <= fastest * (1 + NEAR))
    cheapest = min(seconds, key=lambda workers: (workers * seconds[workers], workers))
    return Advice(enough, cheapest, tuple(_flags(seconds, repeats)))


def _flags(seconds: Mapping[int, float], repeats: Mapping[int, Sequence[float]]) -> list[str]:
    found = [
        f"efficiency {value:.2f} at {workers} workers: the baseline is suspect"
        for workers, value in efficiency(seconds).items()
        if value > SUSPECT
    ]
    sizes = sorted(seconds)
    for smaller, workers in pairwise(sizes):
        if seconds[workers] > seconds[smaller]:
            found.append(f"retrograde: {workers} workers are slower than {smaller}")
        elif min(len(repeats[smaller]), len(repeats[workers])) >= LEAST_REPEATS:
            low, high = gain_interval(repeats, workers)
            if low <= 1 <= high:
                found.append(f"no demonstrated gain from {smaller} to {workers} workers ({low:.2f} to {high:.2f})")
    return found


def _check(seconds: Mapping[int, float]) -> None:
    if not seconds:
        raise ConfigError("no time was measured: give seconds by number of workers")
    for workers, time in seconds.items():
        if workers < 1 or not (math.isfinite(time) and time > 0):
            raise ConfigError(f"{time} s on {workers} workers: give workers from 1 on, and seconds above 0")


def _listed(sizes: Mapping[int, object]) -> str:
    return ", ".join(map(str, sorted(sizes))) or "none"
