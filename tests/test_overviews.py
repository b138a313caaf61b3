"""Overviews in place of native pixels: which one, what comes of it, what it costs, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ndvi_scale import RunConfig, build_plan, build_plans, open_reader, parse_bbox, planfile, search_items
from ndvi_scale.config import config_differences
from ndvi_scale.errors import ConfigError, ReadError
from ndvi_scale.estimate import estimate_plan
from ndvi_scale.ledger import load_plan, save_plan
from ndvi_scale.planfile import ITEMS, PLAN, decode_plan, encode_plan
from ndvi_scale.readers import READERS, Traffic
from ndvi_scale.readers.patience import HEADER_BYTES
from ndvi_scale.region import compute_region, merged_bands
from ndvi_scale.store import open_store
from test_law import FILL, batch, boxes, expected, lazy
from test_plan import granule_item
from test_readers import CORNER, pixels, write_cog

if TYPE_CHECKING:
    import pystac

    import services
    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox

ZONE_31 = "EPSG:32631"


def add_overviews(folder: Path, options: dict[str, Any], scl: str = "CUBIC") -> None:
    """Store all COGs of an archive anew, with overviews; those of SCL by default as COGs get them unasked."""
    fixed = {"driver": "COG", "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "OVERVIEWS": "IGNORE_EXISTING"}
    for path in folder.rglob("*.tif"):
        if path.name in {"red.tif", "nir.tif", "scl.tif"}:
            how = {"OVERVIEW_RESAMPLING": scl} if path.name == "scl.tif" else {}
            draft = path.rename(path.with_suffix(".draft"))
            rasterio.shutil.copy(draft, path, **{**fixed, **options, **how})
            draft.unlink()


@pytest.fixture(scope="module")
def archive(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> list[pystac.Item]:
    """The sandbox in blocks of 64, with overviews of 128 and 64 pixels."""
    folder = tmp_path_factory.mktemp("overviews") / "archive"
    shutil.copytree(sandbox.directory, folder)
    add_overviews(folder, {"BLOCKSIZE": 64, "OVERVIEW_RESAMPLING": "AVERAGE"})
    return search_items(folder / sandbox.items.name)


def planned(items: list[pystac.Item], **changes: Any) -> Plan:
    return build_plan(items, RunConfig(**{"crs": ZONE_31, "overviews": True, **changes}))


def says(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    assert all(part in str(error.value) for part in parts), str(error.value)


# Which one


@pytest.mark.parametrize(
    ("resolution", "reduction"), [(20, 2), (40, 4), (60, 2), (80, 4), (100, 2), (120, 4), (140, 2), (160, 4)]
)
def test_the_coarsest_that_the_pixels_are_made_of(
    archive: list[pystac.Item], resolution: float, reduction: int
) -> None:
    plan = planned(archive, tiles=("31TCJ",), resolution=resolution)
    whole = build_plan(archive, RunConfig(crs=ZONE_31, tiles=("31TCJ",), resolution=resolution))
    assert plan.lattice == whole.lattice
    assert (plan.index, plan.days) == (whole.index, whole.days)
    assert plan.spares
    chosen = [*plan.granules, *(spare for spares in plan.spares.values() for spare in spares)]
    for granule in chosen:
        for asset in (granule.red, granule.nir):
            assert asset.overview == reduction
            assert asset.geobox.resolution.x == 10 * reduction
            assert asset.geobox.shape.yx == (256 // reduction, 256 // reduction)
            assert asset.geobox.boundingbox == granule.scl.geobox.boundingbox
        assert granule.scl.overview == 1
        assert granule.scl.geobox.resolution.x == 20
    assert [
        dataclasses.replace(g, red=w.red, nir=w.nir) for g, w in zip(plan.granules, whole.granules, strict=True)
    ] == [*whole.granules]


def test_tiles_out_of_step_take_a_finer_one() -> None:
    """100,020 m are 5001 pixels of 20 m, and 2500.5 of 40 m."""
    one, other = granule_item("a"), granule_item("b", top=5_000_000 - 1_980)
    assert planned([one], resolution=40).granules[0].red.overview == 4
    assert {granule.red.overview for granule in planned([one, other], resolution=40).granules} == {2}


def test_an_image_that_halves_once_only() -> None:
    item = granule_item("a")
    for name, size in (("red", 198), ("nir", 198), ("scl", 99)):
        item.assets[name].extra_fields["proj:shape"] = [size, size]
    assert planned([item], resolution=40).granules[0].red.overview == 2


def test_every_zone_has_its_own(archive: list[pystac.Item]) -> None:
    config = RunConfig(grid="per-zone", overviews=True, resolution=60)
    plans = build_plans(archive, config)
    assert len(plans) == 2
    assert {granule.red.overview for plan in plans.values() for granule in plan.granules} == {2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ("pixels of 10 m", "nothing coarser", "resolution such as 20", "leave overviews out")),
        ({"resolution": 10}, ("pixels of 10 m", "leave overviews out")),
        ({"resolution": 30}, ("resolution 30 m", "20 or 40 m", "multiple of 20", "leave overviews out")),
        ({"resolution": 20, "crs": "EPSG:2154"}, ("EPSG:2154", "EPSG:326", "warped", "leave overviews out")),
    ],
    ids=str,
)
def test_what_overviews_are_not_for(
    archive: list[pystac.Item], changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(archive, **changes)
    says(caught, *words)


def test_a_granule_of_another_zone_would_be_warped(sandbox: Sandbox, archive: list[pystac.Item]) -> None:
    west, south, east, north = sandbox.bbox
    aoi = parse_bbox((west - 0.01, south, east, north))
    with pytest.raises(ConfigError) as caught:
        planned(archive, aoi=aoi, resolution=20)
    says(caught, "_30TYP_", "EPSG:32630", ZONE_31)


def test_jp2_has_no_means() -> None:
    item = granule_item("a")
    item.assets["red"].media_type = item.assets["nir"].media_type = "image/jp2"
    with pytest.raises(ConfigError) as caught:
        planned([item], resolution=20)
    says(caught, "item a", "JP2", "half a pixel", "leave overviews out")


@pytest.mark.slow
def test_the_reduced_image_of_a_jp2_lies_half_a_pixel_off(real_data: Path) -> None:
    """Why they are refused: a pixel of it is the north-western of four, and not their mean."""
    path = real_data / "rasters" / "t29unu_20221005_N0400" / "T29UNU_20221005T115411_B04_60m.jp2"
    with rasterio.open(path) as source:
        dn = source.read(1).astype(np.float64)
    with rasterio.open(path, overview_level=0) as source:
        reduced = source.read(1)
    four = dn.reshape(915, 2, 915, 2)
    data = (four > 0).all(axis=(1, 3))

    def apart(other: np.ndarray) -> float:
        return float(np.sqrt(((reduced - other)[data] ** 2).mean()))

    assert 3 * apart(four[:, 0, :, 0]) < apart(four.mean(axis=(1, 3)))


# What comes of it


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["cog", "rasterio"])
def test_the_law(sandbox: Sandbox, archive: list[pystac.Item], reader: str) -> None:
    @settings(
        max_examples=6,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(data=st.data())
    def law(data: st.DataObject) -> None:
        changes = {
            "aoi": parse_bbox(data.draw(boxes(sandbox.bbox))),
            "chunk": 2 * data.draw(st.integers(8, 100)),
            "resolution": data.draw(st.sampled_from([20, 40, 60, 80, 120])),
            "tiles": data.draw(st.sampled_from([("31TCJ",), ("31TCH", "31TCJ")])),
            "mask": data.draw(st.sampled_from([(0, 1, 3, 8, 9, 10), ()])),
        }
        plan = planned(archive, **changes)
        truth = expected(plan, [item for item in archive if item.id.split("_")[1] in plan.config.tiles])
        with tempfile.TemporaryDirectory() as folder:
            stored = batch(plan, Path(folder) / "ndvi.zarr", data.draw(st.integers(1, 3)), reader)
        np.testing.assert_array_equal(stored, truth)
        np.testing.assert_array_equal(lazy(plan, reader), truth)

    law()


@pytest.mark.parametrize("resolution", [20, 40])
def test_the_law_on_one_window(archive: list[pystac.Item], tmp_path: Path, resolution: int) -> None:
    plan = planned(archive, tiles=("31TCJ",), resolution=resolution, chunk=36)
    truth = expected(plan, [item for item in archive if "31TCJ" in item.id])
    assert (truth != FILL).mean() > 0.2
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr"), truth)
    np.testing.assert_array_equal(lazy(plan), truth)


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["cog", "rasterio"])
@pytest.mark.parametrize("resolution", [120, 360])
def test_a_real_tile_equals_the_oracle(real_data: Path, tmp_path: Path, resolution: int, reader: str) -> None:
    """60 m pixels, an overview of 120 m, made by GDAL's default: cubic. 1830 pixels halve once."""
    items = search_items(real_data / "catalog" / "catalog.json", datetime="2022-10-05")
    plan = build_plan(items, RunConfig(chunk=512, resolution=resolution, overviews=True))
    assert plan.granules[0].red.overview == 2
    truth = expected(plan, items)
    assert (truth != FILL).mean() > 0.05
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr", reader=reader), truth)
    np.testing.assert_array_equal(lazy(plan, reader), truth)


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [20, 40])
def test_all_readers_agree(archive: list[pystac.Item], resolution: int) -> None:
    plan = planned(archive, tiles=("31TCH",), resolution=resolution, chunk=80)
    for region in list(plan.regions())[:2]:
        first, *others = [compute_region(plan, region, open_reader(name)) for name in READERS]
        bands, *same = [merged_bands(plan, region, open_reader(name)) for name in READERS]
        for other, more in zip(others, same, strict=True):
            np.testing.assert_array_equal(first[0]["ndvi"], other[0]["ndvi"])
            assert first[1].counters == other[1].counters
            for name, band in bands.items():
                np.testing.assert_array_equal(band, more[name])


