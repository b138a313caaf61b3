"""What a run will take and cost on so many workers: a model of what was measured on few.

Regions are tasks of equal work and of seconds that vary as they did when measured. They are handed over one after
another, and each goes to the worker that is free first: list scheduling, simulated. What all workers share (cores,
an aggregate bandwidth) bounds the whole from below. Why so: docs/decisions/0022-forecast.md.
"""

from __future__ import annotations

import heapq
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ndvi_scale.estimate import Estimate
    from ndvi_scale.plan import Plan

FORMAT: Final = 1
"""Of the file; raised with every change of what a field means."""

MOST_SIMULATED: Final = 20_000
"""Regions that are scheduled one by one; beyond them the sum and a last wave say the same within 3 %."""

EVENTS: Final = 60_000
"""Regions scheduled in all draws of one forecast: 0.03 s; of many regions `DRAWS` asks for more."""

DRAWS: Final = 8, 200
"""Fewest and most runs that are drawn."""

RUNS: Final = 4000
"""Draws of the factor from run to run, half of them the other half turned over, so that its median is 1."""

DRIFT: Final = 0.025
"""Standard deviation of the logarithm of the wall, for each doubling beyond the sizes that were measured: of what
grows with workers, and shows too little on few to be told. Chosen on emulated nodes of one machine: calibrated on
1 and 2 workers, forecasts were 1 to 2 % off at 4 and 3 to 5 % at 8 (docs/benchmarks.md)."""

LEVEL: Final = 0.9
"""Part of the runs that are to fall into an interval."""

MOST_WORKERS: Final = 4096
"""Where a list of sizes ends that goes on by doubling."""

LARGEST: Final = 1e18
"""Of any number of a calibration: what is larger is no measurement."""

NEEDED: Final = ("name", "sizes", "repeats", "fixed", "latency", "compute", "cpu", "serial", "spread", "between")
"""Fields that a file must have."""


@dataclass(frozen=True)
class Calibration:
    """What was measured on few workers. Seconds, bytes, Mpx (millions of input pixels of 10 m)."""

    name: str
    """What was measured, for a person: study, cluster, store, workload."""
    sizes: tuple[int, ...]
    """Numbers of workers that were measured."""
    repeats: int
    """The fewest of a size."""
    fixed: float
    """Seconds of a run beside its regions: reading the plan, the template, the end."""
    latency: float
    """Seconds of waiting for each request of a region."""
    compute: float
    """Seconds of a region for each Mpx, not waiting for bytes."""
    cpu: float
    """Processor seconds of a worker for each Mpx, of all its threads."""
    serial: float
    """Seconds of scheduler or driver for each region, whichever takes more: regions wait for it in turn."""
    spread: tuple[float, ...]
    """Quantiles, evenly spaced from least to most, of the seconds of a run's regions over their mean."""
    between: float
    """Standard deviation from run to run of the logarithm of the wall over what this model says."""
    freedom: int = 1
    """Rows behind `between`, less what was fitted: Student's degrees of freedom."""
    bandwidth: float | None = None
    """Bytes a second of one region in work; None: no time was seen to go with bytes."""
    gap: float = 0.0
    """Seconds of a worker from one region to the next: writing it, and messages."""
    startup: tuple[float, float] = (0.0, 0.0)
    """Seconds until workers are there: of any number, and for each."""
    threads: int = 1
    """Of each worker that was measured."""
    cores: int | None = None
    """That all workers and the driver shared; None: a machine each."""
    total_bandwidth: float | None = None
    """Bytes a second of all workers together, where the source has a limit; None: none is known."""
    price: float | None = None
    """Of a worker for an hour."""
    currency: str = "USD"
    notes: tuple[str, ...] = ()
    """What was taken for granted for want of a measurement, for a person."""

    def __post_init__(self) -> None:
        """Refuse what no measurement can give. Raises ConfigError."""
        for name in ("fixed", "latency", "compute", "cpu", "between", "gap"):
            _require(name, getattr(self, name))
        for name in ("serial", "freedom", "threads", "repeats"):
            _require(name, getattr(self, name), itself=False)
        for name in ("bandwidth", "cores", "total_bandwidth", "price"):
            if getattr(self, name) is not None:
                _require(name, getattr(self, name), itself=name == "price")
        for name in ("startup", "spread", "sizes"):
            for value in getattr(self, name):
                _require(name, value, itself=name != "sizes")
        for value in (*self.sizes, self.repeats, self.freedom, self.threads, self.cores or 1):
            if not isinstance(value, int):
                raise ConfigError(
                    f"{value!r} of a calibration: sizes, repeats, freedom, threads and cores are whole"
                )
        self._require_lists()

    def _require_lists(self) -> None:
        """Raises ConfigError for texts that are none, and for lists of a wrong length or order."""
        for text in (self.name, self.currency, *self.notes):
            if not isinstance(text, str):
                raise ConfigError(f"{text!r} of a calibration: name, currency and notes are text")
        if len(self.startup) != 2 or len(self.spread) < 2 or not self.sizes:  # noqa: PLR2004 - a line, two ends
            raise ConfigError(
                "a calibration needs two numbers for startup, two or more for spread, one or more for sizes: make "
                "it again with `ndvi-scale bench`"
            )
        if list(self.spread) != sorted(self.spread) or self.spread[-1] == 0:
            raise ConfigError("spread of a calibration: quantiles ascend, and the last is above 0")

    def to_json(self) -> str:
        """As `read_calibration` takes it."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    def region_seconds(self, work: Work) -> float:
        """Seconds of one region on a worker of its own, and until the next can begin there."""
        return self.waiting(work) + self.compute * work.mpx + self.gap

    def waiting(self, work: Work) -> float:
        """Those of them in which bytes are waited for."""
        return self.latency * work.requests + (work.bytes / self.bandwidth if self.bandwidth else 0.0)


def _require(name: str, value: Any, *, itself: bool = True) -> None:
    """Raises ConfigError for what is no finite number, or below 0, or 0 `itself` where that is not allowed."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= LARGEST or (value == 0 and not itself):
        told = repr(value) if not isinstance(value, int) or abs(value) <= LARGEST else "with too many digits"
        raise ConfigError(
            f"{name} {told} of a calibration: a number {'from' if itself else 'above'} 0 to {LARGEST:g} is needed"
        )


