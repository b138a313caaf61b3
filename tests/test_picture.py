"""The picture: a PNG of any cube, however many layers it has and however empty they are."""

from __future__ import annotations

import datetime as dt
import struct
from typing import TYPE_CHECKING

import matplotlib.image
import numpy as np
import pytest
import xarray as xr
import zarr
from affine import Affine
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

import runs
from ndvi_scale import picture, write
from ndvi_scale.config import RunConfig
from ndvi_scale.errors import StoreError
from ndvi_scale.lattice import Lattice
from ndvi_scale.periods import one_day
from ndvi_scale.picture import MOST_PANELS, PANEL_PIXELS, save_quicklook
from ndvi_scale.plan import Plan
from ndvi_scale.store import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ndvi_scale.sandbox import Sandbox

FILL = -32768


def cube_of(folder: Path, codes: NDArray[np.int16], name: str = "ndvi.zarr", **settings: object) -> Store:
    """A store that holds these codes, a layer every ten days."""
    layers, height, width = codes.shape
    geobox = GeoBox((height, width), Affine(10, 0, 300_000, 0, -10, 4_900_020), "EPSG:32631")
    days = [dt.date(2021, 1, 1) + dt.timedelta(days=10 * layer) for layer in range(layers)]
    daily = tuple(map(one_day, days))
    plan = Plan(RunConfig(chunk=512, **settings), Lattice(geobox, 512), daily, (), {})  # type: ignore[arg-type]
    store = open_store(str(folder / name))
    write.create_template(store, plan)
    write.open_arrays(store, plan)["ndvi"][...] = codes
    return store


def some_codes(layers: int, height: int = 40, width: int = 60) -> NDArray[np.int16]:
    codes = np.random.default_rng(0).integers(-2000, 9000, (layers, height, width)).astype(np.int16)
    codes[:, :5] = FILL
    return codes


