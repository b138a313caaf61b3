"""The picture at the end: an output's layers and their course over time, as a PNG."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ndvi_scale.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ndvi_scale.store import Store

MOST_PANELS: Final = 12
PANEL_PIXELS: Final = 500
COLUMNS: Final = 4
MOST_TICKS: Final = 8
COURSE_INCHES: Final = 2.3
_NOTHING: Final = "#f0eff2"
"""Colour of what has no NDVI."""

_STOPS: Final = (
    # NDVI, colour: water, bare ground, sparse, grass, dense canopy.
    (-0.3, "#3b5b8c"),
    (0.0, "#cfc6b8"),
    (0.15, "#d9c08a"),
    (0.3, "#d5d67a"),
    (0.5, "#86b549"),
    (0.7, "#3d8a3a"),
    (1.0, "#0b4d26"),
)


def save_quicklook(store: Store, path: Path) -> None:
    """Write a PNG of an output: up to 12 layers side by side, and the median NDVI of every shown layer.

    Reads each shown layer once and keeps only every n-th pixel of it. Raises StoreError when the output cannot
    be read or the file not be written.
    """
    import xarray as xr
    from matplotlib.figure import Figure

    try:
        opened = xr.open_zarr(store.zarr(read_only=True), consolidated=False)
        ndvi = opened["ndvi" if "ndvi" in opened else "observations"]
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{store.url} is no cube of ndvi-scale that can be drawn: {error}") from None
    with opened as cube:
        layers = _thinned(_missing_as_nan(ndvi)).assign_coords(label=("time", _labels(opened)[_picked(ndvi)]))
        figure = Figure(figsize=(13, 10), layout="constrained", dpi=110, facecolor="white")
        _draw(figure, layers, cube.attrs)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None


def _missing_as_nan(ndvi: xr.DataArray) -> xr.DataArray:
    """Of a count: where it is 0, there is nothing to show."""
    return ndvi.where(ndvi > 0) if ndvi.name == "observations" else ndvi


def _thinned(ndvi: xr.DataArray) -> xr.DataArray:
    import xarray as xr

    step = max(1, math.ceil(max(ndvi.sizes["y"], ndvi.sizes["x"]) / PANEL_PIXELS))
    every = {"y": slice(step // 2, None, step), "x": slice(step // 2, None, step)}
    return xr.concat([ndvi.isel(time=int(layer)).isel(every).compute() for layer in _picked(ndvi)], "time")


def _picked(ndvi: xr.DataArray) -> NDArray[np.int64]:
    """Layers that are shown."""
    return np.unique(np.linspace(0, ndvi.sizes["time"] - 1, MOST_PANELS).round().astype(int))


def _labels(cube: xr.Dataset) -> NDArray[np.str_]:
    """What each layer is of: a day, or the first and last of a period."""
    days = cube["time_bnds"].values.astype("datetime64[D]")
    last = days[:, 1] - np.timedelta64(1, "D")
    return np.array([f"{a}" if a == b else f"{a} – {b}" for a, b in zip(days[:, 0], last, strict=True)])


def _draw(figure: Figure, layers: xr.DataArray, attrs: dict[str, Any]) -> None:
    count = layers.sizes["time"]
    rows = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows)
    aspect = min(max(layers.sizes["y"] / layers.sizes["x"], 0.4), 2.0)
    panels = 3.3 * rows * aspect + 0.6 * rows
    figure.set_size_inches(3.3 * columns + 1.1, panels + COURSE_INCHES + 0.5)
    top, bottom, foot = figure.subfigures(3, 1, height_ratios=[panels, COURSE_INCHES, 0.3])  # pyright: ignore[reportGeneralTypeIssues]
    axes = list(np.atleast_1d(top.subplots(rows, columns)).ravel())
    for axis in axes:
        axis.set_axis_off()
    look = _look(layers)
    images = [_panel(axis, layers.isel(time=position), look) for position, axis in enumerate(axes[:count])]
    top.colorbar(images[-1], ax=axes, shrink=0.8, label=look.label, extend=look.beyond, pad=0.015)
    crs = attrs.get("proj:code", "")
    title = f"{attrs.get('title', 'NDVI')}  ·  {crs or 'its own CRS'}"
    letters = int(figure.get_size_inches()[0] * 9)  # of 12 points, on an inch
    top.suptitle(textwrap.fill(title, letters), fontsize=12, fontweight="bold")
    _course(bottom.subplots(), layers, look)
    foot.text(0.99, 0.5, attrs.get("attribution", ""), ha="right", va="center", fontsize=7, color="#777777")


class _Look(NamedTuple):
    """How a variable is drawn."""

    image: dict[str, Any]
    """Keywords of `imshow`."""
    label: str
    beyond: str
    """Which end of the colours stands for what lies beyond it."""
    course: str
    """What the course over time is of."""
    highest: float | None
    """End of its axis."""


def _look(layers: xr.DataArray) -> _Look:
    """NDVI always alike, a count from 0 to its largest."""
    if layers.name != "observations":
        return _Look(ndvi_colours(), "NDVI", "min", "NDVI of valid pixels", 1)
    from matplotlib import colormaps

    most = float(np.nanmax(layers.values, initial=1))
    scale = colormaps["viridis"].with_extremes(bad=_NOTHING)
    image = {"cmap": scale, "vmin": 0, "vmax": most, "interpolation": "nearest"}
    return _Look(image, "days with NDVI", "neither", "days with NDVI", None)


def ndvi_colours() -> dict[str, Any]:
    """How NDVI is drawn: keywords of matplotlib's `imshow`; what has none is light grey."""
    from matplotlib.colors import LinearSegmentedColormap

    low, high = _STOPS[0][0], _STOPS[-1][0]
    colours = [((value - low) / (high - low), colour) for value, colour in _STOPS]
    scale = LinearSegmentedColormap.from_list("ndvi", colours).with_extremes(bad=_NOTHING)
    return {"cmap": scale, "vmin": low, "vmax": high, "interpolation": "nearest"}


def _panel(axis: Axes, layer: xr.DataArray, look: _Look) -> Any:
    valid = float(np.isfinite(layer.values).mean())
    axis.set_title(f"{layer.label.item()}   {valid:.0%} valid", fontsize=9)
    return axis.imshow(layer.values, **look.image)


def _evenly_spaced(days: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """At most `MOST_TICKS` days from the first to the last, whose labels do not run into each other."""
    span = int((days[-1] - days[0]).astype(int))
    return days[0] + np.unique(np.linspace(0, span, min(MOST_TICKS, span + 1)).round().astype(int))


def _course(axis: Axes, layers: xr.DataArray, look: _Look) -> None:
    flat = layers.values.reshape(layers.sizes["time"], -1)
    seen = [values[np.isfinite(values)] for values in flat]
    shown = [i for i, values in enumerate(seen) if values.size]
    days = layers.time.values[shown]
    quartiles = np.array([np.percentile(seen[i], [25, 50, 75]) for i in shown]).reshape(-1, 3)
    axis.fill_between(days, quartiles[:, 0], quartiles[:, 2], color="#86b549", alpha=0.3, linewidth=0)
    axis.plot(days, quartiles[:, 1], color="#3d8a3a", marker="o", markersize=4, linewidth=1.4)
    axis.set_ylabel(f"{look.course}\nmedian and quartiles", fontsize=8)
    axis.set_ylim(min(0.0, quartiles.min(initial=0.0)), look.highest)
    axis.set_xticks(_evenly_spaced(layers.time.values.astype("datetime64[D]")))
    axis.tick_params(labelsize=8)
    axis.grid(visible=True, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