def read_calibration(path: Path) -> Calibration:
    """What `ndvi-scale bench` has written. Raises ConfigError for a file that is absent or no calibration."""
    again = "make it again with `ndvi-scale bench`, which writes calibration.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"calibration {path} cannot be read: {error.strerror}; {again}") from None
    except ValueError:  # of JSON, or of UTF-8
        raise ConfigError(f"calibration {path} is no JSON: {again}") from None
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ConfigError(f"calibration {path} is not of format {FORMAT}: {again}")
    known = {one.name for one in fields(Calibration)}
    wrong = sorted((set(NEEDED) - found.keys()) | (found.keys() - known))
    if wrong:
        raise ConfigError(f"calibration {path}: {', '.join(wrong)} missing or unknown; {again}")
    values: dict[str, Any] = {name: tuple(own) if isinstance(own, list) else own for name, own in found.items()}
    try:
        return Calibration(**values)
    except TypeError:
        raise ConfigError(f"calibration {path} has a list for a number, or the reverse: {again}") from None
    except ConfigError as error:
        raise ConfigError(f"calibration {path}: {error}") from None


@dataclass(frozen=True)
class Work:
    """What a run has to do, as equal regions."""

    regions: int
    pixels: float
    """Input pixels of 10 m of a region, each day of a period counted."""
    bytes: float
    """To read for a region."""
    requests: float
    """For a region."""

    @property
    def mpx(self) -> float:
        """Millions of input pixels of a region."""
        return self.pixels / 1e6


def work_of(plan: Plan, estimate: Estimate) -> Work:
    """A plan as so many regions of its mean one. Its own geometry; bytes and requests are the estimate's."""
    count = max(1, len(plan.index))
    days = plan.granule_days
    native = (plan.lattice.geobox.resolution.x / plan.granules[0].red.geobox.resolution.x) ** 2
    pixels = sum(
        plan.region_pixels(region) * len({days[row] for row in rows}) for region, rows in plan.index.items()
    )
    traffic = estimate.traffic
    return Work(len(plan.index), pixels * native / count, traffic.bytes / count, traffic.requests / count)


@dataclass(frozen=True)
class Site:
    """Where it is done."""

    workers: int
    """0 where no number is named: `look_ahead` then finds sensible ones."""
    threads: int = 1
    """Regions that a worker computes at once."""
    cores: int | None = None
    """That all workers and the driver share; None: each worker has its own."""
    price: float | None = None
    """Of a worker for an hour; None: no cost is told."""

    @property
    def slots(self) -> int:
        """Regions at once."""
        return self.workers * self.threads


