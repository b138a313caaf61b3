"""The figures of docs/offsets.md, from real pixels.

    uv run python docs/figures/make_offsets.py ../shared/data

Contains modified Copernicus Sentinel data 2018, 2019, 2021, 2022.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import xarray as xr
from matplotlib import colormaps
from matplotlib import pyplot as plt

from ndvi_scale.guard import FEW_DARK, LEAST_LAND, MANY_DARK
from ndvi_scale.kernels import DARK_DN, FILL_CODE, MAX_DN, cpu
from ndvi_scale.sentinel2 import MASKS, scl_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
SEEN = 1150
"""Columns of the tile that the swath covers; the rest is nodata."""
RAW, SHIFTED, ABSENT = "#b2182b", "#2166ac", "#d9d9d9"
Bands = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]


def main() -> None:
    """Draw all three."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})
    data = Path(sys.argv[1])
    tile, fields, meadow = tile_29unu(data), fields_31ues(data), openeo_meadow(data)
    draw_histogram(tile, fields)
    draw_ndvi(tile)
    draw_guard(tile, fields, meadow)


def tile_29unu(data: Path) -> Bands:
    """One whole tile of 2022-10-05, baseline 04.00, 60 m: DN carry the offset."""
    folder = data / "catalog" / "sentinel-2-l2a" / "S2A_29UNU_20221005_0_L2A"
    bands = []
    for name in ("red", "nir", "scl"):
        with rasterio.open(folder / f"{name}.tif") as source:
            bands.append(source.read(1))
    return bands[0], bands[1], bands[2]


def fields_31ues(data: Path) -> Bands:
    """72 dates of a block of fields, 2018 and 2019, before baseline 04.00: DN do not."""
    with np.load(next((data / "rasters" / "worldcereal").glob("*.npz"))) as bands:
        return bands["B04"], bands["B08"], bands["SCL"].repeat(2, axis=1).repeat(2, axis=2)


def openeo_meadow(data: Path) -> Bands:
    """58 dates of a meadow, 2021, before baseline 04.00: DN do not."""
    with xr.open_dataset(data / "reference" / "openeo_meadow" / "s2_meadow.nc") as cube:
        red, nir, scl = (np.nan_to_num(cube[name].values).astype(np.uint16) for name in ("B04", "B08", "SCL"))
        return red, nir, scl


def land(bands: Bands) -> NDArray[np.bool_]:
    """Pixels of SCL 4 and 5 with a valid DN."""
    red, nir, scl = bands
    return np.isin(scl, (4, 5)) & (red > 0) & (nir > 0) & (red <= MAX_DN) & (nir <= MAX_DN)


def draw_histogram(tile: Bands, fields: Bands) -> None:
    """Red DN of clear land: with the offset in them, and without."""
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    bins = np.arange(0, 3001, 25)
    for bands, shift, colour, label in (
        (tile, 0, RAW, "29UNU 2022, baseline 04.00, as stored"),
        (tile, -1000, SHIFTED, "the same with the offset of −1000"),
        (fields, 0, "#4d9221", "31UES 2018/19, before 04.00, as stored"),
    ):
        values = bands[0][land(bands)].astype(np.int32) + shift
        density, _ = np.histogram(values, bins)
        axes.stairs(100 * density / values.size, bins, color=colour, label=label, linewidth=1.4)
    axes.axvline(DARK_DN, color="black", linewidth=0.8, linestyle="--")
    axes.text(DARK_DN - 15, axes.get_ylim()[1] * 0.97, "DN 1000", va="top", ha="right")
    axes.set(xlabel="B04 DN over clear land (SCL 4, 5)", ylabel="% of pixels in 25 DN", xlim=(0, 3000))
    axes.legend(frameon=False)
    save(figure, "offsets-histogram")