def dimensions(path: Path) -> tuple[int, int]:
    """Width and height by the PNG's own header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[12:16] == b"IHDR"
    assert data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def opened(store: Store) -> xr.DataArray:
    return xr.open_zarr(store.zarr(read_only=True))["ndvi"]


def drawn(store: Store) -> Figure:
    figure = Figure(layout="constrained")
    layers = picture._thinned(opened(store))
    layers = layers.assign_coords(label=layers.time.dt.strftime("%Y-%m-%d"))
    picture._draw(figure, layers, {"title": "NDVI of a test", "attribution": "nobody"})
    return figure


@pytest.mark.parametrize("layers", [1, *(pytest.param(count, marks=pytest.mark.slow) for count in (5, 15))])
def test_a_picture(tmp_path: Path, layers: int) -> None:
    save_quicklook(cube_of(tmp_path, some_codes(layers)), tmp_path / "look.png")
    width, height = dimensions(tmp_path / "look.png")
    assert 300 < width < 4000
    assert 300 < height < 4000
    pixels = matplotlib.image.imread(tmp_path / "look.png")
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 100


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 400, 4), (2, 4, 400), (1, 1300, 700)])
def test_odd_shapes(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    codes = np.full(shape, 5000, np.int16)
    save_quicklook(cube_of(tmp_path, codes), tmp_path / "look.png")
    assert min(dimensions(tmp_path / "look.png")) > 100


@pytest.mark.slow
def test_a_run_of_the_sandbox(tmp_path: Path, sandbox: Sandbox) -> None:
    _, store = runs.finished_store(sandbox, tmp_path)
    save_quicklook(store, tmp_path / "look.png")
    assert min(dimensions(tmp_path / "look.png")) > 300


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_empty_layers(tmp_path: Path, dtype: str) -> None:
    codes = some_codes(3)
    codes[1] = FILL
    values = codes if dtype == "int16" else np.where(codes == FILL, np.nan, codes / 10_000)
    store = cube_of(tmp_path, values, dtype=dtype)
    save_quicklook(store, tmp_path / "look.png")
    dimensions(tmp_path / "look.png")
    titles = [axis.get_title() for axis in drawn(store).axes]
    assert "2021-01-11   0% valid" in titles
    assert "2021-01-01   88% valid" in titles


def test_nothing_but_empty_layers(tmp_path: Path) -> None:
    save_quicklook(cube_of(tmp_path, np.full((2, 30, 40), FILL, np.int16)), tmp_path / "look.png")
    dimensions(tmp_path / "look.png")


def test_panels_show_their_layers(tmp_path: Path) -> None:
    codes = some_codes(3)
    images = [axis.images[0] for axis in drawn(cube_of(tmp_path, codes)).axes if axis.images]
    assert len(images) == 3
    for image, layer in zip(images, codes, strict=True):
        np.testing.assert_allclose(image.get_array().filled(np.nan), np.where(layer == FILL, np.nan, layer / 1e4))


@pytest.mark.parametrize("layers", [11, 12, 13, 15, 100])
def test_of_many_layers_some_from_first_to_last(tmp_path: Path, layers: int) -> None:
    store = cube_of(tmp_path, some_codes(layers, 8, 8))
    times = opened(store).time.values
    picked = picture._thinned(opened(store)).time.values
    assert len(picked) == min(layers, MOST_PANELS)
    assert (picked[0], picked[-1]) == (times[0], times[-1])
    assert (np.diff(picked) > np.timedelta64(0, "ns")).all()
    assert sum(bool(axis.images) for axis in drawn(store).axes) == len(picked)


def test_large_layers_are_thinned(tmp_path: Path) -> None:
    codes = np.zeros((1, 1100, 40), np.int16)
    codes += np.arange(1100, dtype=np.int16)[:, np.newaxis]
    thin = picture._thinned(opened(cube_of(tmp_path, codes)))
    assert thin.sizes["y"] <= PANEL_PIXELS
    np.testing.assert_allclose(thin.values[0, :, 0] * 1e4, np.arange(1, 1100, 3), atol=1e-2)  # middles of threes


def test_the_course_is_of_medians(tmp_path: Path) -> None:
    codes = np.stack([np.full((9, 9), value, np.int16) for value in (1000, 4000, 7000)])
    codes[:, 0] = FILL
    course = next(axis for axis in drawn(cube_of(tmp_path, codes)).axes if "median" in axis.get_ylabel())
    np.testing.assert_allclose(course.lines[0].get_ydata(), [0.1, 0.4, 0.7], rtol=1e-5)


def test_an_existing_picture_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "look.png").write_text("old")
    save_quicklook(cube_of(tmp_path, some_codes(1)), tmp_path / "look.png")
    dimensions(tmp_path / "look.png")


def test_a_name_without_an_ending_is_a_png_too(tmp_path: Path) -> None:
    save_quicklook(cube_of(tmp_path, some_codes(1)), tmp_path / "look")
    dimensions(tmp_path / "look")


@pytest.mark.parametrize("path", ["no/such/folder/look.png", "folder", "file/look.png"])
def test_a_path_that_cannot_be_written(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    store = cube_of(tmp_path, some_codes(1))
    with pytest.raises(StoreError) as caught:
        save_quicklook(store, tmp_path / path)
    assert str(tmp_path / path) in str(caught.value)
    assert "cannot be written" in str(caught.value)


def test_an_output_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing was written there"):
        save_quicklook(open_store(str(tmp_path / "absent.zarr")), tmp_path / "look.png")
    assert not (tmp_path / "look.png").exists()


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("kind", ["empty folder", "another cube", "damaged"])
def test_an_output_that_is_no_cube_of_ours(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "other.zarr"
    folder.mkdir()
    if kind == "another cube":
        xr.Dataset({"t2m": ("x", np.arange(3.0))}).to_zarr(folder, mode="w", zarr_format=2)
    elif kind == "damaged":
        cube_of(tmp_path, some_codes(1), folder.name)
        (folder / "zarr.json").write_text("{")
    assert kind != "another cube" or zarr.open_group(folder, mode="r")
    with pytest.raises(StoreError):
        save_quicklook(open_store(str(folder)), tmp_path / "look.png")


@pytest.mark.slow
@pytest.mark.parametrize("reducer", ["median", "count"])
def test_a_composite_is_drawn_with_its_periods(sandbox: Sandbox, tmp_path: Path, reducer: str) -> None:
    _, store = runs.finished_store(sandbox, tmp_path, period="month", reducer=reducer)
    with xr.open_zarr(store.url) as cube:
        assert picture._labels(cube).tolist() == ["2021-04-01 – 2021-04-30", "2021-05-01 – 2021-05-31"]
    save_quicklook(store, tmp_path / "look.png")
    assert min(matplotlib.image.imread(tmp_path / "look.png").shape[:2]) > 300
