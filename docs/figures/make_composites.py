"""The table and the picture of docs/composites.md: composites against the known NDVI of a sandbox.

    uv run python docs/figures/make_composites.py

Makes two sandboxes of four months, one with an SCL that errs, and runs every mask and reducer on the four cloudier
of six dates a month: three minutes on two cores.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import xarray as xr
from matplotlib import colormaps
from matplotlib import pyplot as plt
from PIL import Image

from ndvi_scale import build_plan, make_sandbox, open_store, run_batch, search_items, thread_pool
from ndvi_scale.config import make_config
from ndvi_scale.kernels import CODE_SCALE, FILL_CODE
from ndvi_scale.picture import ndvi_colours
from ndvi_scale.reducers import percent_of
from ndvi_scale.sandbox import COVER

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox

HERE = Path(__file__).parent
PAGE = HERE.parent / "composites.md"
SIZE, DATES = 768, 24
LEAST_COVER = 0.05
CLEAR = {turn for turn, cover in enumerate(COVER) if cover < LEAST_COVER}
"""Turns of dates with hardly a cloud: left out, or every month had such a date, and every pixel a perfect value."""
REDUCERS = ("median", "mean", "max", "p25", "p75", "p90")
FILTERED = {"mask_filters": "opening:2,dilation:5"}
MASKS: dict[str, dict[str, Any]] = {
    "`default`": {"mask": "default"},
    "`default`, opening:2, dilation:5": {"mask": "default", **FILTERED},
    "`clear-sky`": {"mask": "clear-sky"},
    "`openeo`": {"mask": "openeo"},
}
NO_MISTAKES = "`default`, SCL without mistakes"
CLOUDY = dt.date(2021, 5, 25)
SHOWN = np.s_[270:590, 170:490]
"""Rows and columns that the picture shows."""
ABSENT = "#c9c9cf"
WIDEST = 0.15
"""Error at which the colours of the picture's error map end."""


def main() -> None:
    """Measure, write the table, draw the picture."""
    with tempfile.TemporaryDirectory() as folder:
        say("making two sandboxes")
        right = Archive(make_sandbox(Path(folder) / "right", size=SIZE, dates=DATES))
        wrong = Archive(make_sandbox(Path(folder) / "wrong", size=SIZE, dates=DATES, missed_clouds=True))
        columns = {NO_MISTAKES: [right.scored(reducer, mask="default") for reducer in REDUCERS]}
        for name, settings in MASKS.items():
            columns[name] = [wrong.scored(reducer, **settings) for reducer in REDUCERS]
        write_table(columns)
        draw(wrong)


@dataclass(frozen=True)
class Score:
    """How a composite compares with that of the cloud-free truth of all dates, in NDVI."""

    filled: float
    """Share of the pixels that have a value."""
    rmse: float
    bias: float
    p95: float
    """95th percentile of the absolute error."""
    above: float
    """Mean difference from the month's true median."""