def draw_ndvi(tile: Bands) -> None:
    """NDVI of the tile with its offset and without, and both as histograms."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", width_ratios=(1, 1.3, 1.6))
    table = scl_table(MASKS["default"])
    colours = colormaps["RdYlGn"].with_extremes(bad=ABSENT)
    for panel, offset, title in zip(
        axes, (-1000, 0), ("right: offset −1000", "wrong: offset ignored"), strict=False
    ):
        codes, _ = cpu.ndvi_codes(*tile, table, (offset, offset))
        ndvi = np.where(codes == FILL_CODE, np.nan, codes / 10_000)
        shown = panel.imshow(ndvi[::3, :SEEN:3], cmap=colours, vmin=-0.2, vmax=1, interpolation="nearest")
        panel.set(title=title, xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        values = ndvi[land(tile) & np.isfinite(ndvi)]
        colour = SHIFTED if offset else RAW
        label = f"{title.split(':')[0]}, median {np.median(values):.3f}"
        counts, edges = np.histogram(values, np.arange(-0.2, 1.001, 0.02))
        axes[2].stairs(100 * counts / values.size, edges, color=colour, linewidth=1.4, label=label)
    figure.colorbar(shown, ax=axes[1], shrink=0.9, aspect=25, label="NDVI")
    axes[2].set(xlabel="NDVI over SCL 4, 5", ylabel="% of pixels in 0.02", title="29UNU 2022-10-05")
    axes[2].legend(frameon=False, loc="upper left")
    save(figure, "offsets-ndvi")


def dark_shares(bands: Bands, side: int | None, least: int) -> tuple[list[float], list[float]]:
    """Share of dark clear land of each window (or date) with enough of it: as stored, and shifted the other way."""
    there, other = [], []
    red, clear = bands[0].astype(np.int32), land(bands)
    shift = -1000 if side else 1000
    windows = [
        (slice(y, y + side), slice(x, x + side))
        for y in range(0, red.shape[0] - side + 1, side)
        for x in range(0, red.shape[1] - side + 1, side)
    ] if side else [(slice(day, day + 1),) for day in range(red.shape[0])]  # fmt: skip
    for window in windows:
        values = red[window][clear[window]]
        if values.size >= least:
            there.append(float((values < DARK_DN).mean()))
            other.append(float((values + shift < DARK_DN).mean()))
    return there, other


def draw_guard(tile: Bands, fields: Bands, meadow: Bands) -> None:
    """What the guard sees where DN carry the offset, and where they do not."""
    rows = []
    for name, bands, side, least in (
        ("29UNU, 22 windows of ≥ 10,000 pixels", tile, 128, LEAST_LAND),
        ("31UES, 41 dates of ≥ 1,000 pixels", fields, None, 1000),
        ("meadow, 43 dates of ≥ 1,000 pixels", meadow, None, 1000),
    ):
        there, other = dark_shares(bands, side, least)
        carrying, bare = (there, other) if side else (other, there)
        rows.append((name, carrying, bare))
        sys.stderr.write(f"{name}: {len(there)}; carrying {max(carrying):.4f}; bare {sorted(bare)[:3]}\n")
    figure, axes = plt.subplots(figsize=(7, 2.7), layout="constrained")
    spread = np.random.default_rng(0)
    axes.axvspan(0, 100 * FEW_DARK, color="#f4a582", alpha=0.35, linewidth=0)
    axes.axvspan(100 * MANY_DARK, 100, color="#92c5de", alpha=0.35, linewidth=0)
    for at, (_, carrying, bare) in enumerate(rows):
        for values, colour, shift in ((carrying, RAW, 0.14), (bare, SHIFTED, -0.14)):
            y = at + shift + spread.uniform(-0.09, 0.09, len(values))
            axes.plot(100 * np.array(values), y, "o", color=colour, markersize=3.5, alpha=0.7, markeredgewidth=0)
    axes.plot([], [], "o", color=RAW, markersize=4, label="DN carry the offset")
    axes.plot([], [], "o", color=SHIFTED, markersize=4, label="DN do not")
    axes.set(xlabel="% of clear land with red DN below 1000", xlim=(-1, 101), ylim=(2.6, -0.6))
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    save(figure, "offsets-guard")


def save(figure: Any, name: str) -> None:
    """Write a PNG of few colours."""
    path = HERE / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    sys.stderr.write(f"{path.name}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
