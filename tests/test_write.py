from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
import xxhash
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import runs
from ndvi_scale import open_store, store_digest, write
from ndvi_scale.composite import is_fill
from ndvi_scale.lattice import Lattice, Region
from ndvi_scale.write import VOLATILE, create_template, read_attributes

if TYPE_CHECKING:
    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store

GDAL = tuple(map(int, rasterio.__gdal_version__.split(".")[:2]))
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
@pytest.mark.skipif(GDAL < (3, 12), reason="needs GDAL 3.12 or newer")
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"zarr_format": 2}, {"dtype": "float32"}, {"chunk": 128, "shard": 256}], ids=str
)
def test_a_region_is_replaced_whole_even_by_fill(
    sandbox: Sandbox, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """And what is all fill is not stored."""
    plan, store = runs.finished_store(sandbox, tmp_path, **settings)
    fill = -32768 if plan.config.dtype == "int16" else np.nan
    region = max(plan.regions(), key=lambda r: int(valid_at(store, plan, r).sum()))
    assert write.object_names(plan, region)[0] in store.data_names()
    empty = np.full(plan.region_geobox(region).shape.yx, fill, plan.config.dtype)
    # Whatever a person has told zarr-python to do.
    with zarr.config.set({"array.write_empty_chunks": True}):
        written = write.write_region(write.open_arrays(store, plan), plan, region, {"ndvi": empty})
    assert not valid_at(store, plan, region).any()
    assert written == {"ndvi": write.checksum(empty)}
    assert write.object_names(plan, region)[0] not in store.data_names()


def valid_at(store: Store, plan: Plan, region: Any) -> np.ndarray:
    return ~is_fill(codes_at(store, plan, region))


def codes_at(store: Store, plan: Plan, region: Any) -> np.ndarray:
    rows, columns = plan.lattice.window(region.iy, region.ix).slices
    return codes_of(store)[region.layer, rows, columns]


def test_checksums_in_the_ledger_are_those_of_the_pixels(made: tuple[Plan, Store]) -> None:
    from ndvi_scale.ledger import finished

    plan, store = made
    for region, record in finished(store, plan).items():
        assert record.checksums["ndvi"] == write.checksum(codes_at(store, plan, region))


@given(
    values=arrays(
        st.sampled_from(["<i2", ">i2", "<f4", "<f8"]),
        array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        elements=st.integers(-100, 100),
    )
)
def test_a_checksum_is_that_of_the_pixels_however_they_lie(values: np.ndarray) -> None:
    little = values.astype(values.dtype.newbyteorder("<"))
    expected = xxhash.xxh3_128_hexdigest(little.tobytes())
    assert write.checksum(values) == write.checksum(np.asfortranarray(values)) == f"xxh3_128:{expected}"


# Shards


@pytest.fixture(scope="module")
def sharded(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    return runs.finished_store(sandbox, tmp_path_factory.mktemp("sharded"), chunk=128, shard=256)


def test_a_shard_is_a_region(sharded: tuple[Plan, Store]) -> None:
    plan, store = sharded
    array = zarr.open_array(store.zarr(read_only=True), path="ndvi", mode="r")
    assert (array.chunks, array.shards) == ((1, 128, 128), (1, 256, 256))
    stored = {name for name in store.data_names() if name.startswith("ndvi/c/")}
    assert stored == {write.object_names(plan, region)[0] for region in plan.regions()}
    assert plan.region_geobox(Region(0, 1, 0)).shape.yx == (plan.shape[1] - 256, 256)  # reaches over the edge


@pytest.mark.parametrize(("side", "chunk", "shard"), [(100, 100, 100), (200, 128, 256), (256, 128, 256)])
def test_an_array_smaller_than_its_shards(
    sandbox: Sandbox, tmp_path: Path, side: int, chunk: int, shard: int
) -> None:
    plan = runs.plan_of(sandbox, chunk=128, shard=512)
    plan = replace(plan, lattice=Lattice(plan.lattice.geobox[:side, :side], 512))
    store = open_store(str(tmp_path / "ndvi.zarr"))
    create_template(store, plan)
    array = zarr.open_array(store.zarr(read_only=True), path="ndvi", mode="r")
    assert (array.chunks, array.shards) == ((1, chunk, chunk), (1, shard, shard))
    codes = np.arange(side * side, dtype=np.int16).reshape(side, side)
    write.write_region(write.open_arrays(store, plan), plan, Region(1, 0, 0), {"ndvi": codes})
    np.testing.assert_array_equal(array[1], codes)


def test_the_digest_is_that_of_the_chunks_in_shards_or_not(
    sandbox: Sandbox, tmp_path: Path, sharded: tuple[Plan, Store]
) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path, chunk=128)
    assert plan.lattice.geobox == sharded[0].lattice.geobox
    assert store_digest(store) == store_digest(sharded[1])
    _, other = runs.finished_store(sandbox, tmp_path / "other", chunk=256)
    assert store_digest(other) != store_digest(store)


def test_chunks_of_a_shard_that_are_all_fill_take_no_room(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox, chunk=128, shard=256), open_store(str(tmp_path / "ndvi.zarr"))
    create_template(store, plan)
    codes = np.full((256, 256), -32768, np.int16)
    codes[130:, 130:] = np.random.default_rng(0).integers(-10_000, 10_000, (126, 126))
    arrays, region = write.open_arrays(store, plan), Region(0, 0, 0)
    write.write_region(arrays, plan, region, {"ndvi": codes})
    size = (Path(store.url) / write.object_names(plan, region)[0]).stat().st_size
    assert size < 128 * 128 * 2 + 200  # one chunk and the index
    np.testing.assert_array_equal(codes_at(store, plan, region), codes)


def test_xarray_reads_shards(sharded: tuple[Plan, Store]) -> None:
    with xr.open_zarr(sharded[1].url, mask_and_scale=False) as cube:
        assert cube["ndvi"].encoding["preferred_chunks"] == {"time": 1, "y": 128, "x": 128}
        np.testing.assert_array_equal(cube["ndvi"].values, codes_of(sharded[1]))


@pytest.mark.slow  # as above
def test_gdal_reads_shards_from_the_version_that_the_warning_names(
    sharded: tuple[Plan, Store], caplog: pytest.LogCaptureFixture
) -> None:
    opened = partial(rasterio.open, f'ZARR:"{sharded[1].url}":/ndvi')
    if GDAL < (3, 12):
        pytest.skip("a GDAL that reads no Zarr v3 at all")
    if GDAL < (3, 13):
        with pytest.raises(rasterio.errors.RasterioIOError, match="sharding_indexed"):
            opened()
    else:
        with opened() as source:
            np.testing.assert_array_equal(source.read(), codes_of(sharded[1]))


def test_shards_are_warned_of_once(sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write._warn_of_shards.cache_clear()
    create_template(open_store(str(tmp_path / "plain.zarr")), runs.plan_of(sandbox, chunk=128))
    assert not caplog.records
    for name in ("one", "two"):
        create_template(open_store(str(tmp_path / name)), runs.plan_of(sandbox, chunk=128, shard=256))
    (said,) = (record.getMessage() for record in caplog.records)
    assert all(reader in said for reader in ("zarr-python 3", "xarray", "GDAL 3.13", "rasterio up to 1.5"))


def test_nothing_warns_while_opening(made: tuple[Plan, Store]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.open_zarr(made[1].url).close()