@dataclass(frozen=True)
class Archive:
    """A sandbox, and what is computed of it."""

    sandbox: Sandbox
    reduced: dict[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    """Reducer → monthly composites of the truth, so that each is computed once."""

    @cached_property
    def items(self) -> list[Any]:
        """Those of its cloudier dates."""
        items = search_items(self.sandbox.catalog)
        days = sorted({item.datetime.date() for item in items})
        return [item for item in items if days.index(item.datetime.date()) % len(COVER) not in CLEAR]

    def plan(self, **settings: Any) -> Plan:
        """Its whole rectangle, no pixel cut off."""
        return build_plan(self.items, make_config({"bbox": self.sandbox.bbox, "clip": False, **settings}))

    def cube(self, **settings: Any) -> xr.Dataset:
        """What a run writes."""
        plan = self.plan(**settings)
        store = open_store(f"memory://{plan.id}")
        with thread_pool(2) as submit:
            run_batch(plan, store, submit, in_flight=2)
        return xr.open_zarr(store.zarr(read_only=True), consolidated=False).load()

    @cached_property
    def truth(self) -> NDArray[np.floating[Any]]:
        """NDVI without clouds, shape (date, y, x)."""
        plan = self.plan()
        return np.stack([self._true_day(day, plan.lattice.geobox) for day in plan.days])

    def _true_day(self, day: dt.date, geobox: GeoBox) -> NDArray[np.floating[Any]]:
        with rasterio.open(self.sandbox.truth / f"ndvi_{day:%Y%m%d}.tif") as source:
            codes = source.read(1, window=source.window(*geobox.boundingbox))
        return np.where(codes == FILL_CODE, np.nan, codes / CODE_SCALE)

    def true_months(self, reducer: str) -> NDArray[np.floating[Any]]:
        """Monthly composites of the truth of all dates by numpy."""
        if reducer not in self.reduced:
            months = np.array([day.year * 12 + day.month for day in self.plan().days])
            stacks = [self.truth[months == month] for month in np.unique(months)]
            self.reduced[reducer] = np.stack([reduce_dates(stack, reducer) for stack in stacks])
        return self.reduced[reducer]

    def scored(self, reducer: str, **settings: Any) -> Score:
        """Monthly composites of a mask and a reducer, all months together."""
        found = self.cube(period="month", reducer=reducer, **settings)["ndvi"].values
        filled = np.isfinite(found)
        error = (found - self.true_months(reducer))[filled]
        score = Score(
            filled=float(filled.mean()),
            rmse=float(np.sqrt(np.mean(error**2))),
            bias=float(np.mean(error)),
            p95=float(np.percentile(np.abs(error), 95)),
            above=float(np.mean((found - self.true_months("median"))[filled])),
        )
        say(f"{reducer} {settings}: {score}")
        return score


def reduce_dates(stack: NDArray[np.floating[Any]], reducer: str) -> NDArray[np.floating[Any]]:
    """A composite by numpy, of the dates that have a value."""
    percent = percent_of(reducer)
    name, more = (reducer, ()) if percent is None else ("percentile", (percent,))
    reduced = getattr(np, name)(stack, *more, axis=0)
    some = np.isnan(stack).any(axis=0)  # few: numpy takes a thousand times longer over them
    reduced[some] = getattr(np, f"nan{name}")(stack[:, some], *more, axis=0)
    return reduced


def write_table(columns: dict[str, list[Score]]) -> None:
    """Put the scores between the page's markers."""
    lines = [f"| reducer | {' | '.join(columns)} | above the true median |", "|---" * (len(columns) + 2) + "|"]
    for reducer, *scores in zip(REDUCERS, *columns.values(), strict=True):
        above = signed(scores[0].above)
        lines.append(f"| `{reducer}` | {' | '.join(map(cell, scores))} | {above} |")
    shares = [f"{100 * column[0].filled:.1f} %" for column in columns.values()]
    body = "\n".join([*lines, f"| pixels filled | {' | '.join(shares)} | |"])
    marked = re.compile(r"(<!-- composites:table -->\n).*(<!-- /composites:table -->)", re.DOTALL)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(marked.sub(lambda found: f"{found[1]}{body}\n{found[2]}", text), encoding="utf-8")


def cell(score: Score) -> str:
    """RMSE, bias, 95th percentile of the absolute error."""
    return f"{score.rmse:.3f} · {signed(score.bias)} · {score.p95:.3f}"


def signed(value: float) -> str:
    """Three digits, with a true minus."""
    return f"{value:+.3f}".replace("-", "−")


def draw(archive: Archive) -> None:
    """One date, the month's median, the truth, and what is between these two."""
    day = archive.cube(mask="default")["ndvi"].sel(time=str(CLOUDY)).values
    months = archive.cube(mask="default", period="month", reducer="median", **FILTERED)["ndvi"]
    month = [time.month for time in months.time.to_index()].index(CLOUDY.month)
    median, truth = months.values[month], archive.true_months("median")[month]
    plt.rcParams.update({"font.size": 9})
    figure, axes = plt.subplots(1, 4, figsize=(13.6, 3.75), layout="constrained")
    panels = {
        f"{CLOUDY:%-d %B}, clouds masked": day,
        f"median of {CLOUDY:%B}, four dates": median,
        "truth: the same without clouds": truth,
        "median − truth": median - truth,
    }
    drawn = []
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        drawn.append(axis.imshow(values[SHOWN], **ndvi_colours()))
        axis.set_title(title)
        axis.set_axis_off()
    drawn[3].set(cmap=colormaps["RdBu"].with_extremes(bad=ABSENT), clim=(-WIDEST, WIDEST))
    figure.colorbar(drawn[2], ax=axes[2], label="NDVI", shrink=0.85, extend="min")
    figure.colorbar(drawn[3], ax=axes[3], label="NDVI", shrink=0.85, extend="both")
    save(figure)


def save(figure: Any) -> None:
    """Write a PNG of 256 colours, which are enough: a quarter of the bytes."""
    path = HERE / "composites.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    say(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def say(text: str) -> None:
    """Progress, where tables do not go."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
