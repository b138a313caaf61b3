"""All readers give the same DN, for any window of any kind of file, from disk and over HTTP."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndvi_scale.granules import Asset, granule_from_item
from ndvi_scale.lattice import Window
from ndvi_scale.readers import READERS, Reader, open_reader
from ndvi_scale.search import search_items
from test_readers import CORNER, Stored, asset_of, cut, pixels, windows, write_cog

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    import services
    from ndvi_scale.sandbox import Sandbox

pytestmark = pytest.mark.slow  # the slower reader, too

SOME = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def readers() -> dict[str, Reader]:
    return {name: open_reader(name) for name in READERS}


def agree(readers: dict[str, Reader], asset: Asset, window: Window) -> NDArray[np.generic]:
    """The DN of a window, once all readers gave the same, in the same type, at the same cost (but for headers).

    `cog` asks for the few bytes between neighbouring blocks too, and for no block that it has.
    """
    found = {name: reader.read("item", asset, window) for name, reader in readers.items()}
    for (one, (a, cost)), (other, (b, price)) in itertools.combinations(found.items(), 2):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), (one, other)
        np.testing.assert_array_equal(a, b, err_msg=f"{one}, {other}, {window}")
        if "cog" not in {one, other}:
            assert cost.bytes == price.bytes
    assert found["cog"][1].bytes <= found["rasterio"][1].bytes + 8 * found["cog"][0].size
    return found["rasterio"][0]


@pytest.mark.slow
@SOME
@given(data=st.data())
def test_on_the_sandbox(sandbox: Sandbox, readers: dict[str, Reader], data: st.DataObject) -> None:
    granule = granule_from_item(data.draw(st.sampled_from(search_items(sandbox.items))))
    band = data.draw(st.sampled_from(["red", "nir", "scl"]))  # 10 m, 10 m, 20 m
    asset = granule.assets[band]
    agree(readers, asset, data.draw(windows(*asset.geobox.shape.yx)))


@pytest.mark.slow
@SOME
@given(data=st.data())
def test_on_real_cogs(real_data: Path, readers: dict[str, Reader], data: st.DataObject) -> None:
    items = search_items(real_data / "catalog" / "catalog.json")
    granule = granule_from_item(data.draw(st.sampled_from([items[0], items[40], items[-1]])))
    asset = granule.assets[data.draw(st.sampled_from(["red", "nir", "scl"]))]
    agree(readers, asset, data.draw(windows(*asset.geobox.shape.yx)))


@pytest.fixture(scope="module")
def irish(real_data: Path) -> dict[str, tuple[Asset, Asset | None]]:
    """Band → ESA's JP2 of 29UNU, and the COG that was made from it if there is one."""
    item = next(item for item in search_items(real_data / "catalog" / "catalog.json") if "29UNU" in item.id)
    granule, folder = granule_from_item(item), real_data / "rasters" / "t29unu_20221005_N0400"
    name = "T29UNU_20221005T115411_{}.jp2"
    found: dict[str, tuple[Asset, Asset | None]] = {}
    for band, file in (("red", "B04_60m"), ("nir", "B8A_60m"), ("scl", "SCL_60m")):
        cog = granule.assets[band]
        found[band] = replace(cog, href=str(folder / name.format(file)), media_type="image/jp2"), cog
    with rasterio.open(folder / name.format("SCL_20m")) as source:
        asset = asset_of(source.name, source.shape, "image/jp2", transform=source.transform, crs=str(source.crs))
    found["scl 20 m"] = asset, None
    return found


@pytest.mark.slow
@SOME
@given(data=st.data())
def test_on_esas_own_files(
    irish: dict[str, tuple[Asset, Asset | None]], readers: dict[str, Reader], data: st.DataObject
) -> None:
    jp2, cog = irish[data.draw(st.sampled_from(sorted(irish)))]
    window = data.draw(windows(*jp2.geobox.shape.yx))
    found = agree(readers, jp2, window)
    if cog is not None:
        np.testing.assert_array_equal(found, readers["rasterio"].read("item", cog, window)[0])


@pytest.mark.slow
@pytest.mark.parametrize("band", ["red", "nir", "scl"])
def test_a_whole_jp2_is_its_cog(
    irish: dict[str, tuple[Asset, Asset | None]], readers: dict[str, Reader], band: str
) -> None:
    jp2, cog = irish[band]
    assert cog is not None
    whole = Window(0, 0, *jp2.geobox.shape.yx)
    found = agree(readers, jp2, whole)
    np.testing.assert_array_equal(found, readers["rasterio"].read("item", cog, whole)[0])
    assert found.any()


@pytest.fixture(scope="module")
def served(
    range_http: services.RangeServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Asset, NDArray[np.uint16]]]:
    """Files over HTTP, and what is in them."""
    folder = range_http.directory / "agree"
    folder.mkdir()
    stored: Stored = write_cog(folder / "a.tif", pixels(700, 900), 128)
    profile = {"driver": "JP2OpenJPEG", "height": 700, "width": 900, "count": 1, "dtype": "uint16", "crs": 32631}
    with rasterio.open(folder / "a.jp2", "w", **profile, transform=CORNER, QUALITY="100", REVERSIBLE="YES") as file:
        file.write(stored.dn, 1)
    types = {"a.tif": "image/tiff; application=geotiff", "a.jp2": "image/jp2"}
    return {
        name: (asset_of(f"{range_http.url}/agree/{name}", (700, 900), kind), stored.dn)
        for name, kind in types.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tif", "a.jp2"])
@SOME
@given(window=windows(700, 900))
def test_over_http(
    served: dict[str, tuple[Asset, NDArray[np.uint16]]], readers: dict[str, Reader], name: str, window: Window
) -> None:
    asset, dn = served[name]
    np.testing.assert_array_equal(agree(readers, asset, window), cut(dn, window))


def test_a_tag_of_nodata_changes_no_dn(tmp_path: Path, readers: dict[str, Reader]) -> None:
    """stackstac masks nodata; what stands there must come back as it was, whatever the tag says."""
    for nodata in (None, 0, 7, 65535):
        path = tmp_path / f"{nodata}.tif"
        dn = np.array([[0, 1, 7], [65535, 32768, 9]], np.uint16)
        profile = {"driver": "GTiff", "height": 2, "width": 3, "count": 1, "dtype": "uint16", "nodata": nodata}
        with rasterio.open(path, "w", **profile, crs=32631, transform=CORNER) as file:
            file.write(dn, 1)
        np.testing.assert_array_equal(agree(readers, asset_of(path, (2, 3)), Window(0, 0, 2, 3)), dn)


def test_declared_scales_and_offsets_change_no_dn(tmp_path: Path, readers: dict[str, Reader]) -> None:
    write_cog(tmp_path / "a.tif", pixels(64, 64), 128)
    shutil.copy(tmp_path / "a.tif", tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.scales, file.offsets = (1e-4,), (-0.1,)
    whole = Window(0, 0, 64, 64)
    np.testing.assert_array_equal(
        agree(readers, asset_of(tmp_path / "b.tif", (64, 64)), whole),
        agree(readers, asset_of(tmp_path / "a.tif", (64, 64)), whole),
    )