@pytest.mark.parametrize("resolution", [20, 40, 60])
def test_averages_are_the_means_but_for_rounding_and_edges(archive: list[pystac.Item], resolution: int) -> None:
    """Under clouds too: SCL is read whole, so that a pixel is only there if its native ones are all usable."""
    settings = {"tiles": ("31TCJ",), "resolution": resolution, "chunk": 256}
    near, exact = planned(archive, **settings), planned(archive, **settings, overviews=False)
    reader, compared, size = open_reader(), 0, 0  # pixels in both, pixels in overviews alone
    for region in exact.regions():
        codes, means = (compute_region(plan, region, reader)[0]["ndvi"] for plan in (near, exact))
        both = (codes != FILL) & (means != FILL)
        for band in ("red", "nir"):
            one, other = (merged_bands(plan, region, reader)[band].astype(int) for plan in (near, exact))
            assert abs(one - other)[both].max() <= 1  # DN
        assert not ((means != FILL) & (codes == FILL)).any()
        compared, size = compared + both.sum(), size + ((codes != FILL) & (means == FILL)).sum()
    assert compared > 1_000
    assert size <= 0.005 * compared  # with a saturated pixel that SCL does not tell, averaged into the overview


@pytest.mark.parametrize("resolution", [20, 40])
def test_the_law_with_mask_filters(archive: list[pystac.Item], tmp_path: Path, resolution: int) -> None:
    """SCL is finer than the overview or as fine, and its margin counts its own pixels either way."""
    filters = ("opening:1", "dilation:7")
    plan = planned(archive, resolution=resolution, chunk=32, mask_filters=filters)
    truth = expected(plan, archive)
    bare = expected(planned(archive, resolution=resolution, chunk=32), archive)
    assert ((truth == FILL) & (bare != FILL)).any()
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr"), truth)
    np.testing.assert_array_equal(lazy(plan), truth)


