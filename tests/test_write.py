from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
import zarr

import runs
from ndvi_scale import open_store, store_digest, write
from ndvi_scale.write import VOLATILE, create_template, read_attributes

if TYPE_CHECKING:
    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store

PROJ = "f17cb550-5864-4468-aeb7-f3180cfb622f"
SPATIAL = "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"


@pytest.fixture(scope="module")
def made(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    return runs.finished_store(sandbox, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module", params=[2, 3])
def each_format(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, Store]:
    return runs.finished_store(sandbox, tmp_path_factory.mktemp("made"), zarr_format=request.param)


def codes_of(store: Store) -> np.ndarray:
    return np.asarray(zarr.open_array(store.zarr(read_only=True), path="ndvi", mode="r")[:])


def metadata(store: Store, name: str) -> dict[str, Any]:
    return json.loads((Path(store.url) / name / "zarr.json").read_text())


def test_one_object_is_one_chunk_is_one_region(made: tuple[Plan, Store]) -> None:
    plan, store = made
    array = zarr.open_array(store.zarr(read_only=True), path="ndvi", mode="r")
    assert array.metadata.zarr_format == 3
    assert array.chunks == (1, 64, 64)
    assert array.shards is None
    stored = {name for name in store.data_names() if name.startswith("ndvi/c/")}
    assert stored <= {f"ndvi/c/{r.layer}/{r.iy}/{r.ix}" for r in plan.regions()}


def test_fill_value_is_said_twice_and_equal(made: tuple[Plan, Store]) -> None:
    described = metadata(made[1], "ndvi")
    assert described["data_type"] == "int16"
    assert described["fill_value"] == described["attributes"]["_FillValue"] == -32768
    assert described["attributes"]["scale_factor"] == 0.0001
    assert "add_offset" not in described["attributes"]
    assert described["dimension_names"] == ["time", "y", "x"]


def test_xarray_decodes_floats_without_a_warning(each_format: tuple[Plan, Store]) -> None:
    plan, store = each_format
    codes = codes_of(store)
    with xr.open_zarr(store.url) as cube:
        assert list(cube.data_vars) == ["ndvi"]
        assert cube["ndvi"].dims == ("time", "y", "x")
        values = cube["ndvi"].values
        np.testing.assert_array_equal(np.isnan(values), codes == -32768)
        np.testing.assert_allclose(values[codes != -32768], codes[codes != -32768] * 1e-4, rtol=1e-12)
        assert [str(day)[:10] for day in cube["time"].values] == [day.isoformat() for day in plan.days]
        bounds = cube["time_bnds"].values
        np.testing.assert_array_equal(bounds[:, 0], cube["time"].values)
        np.testing.assert_array_equal(bounds[:, 1] - bounds[:, 0], np.timedelta64(1, "D"))
        assert cube["ndvi"].attrs["standard_name"] == "normalized_difference_vegetation_index"
        assert cube["ndvi"].attrs["units"] == "1"


def test_rioxarray_finds_crs_and_grid(each_format: tuple[Plan, Store]) -> None:
    plan, store = each_format
    with xr.open_zarr(store.url) as cube:
        rio = cube["ndvi"].rio
        assert rio.crs.to_epsg() == 32631
        assert tuple(rio.transform())[:6] == pytest.approx(tuple(plan.lattice.geobox.affine)[:6])
        assert rio.bounds() == pytest.approx(tuple(plan.lattice.geobox.boundingbox.bbox))
        assert cube["ndvi"].rio.encoded_nodata == -32768


def test_the_cube_can_be_written_again_by_xarray(made: tuple[Plan, Store], tmp_path: Path) -> None:
    """No attribute that stands in both attrs and encoding (pydata/xarray#9053)."""
    with xr.open_zarr(made[1].url) as cube:
        cube.load().to_zarr(tmp_path / "again.zarr", zarr_format=3, consolidated=False)
        with xr.open_zarr(tmp_path / "again.zarr", consolidated=False) as again:
            xr.testing.assert_equal(again.load(), cube)


def test_conventions_agree_with_coordinates(made: tuple[Plan, Store]) -> None:
    attributes = read_attributes(made[1])
    assert attributes is not None
    names = {entry["uuid"]: entry["name"] for entry in attributes["zarr_conventions"]}
    assert names == {PROJ: "proj", SPATIAL: "spatial"}
    a, b, c, d, e, f = attributes["spatial:transform"]
    height, width = attributes["spatial:shape"]
    with xr.open_zarr(made[1].url) as cube:
        assert cube["x"].values[0] == c + a / 2
        assert cube["y"].values[0] == f + e / 2
        assert (cube.sizes["y"], cube.sizes["x"]) == (height, width)
        assert attributes["spatial:bbox"] == [c, f + e * height, c + a * width, f]
        mapping = cube["spatial_ref"].attrs
        assert rasterio.crs.CRS.from_wkt(mapping["crs_wkt"]).to_epsg() == 32631
        assert mapping["grid_mapping_name"] == "transverse_mercator"
        assert [float(number) for number in mapping["GeoTransform"].split()] == [c, a, b, f, d, e]
    assert attributes["proj:code"] == "EPSG:32631"
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert attributes["spatial:registration"] == "pixel"


@pytest.mark.slow  # so that the quick part, on a Python whose GDAL may be older, does not count on it
@pytest.mark.skipif(
    tuple(map(int, rasterio.__gdal_version__.split(".")[:2])) < (3, 12), reason="needs GDAL 3.12 or newer"
)
def test_gdal_reads_pixels_grid_and_nodata(made: tuple[Plan, Store]) -> None:
    plan, store = made
    with rasterio.open(f'ZARR:"{store.url}":/ndvi') as source:
        assert source.crs.to_epsg() == 32631
        assert tuple(source.transform)[:6] == pytest.approx(tuple(plan.lattice.geobox.affine)[:6])
        assert source.count == len(plan.days)
        assert source.nodata == -32768
        assert source.scales[0] == pytest.approx(0.0001)
        np.testing.assert_array_equal(source.read(), codes_of(store))


def test_float32_on_request(sandbox: Sandbox, tmp_path: Path, made: tuple[Plan, Store]) -> None:
    for zarr_format in (2, 3):
        folder = tmp_path / str(zarr_format)
        _, store = runs.finished_store(sandbox, folder, dtype="float32", zarr_format=zarr_format)
        codes = codes_of(made[1])
        with xr.open_zarr(store.url) as cube:
            values = cube["ndvi"].values
            assert values.dtype == np.float32
            np.testing.assert_array_equal(np.isnan(values), codes == -32768)
            seen = codes != -32768
            np.testing.assert_allclose(values[seen], codes[seen] * 1e-4, atol=5.1e-5)


def test_a_template_reads_as_fill_and_says_incomplete(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    create_template(store, plan)
    assert (read_attributes(store) or {})["status"] == "incomplete"
    with xr.open_zarr(store.url) as cube:
        assert cube.attrs["status"] == "incomplete"
        assert np.isnan(cube["ndvi"].values).all()
    before = sorted((name, (Path(store.url) / name).read_bytes()) for name in store.data_names())
    create_template(store, plan)
    assert sorted((name, (Path(store.url) / name).read_bytes()) for name in store.data_names()) == before


def test_a_half_written_template_is_made_whole(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    create_template(store, plan)
    for name in store.data_names():
        if name.startswith(("ndvi/", "y/")):
            (Path(store.url) / name).unlink()
    report = runs.run(plan, store)
    assert report.done == report.regions
    whole = open_store(str(tmp_path / "whole.zarr"))
    runs.run(plan, whole)
    assert store_digest(store) == store_digest(whole)


def test_the_digest_sees_attributes_but_not_volatile_ones(sandbox: Sandbox, tmp_path: Path) -> None:
    _, store = runs.finished_store(sandbox, tmp_path)
    digest = store_digest(store)
    group = zarr.open_group(store.zarr(), mode="r+", use_consolidated=False)
    for name in VOLATILE:
        group.attrs[name] = {"changed": True}
    assert store_digest(store) == digest
    group["ndvi"].attrs["units"] = "percent"
    assert store_digest(store) != digest


def test_a_region_is_replaced_whole_even_by_fill(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    region = max(plan.regions(), key=lambda r: int((codes_at(store, plan, r) != -32768).sum()))
    empty = np.full(plan.region_geobox(region).shape.yx, -32768, np.int16)
    written = write.write_region(write.open_arrays(store), plan, region, {"ndvi": empty})
    assert (codes_at(store, plan, region) == -32768).all()
    assert written == {"ndvi": write.checksum(empty)}


def codes_at(store: Store, plan: Plan, region: Any) -> np.ndarray:
    rows, columns = plan.lattice.window(region.iy, region.ix).slices
    return codes_of(store)[region.layer, rows, columns]


def test_checksums_in_the_ledger_are_those_of_the_pixels(made: tuple[Plan, Store]) -> None:
    from ndvi_scale.ledger import finished

    plan, store = made
    for region, record in finished(store, plan.id).items():
        assert record.checksums["ndvi"] == write.checksum(codes_at(store, plan, region))


def test_nothing_warns_while_opening(made: tuple[Plan, Store]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.open_zarr(made[1].url).close()