@dataclass(frozen=True)
class Forecast:
    """What is expected of one site. Seconds."""

    workers: int
    wall: float
    """Median, from the plan to the finished store; start-up not counted."""
    low: float
    high: float
    """Ends of the interval that `LEVEL` of the runs fall into."""
    startup: float
    """Until the workers are there."""
    cost: float | None
    """Worker-hours of `wall` x price."""
    limit: str
    """What more workers would not help against, or ``workers``: see `limit_of`."""

    def holds(self, wall: float) -> bool:
        """Whether the interval contains a measured time."""
        return self.low <= wall <= self.high


def forecast(calibration: Calibration, work: Work, site: Site, seed: int = 0) -> Forecast:
    """Wall, start-up and cost of a run. Raises ConfigError for no workers or no regions."""
    if site.slots < 1 or work.regions < 1:
        raise ConfigError(f"{work.regions} regions on {site.slots} workers: a forecast needs one of each at least")
    chance = np.random.default_rng(seed)
    scheduled = _scheduled(calibration, work, site.slots, chance)
    bounds = _bounds(calibration, work, site)
    spans = np.maximum(scheduled, max(bounds["cores"], bounds["bandwidth"])) + calibration.fixed
    apart = calibration.between * chance.standard_t(calibration.freedom, RUNS // 2)
    median = np.median(_turned_over(spans, apart))
    apart += DRIFT * _doublings(calibration, site) * chance.standard_normal(RUNS // 2)
    low, high = np.quantile(_turned_over(spans, apart), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    cost = None if site.price is None else site.workers * median / 3600 * site.price
    return Forecast(
        site.workers,
        wall=float(median),
        low=float(low),
        high=float(high),
        startup=calibration.startup[0] + calibration.startup[1] * site.workers,
        cost=None if cost is None else float(cost),
        limit=limit_of(bounds, float(np.median(scheduled)), crowded=site.slots >= work.regions),
    )


def _turned_over(spans: NDArray[np.float64], apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """Walls of runs that differ by these logarithms, and by as much the other way."""
    factor = np.exp(np.clip(apart, -5, 5))
    return np.resize(spans, len(apart)) * np.array([factor, 1 / factor])


def _doublings(calibration: Calibration, site: Site) -> float:
    """How often the measured workers have to be doubled to be those of a site; 0 within what was measured."""
    return max(0.0, math.log2(site.slots / (max(calibration.sizes) * calibration.threads)))


def _bounds(calibration: Calibration, work: Work, site: Site) -> dict[str, float]:
    """Seconds that the regions take at least, by what bounds them."""
    cpu = calibration.cpu * work.mpx + calibration.serial
    cap = calibration.total_bandwidth
    return {
        "workers": work.regions * calibration.region_seconds(work) / site.slots,
        "scheduler": work.regions * calibration.serial,
        "cores": work.regions * cpu / site.cores if site.cores else 0.0,
        "bandwidth": work.regions * work.bytes / cap if cap else 0.0,
    }


def limit_of(bounds: dict[str, float], scheduled: float, *, crowded: bool) -> str:
    """The largest bound; ``too few regions`` where workers stay without one, or the last wave is most of it all."""
    largest = max(bounds, key=lambda name: bounds[name])
    if largest != "workers" and bounds[largest] >= 0.9 * scheduled:
        return largest
    return "too few regions" if crowded or scheduled > 2 * bounds[largest] else largest


def _scheduled(
    calibration: Calibration, work: Work, slots: int, chance: np.random.Generator
) -> NDArray[np.float64]:
    """Seconds until the last region is done, of several drawn runs."""
    mean, count = calibration.region_seconds(work), work.regions
    simulated = slots < count <= MOST_SIMULATED
    fewest, most = DRAWS
    draws = min(most, max(fewest, EVENTS // min(count, MOST_SIMULATED)))
    if simulated:
        drawn = mean * _draw(calibration, (draws, count), chance)
        return np.array([makespan(own.tolist(), slots, calibration.serial) for own in drawn])
    if slots >= count:
        turns = calibration.serial * np.arange(count)
        return np.array([(turns + mean * _draw(calibration, count, chance)).max() for _ in range(draws)])
    tails = [_tail(calibration, slots, chance) for _ in range(draws)]
    return np.maximum(count * mean / slots + mean * np.array(tails), count * calibration.serial + mean)


def makespan(seconds: list[float], slots: int, interval: float) -> float:
    """When the last region is done: one is handed over every `interval`, to the worker that is free first."""
    free = [0.0] * min(slots, len(seconds))
    for number, own in enumerate(seconds):
        heapq.heapreplace(free, max(free[0], number * interval) + own)
    return max(free)


def _draw(
    calibration: Calibration, shape: int | tuple[int, int], chance: np.random.Generator
) -> NDArray[np.float64]:
    """Seconds of regions over their mean."""
    quantiles = np.array(calibration.spread)
    mean = np.mean((quantiles[1:] + quantiles[:-1]) / 2)
    return np.interp(chance.random(shape), np.linspace(0, 1, len(quantiles)), quantiles / mean)


def _tail(calibration: Calibration, slots: int, chance: np.random.Generator) -> float:
    """Mean regions that the last wave takes longer than the mean worker does.

    What is left of a region at a moment that no region knows of: one drawn by its length, and a uniform part of it.
    """
    lengths = _draw(calibration, 2 * MOST_SIMULATED, chance)
    picked = chance.choice(lengths, min(slots, MOST_SIMULATED), p=lengths / lengths.sum())
    left = picked * chance.random(len(picked))
    return float(left.max() - left.mean())


def scheduler_limit(calibration: Calibration, work: Work, threads: int = 1) -> int:
    """Workers beyond which regions are computed faster than scheduler and driver hand them over."""
    return max(1, int(calibration.region_seconds(work) / calibration.serial / threads))


@dataclass(frozen=True)
class Outlook:
    """A run on several numbers of workers."""

    calibration: Calibration
    forecasts: tuple[Forecast, ...]
    scheduler_limit: int
    assumptions: tuple[str, ...]


def look_ahead(calibration: Calibration, work: Work, site: Site) -> Outlook:
    """Forecast for a site, or for sensible numbers of workers where it names none. Raises ConfigError."""
    sizes = [site.workers] if site.workers else sensible_sizes(calibration, work, site.threads)
    return Outlook(
        calibration,
        tuple(forecast(calibration, work, replace(site, workers=workers)) for workers in sizes),
        scheduler_limit(calibration, work, site.threads),
        tuple(assumptions(calibration, site)),
    )


def sensible_sizes(calibration: Calibration, work: Work, threads: int = 1) -> list[int]:
    """Numbers of workers by doubling, until each region has one, the scheduler is the limit, or `MOST_WORKERS`."""
    enough = min(math.ceil(work.regions / threads), 2 * scheduler_limit(calibration, work, threads), MOST_WORKERS)
    return [2**power for power in range(math.ceil(math.log2(max(1, enough))) + 1)]


def assumptions(calibration: Calibration, site: Site) -> list[str]:
    """What a forecast takes for granted, in plain words."""
    sizes = ", ".join(map(str, calibration.sizes))
    bandwidth, cap = calibration.bandwidth, calibration.total_bandwidth
    waits = [f"waits {calibration.latency * 1000:.3g} ms a request"] if calibration.latency else []
    waits += [f"reads {bandwidth / 1e6:.3g} MB/s"] if bandwidth else []
    told = " and ".join(waits) or "waits for no bytes"
    return [
        f"calibrated on {calibration.name}: {sizes} workers, {calibration.repeats} repeats or more",
        "regions are alike: each has the mean's bytes, requests and pixels; their seconds vary as they did there",
        f"a region {told}, however many workers there are",
        f"it computes {calibration.compute * 1000:.3g} ms a Mpx, on cores like those",
        f"scheduler and driver take {calibration.serial * 1000:.3g} ms a region, one region after another",
        f"all workers share {site.cores} cores" if site.cores else "each worker has cores of its own",
        f"the source gives {cap / 1e6:.3g} MB/s in all" if cap else "source and store serve any number alike",
        f"runs differ by {100 * calibration.between:.1f} % as those measured did, and {100 * LEVEL:.0f} % fall in",
        f"beyond {max(calibration.sizes)} workers they differ by {100 * DRIFT:.1f} % more for each doubling",
        "a cost is of the wall alone: the start is not in it",
        *calibration.notes,
    ]