# What it costs


SIDE = 1_024


@pytest.fixture(scope="module")
def served(range_http: services.RangeServer) -> pystac.Item:
    """An item of 1024 x 1024 pixels of 10 m in blocks of 128, behind HTTP."""
    folder = range_http.directory / "overviews"
    folder.mkdir()
    item = granule_item("served")
    for number, (name, asset) in enumerate(item.assets.items()):
        size = SIDE // 2 if name == "scl" else SIDE
        dn = np.full((size, size), 4, np.uint8) if name == "scl" else pixels(size, size, number)
        write_cog(folder / f"{name}.tif", dn, 128)
        step, *_ = asset.extra_fields["proj:transform"]
        asset.extra_fields |= {
            "proj:shape": [size, size],
            "proj:transform": [step, 0, CORNER.c, 0, -step, CORNER.f],
        }
        asset.href = f"{range_http.url}/overviews/{name}.tif"
    with rasterio.open(folder / "scl.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as scl:
        scl.transform = Affine(20, 0, CORNER.c, 0, -20, CORNER.f)
    return item


@pytest.mark.parametrize(("resolution", "share"), [(20, 4), (40, 16)])
def test_a_fraction_of_the_bytes(
    served: pystac.Item, range_http: services.RangeServer, resolution: int, share: int
) -> None:
    """Of red and nir, by what the server sent; SCL is read whole either way."""
    sent = {}
    for overviews in (True, False):
        range_http.reset()
        plan = planned([served], resolution=resolution, overviews=overviews)
        estimate, traffic = estimate_plan(plan, open_reader()), read(plan)
        assert estimate.traffic.bytes == pytest.approx(traffic.bytes, rel=0.05)
        range_http.reset()
        read(plan)
        sent[overviews] = [range_http.bytes_sent(f"/overviews/{band}.tif") for band in ("red", "nir")]
        headers = 3 * HEADER_BYTES
        assert traffic.bytes <= range_http.bytes_sent() <= traffic.bytes + headers
    for few, many in zip(sent[True], sent[False], strict=True):
        assert 0.7 / share < (few - HEADER_BYTES) / (many - HEADER_BYTES) < 1.3 / share


def read(plan: Plan) -> Traffic:
    reader = open_reader()
    return sum((compute_region(plan, region, reader)[1].traffic for region in plan.regions()), Traffic())


def test_a_header_is_read_once_an_image(served: pystac.Item, range_http: services.RangeServer) -> None:
    plan, reader = planned([served], resolution=20, chunk=128), open_reader()
    range_http.reset()
    cost = Traffic()
    for region in plan.regions():
        cost += compute_region(plan, region, reader)[1].traffic
    assert len(plan.index) == 16
    assert range_http.count() == cost.requests
    twice = [
        one
        for one in range_http.requests
        if one.path.endswith("red.tif") and one.range == f"bytes=0-{HEADER_BYTES - 1}"
    ]
    assert len(twice) == 1


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [32, 100])
@pytest.mark.parametrize("resolution", [20, 40])
def test_the_estimate_counts_the_overview(archive: list[pystac.Item], chunk: int, resolution: int) -> None:
    plan = planned(archive, tiles=("31TCJ",), resolution=resolution, chunk=chunk)
    estimate, traffic = estimate_plan(plan, open_reader("rasterio")), Traffic()
    reader = open_reader("rasterio")
    for region in plan.regions():
        traffic += compute_region(plan, region, reader)[1].traffic
    assert estimate.traffic.bytes == pytest.approx(traffic.bytes, rel=0.25)
    assert estimate.traffic.requests == pytest.approx(traffic.requests, rel=0.25)


# Files without


@pytest.mark.parametrize("reader", ["cog", "rasterio", "stackstac"])
def test_a_file_without_that_overview(sandbox: Sandbox, reader: str) -> None:
    plan = planned(search_items(sandbox.items), resolution=20, tiles=("31TCJ",))
    with pytest.raises(ReadError) as caught:
        compute_region(plan, next(plan.regions()), open_reader(reader))
    says(caught, "red.tif", plan.granules[0].id, "no overview of 1/2", "it has: none", "leave --overviews out")
    assert caught.value.permanent
    with pytest.raises(ReadError, match="no overview of 1/2"):
        estimate_plan(plan, open_reader(reader))


def test_files_without_are_skipped_with_a_record(sandbox: Sandbox) -> None:
    plan = planned(search_items(sandbox.items), resolution=20, tiles=("31TCJ",), on_error="skip")
    region = next(plan.regions())
    data, record = compute_region(plan, region, open_reader())
    assert (data["ndvi"] == FILL).all()
    assert all("no overview of 1/2" in why for why in record.skipped.values())
    assert record.skipped


def test_the_fourth_where_only_the_half_is(archive: list[pystac.Item], tmp_path: Path) -> None:
    items = [item.full_copy() for item in archive if "31TCJ_20210402" in item.id]
    for name in ("red", "nir", "scl"):
        asset = items[0].assets[name]
        shutil.copy(str(asset.get_absolute_href()), tmp_path / f"{name}.tif")
        asset.href = str(tmp_path / f"{name}.tif")
    add_overviews(tmp_path, {"BLOCKSIZE": 128})
    plan = planned(items, resolution=40)
    for reader in ("cog", "rasterio"):
        with pytest.raises(ReadError) as caught:
            compute_region(plan, next(plan.regions()), open_reader(reader))
        says(caught, "no overview of 1/4", "it has: 2")


# Configuration and plan


def test_a_run_that_does_not_ask_is_the_run_it_was() -> None:
    config = RunConfig(catalog="earth-search", resolution=20)
    assert config.digest() == "c36ce55bf07bcd8c3cd1096738c7d02eccab185428ce6e03c08aedaab7b4f4e9"
    assert "overviews" not in config.as_dict()
    assert RunConfig.from_dict(config.as_dict()) == config
    asked = dataclasses.replace(config, overviews=True)
    assert asked.digest() != config.digest()
    assert RunConfig.from_dict(asked.as_dict()) == asked
    assert config_differences(config, asked) == ("overviews: false there, true asked",)
    assert config_differences(asked, config) == ("overviews: true there, false asked",)


def test_a_plan_keeps_what_is_read(archive: list[pystac.Item], tmp_path: Path) -> None:
    plan, store = planned(archive, resolution=20, chunk=64), open_store(str(tmp_path / "ndvi.zarr"))
    save_plan(store, plan)
    again = load_plan(store)
    assert again is not None
    assert again == plan
    assert again.id == plan.id
    assert again.granules[0].red.overview == 2
    assert plan.id != planned(archive, resolution=20, chunk=64, overviews=False).id


def test_a_plan_from_before_overviews(archive: list[pystac.Item]) -> None:
    plan = planned(archive, overviews=False)
    files = encode_plan(plan)
    rows = pq.read_table(pa.BufferReader(files[ITEMS])).to_pylist()
    for row in rows:
        for band in ("red", "nir", "scl"):
            assert row[band].pop("overview") == 1
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    files[ITEMS] = buffer.getvalue().to_pybytes()
    head = json.loads(files[PLAN])
    head["checksum"] = planfile._checksum(head, files)
    assert decode_plan({**files, PLAN: json.dumps(head).encode()}) == plan
