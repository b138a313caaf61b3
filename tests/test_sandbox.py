"""The sandbox is what it claims to be: checked by an independent reader over the stored files."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
import rustac
import shapely
from click.testing import CliRunner

from ndvi_scale.cli import cli
from ndvi_scale.errors import ConfigError, StoreError
from ndvi_scale.sandbox import Sandbox, make_sandbox, place_crops, true_codes
from ndvi_scale.sandbox.mistakes import BRIGHT, RIM, mistaken_scl
from ndvi_scale.sandbox.scene import ANCHOR, Sky, Window, land_of, salt_of, view_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ORIGINS = {"31TCJ": (300_000, 4_900_020), "31TCH": (300_000, 4_800_000), "30TYP": (699_960, 4_900_020)}
MASKED = (0, 1, 3, 8, 9, 10)
CLOUD = (8, 9, 10)
FILL = -32768


class Stored(NamedTuple):
    """One granule as the files have it; arrays of DN and of SCL classes."""

    item: dict[str, Any]
    red: NDArray[np.uint16]
    nir: NDArray[np.uint16]
    scl: NDArray[np.uint8]

    @property
    def properties(self) -> dict[str, Any]:
        return self.item["properties"]

    @property
    def tile(self) -> str:
        return self.properties["grid:code"].removeprefix("MGRS-")

    @property
    def day(self) -> str:
        return self.properties["datetime"][:10].replace("-", "")

    @property
    def corner(self) -> tuple[int, int]:
        transform = self.item["assets"]["red"]["proj:transform"]
        return transform[2], transform[5]

    @property
    def data(self) -> NDArray[np.bool_]:
        return self.red != 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return make_sandbox(tmp_path_factory.mktemp("sandbox") / "small", size=256, dates=6)


@pytest.fixture(scope="module")
def stored(made: Sandbox) -> dict[str, Stored]:
    return _stored(made)


def _stored(made: Sandbox) -> dict[str, Stored]:
    features = json.loads(made.items.read_text())["features"]
    return {
        item["id"]: Stored(
            item, *(_read(made.directory / item["assets"][k]["href"]) for k in ("red", "nir", "scl"))
        )
        for item in features
    }


def _read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as raster:
        return raster.read(1)


def _codes(granule: Stored) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """NDVI codes by way of float64, which is exact here, and where the granule shows the ground."""
    properties = granule.properties
    shift = properties["s2:processing_baseline"] >= "04.00" and not properties["earthsearch:boa_offset_applied"]
    red, nir = (band.astype(np.int64) - 1000 * shift for band in (granule.red, granule.nir))
    scl = granule.scl.repeat(2, axis=0).repeat(2, axis=1)
    bounded = (np.minimum(granule.red, granule.nir) > 0) & (np.maximum(granule.red, granule.nir) < 32768)
    valid = bounded & ~np.isin(scl, MASKED)
    total = red + nir
    inside = (total > 0) & (np.abs(nir - red) <= total)
    ratio = np.rint(10_000 * (nir - red) / np.where(inside, total, 1))
    return np.where(inside, ratio, FILL).astype(np.int16), valid


def _chosen(granules: list[Stored]) -> list[Stored]:
    """Without those of which a newer baseline is there, in the order of the mosaic."""
    newest: dict[tuple[str, str], str] = {}
    for granule in granules:
        key = granule.tile, granule.day
        newest[key] = max(newest.get(key, ""), granule.properties["s2:processing_baseline"])
    kept = [g for g in granules if g.properties["s2:processing_baseline"] == newest[g.tile, g.day]]
    return sorted(kept, key=lambda g: (g.properties["datetime"], g.item["id"]))


def _by_tile(stored: dict[str, Stored]) -> dict[tuple[str, str], list[Stored]]:
    groups = defaultdict(list)
    for granule in stored.values():
        groups[granule.tile, granule.day].append(granule)
    return groups


@pytest.mark.slow
@pytest.mark.parametrize(("size", "dates", "seed"), [(256, 6, 0), (64, 3, 1), (300, 4, 7), (640, 1, 2)])
def test_an_exact_reader_finds_the_truth_code_for_code(tmp_path: Path, size: int, dates: int, seed: int) -> None:
    made = make_sandbox(tmp_path / "s", size=size, dates=dates, seed=seed)
    by_day = defaultdict(list)
    for granule in _stored(made).values():
        if granule.tile.startswith("31"):
            by_day[granule.day].append(granule)
    assert len(by_day) == dates
    for day, granules in by_day.items():
        with rasterio.open(made.truth / f"ndvi_{day}.tif") as raster:
            truth, left, top = raster.read(1), raster.transform.c, raster.transform.f
            assert (raster.crs.to_epsg(), raster.nodata, raster.dtypes[0]) == (32631, FILL, "int16")
        valid = _read(made.truth / f"valid_{day}.tif")
        mosaic, seen = np.full(truth.shape, FILL, np.int16), np.zeros(truth.shape, dtype=bool)
        for granule in _chosen(granules):
            row, col = int(top - granule.corner[1]) // 10, int(granule.corner[0] - left) // 10
            here = np.s_[row : row + size, col : col + size]
            codes, good = _codes(granule)
            mosaic[here] = np.where(good & ~seen[here], codes, mosaic[here])
            seen[here] |= good
        np.testing.assert_array_equal(seen, valid == 1)
        np.testing.assert_array_equal(mosaic[seen], truth[seen])
        assert (truth != FILL).mean() > 0.99


def test_crops_lie_on_their_tiles_and_overlap(stored: dict[str, Stored]) -> None:
    corners = {granule.tile: granule.corner for granule in stored.values()}
    assert set(corners) == set(ORIGINS)
    for tile, (left, top) in ORIGINS.items():
        x, y = corners[tile]
        assert (x - left) % 20 == 0
        assert (top - y) % 20 == 0
        assert left <= x <= left + (10980 - 256) * 10
        assert top - (10980 - 256) * 10 <= y <= top
    shared = 256 - (corners["31TCJ"][1] - corners["31TCH"][1]) // 10
    assert 0.55 < shared / 256 < 0.7
    assert corners["31TCJ"][0] == corners["31TCH"][0]


@pytest.mark.parametrize(("size", "shared"), [(1536, 978), (10980, 978), (2000, 978)])
def test_large_crops_overlap_as_the_tiles_do(size: int, shared: int) -> None:
    crops = place_crops(size)
    north, south = crops["31TCJ"].window, crops["31TCH"].window
    assert north.row + north.height - south.row == shared
    if size == 10980:
        assert {name: (crop.left, crop.top) for name, crop in crops.items()} == ORIGINS


def test_the_overlap_shows_the_same_ground(stored: dict[str, Stored]) -> None:
    north, south = (stored[f"S2A_{tile}_20210402_0_L2A"] for tile in ("31TCJ", "31TCH"))
    shared = 256 - (north.corner[1] - south.corner[1]) // 10
    np.testing.assert_array_equal(north.red[-shared:], south.red[:shared])
    np.testing.assert_array_equal(north.nir[-shared:], south.nir[:shared])
    np.testing.assert_array_equal(north.scl[-shared // 2 :], south.scl[: shared // 2])


def test_the_other_zone_shows_the_same_ground(stored: dict[str, Stored]) -> None:
    other, north = stored["S2B_30TYP_20210520_0_L2A"], stored["S2B_31TCJ_20210520_0_L2A"]
    rows, cols = np.divmod(np.arange(256 * 256), 256)
    to = pyproj.Transformer.from_crs(32630, 32631, always_xy=True)
    x, y = to.transform(other.corner[0] + cols * 10 + 5, other.corner[1] - rows * 10 - 5)
    col, row = (x - north.corner[0]) / 10, (north.corner[1] - y) / 10
    inside = (col >= 0) & (col < 256) & (row >= 0) & (row < 256)
    # nodes 640 m apart are joined bilinearly: only a centre within a millimetre of a border may differ
    settled = inside & (np.abs(col % 1 - 0.5) < 0.4999) & (np.abs(row % 1 - 0.5) < 0.4999)
    assert settled.mean() > 0.4
    seen = other.nir.ravel()[settled]
    np.testing.assert_array_equal(seen, north.nir[row[settled].astype(int), col[settled].astype(int)])


def test_all_three_states_of_the_offset(stored: dict[str, Stored]) -> None:
    states = set()
    for granule in stored.values():
        declared = {granule.item["assets"][name]["raster:bands"][0]["offset"] for name in ("red", "nir")}
        properties = granule.properties
        states.add((properties["s2:processing_baseline"], properties["earthsearch:boa_offset_applied"], *declared))
    assert states == {("03.01", False, 0), ("05.00", False, -0.1), ("05.00", True, -0.1)}


def test_dark_water_is_negative_only_where_an_offset_allows_it(made: Sandbox, stored: dict[str, Stored]) -> None:
    pending = [g for g in stored.values() if g.day in {"20210420", "20210601"}]
    assert all(g.properties["s2:processing_baseline"] == "05.00" for g in pending)
    below = sum(int(((g.red > 0) & (g.red < 1000)).sum()) for g in pending)
    assert 0 < below < 2000
    assert (_read(made.truth / "ndvi_20210420.tif") == FILL).any()
    assert not (_read(made.truth / "ndvi_20210402.tif") == FILL).any()


def test_dn_are_in_range_with_a_handful_saturated(stored: dict[str, Stored]) -> None:
    saturated = 0
    for granule in stored.values():
        assert ((granule.red == 0) == (granule.nir == 0)).all()
        assert ((granule.scl == 0).repeat(2, 0).repeat(2, 1) == (granule.red == 0)).all()
        for band in (granule.red, granule.nir):
            assert not ((band > 32767) & (band != 65535)).any()
        saturated += int((granule.red == 65535).sum())
    assert 10 < saturated < 500


def test_the_reprocessed_granule_is_there_twice(stored: dict[str, Stored]) -> None:
    older, newer = stored["S2A_31TCJ_20210505_0_L2A"], stored["S2A_31TCJ_20210505_1_L2A"]
    assert (older.properties["s2:processing_baseline"], newer.properties["s2:processing_baseline"]) == (
        "03.01",
        "05.00",
    )
    assert older.item["geometry"] == newer.item["geometry"]
    takes = [g.properties["s2:datatake_id"].rpartition("_") for g in (older, newer)]
    assert takes[0][0] == takes[1][0]
    clear = (newer.red > 400) & (newer.red < 20000)
    assert np.median(older.red[clear] / newer.red[clear]) == pytest.approx(1.05, abs=0.005)
    wrong, right = _codes(older)[0], _codes(newer)[0]
    assert (wrong != right).mean() > 0.95


def test_the_split_datatake_has_two_complementary_parts(stored: dict[str, Stored]) -> None:
    north, south = stored["S2B_31TCH_20210420_0_L2A"], stored["S2B_31TCH_20210420_1_L2A"]
    assert (north.data | south.data).all()
    assert 0 < (north.data & south.data).mean() < 0.1
    both = north.data & south.data
    np.testing.assert_array_equal(north.nir[both], south.nir[both])
    assert 0.2 < north.data.mean() < 0.8
    for key in ("s2:generation_time", "s2:product_uri"):
        assert north.properties[key] != south.properties[key]
    for key in ("s2:processing_baseline", "s2:datatake_id"):
        assert north.properties[key] == south.properties[key]


def test_every_other_tile_and_day_has_one_item(stored: dict[str, Stored]) -> None:
    several = {key: len(group) for key, group in _by_tile(stored).items() if len(group) > 1}
    assert several == {("31TCJ", "20210505"): 2, ("31TCH", "20210420"): 2}
    assert len(stored) == 6 * 3 + 2


def test_a_swath_ends_within_the_crops(stored: dict[str, Stored]) -> None:
    cut = [g for g in stored.values() if g.day in {"20210402", "20210601"}]
    assert all(0.2 < g.data.mean() < 0.9 for g in cut)
    assert all("_R008_" in g.properties["s2:product_uri"] for g in cut)


def test_footprints_hold_the_data_and_little_more(stored: dict[str, Stored]) -> None:
    for granule in stored.values():
        shape = shapely.geometry.shape(granule.item["geometry"])
        assert shape.is_valid
        assert shape.exterior.is_ccw
        assert granule.item["bbox"] == pytest.approx(shape.bounds)
        to = pyproj.Transformer.from_crs(granule.properties["proj:epsg"], 4326, always_xy=True)
        rows, cols = np.nonzero(granule.data)
        lon, lat = to.transform(granule.corner[0] + cols * 10 + 5, granule.corner[1] - rows * 10 - 5)
        assert shapely.contains_xy(shape, lon, lat).all()
        back = pyproj.Transformer.from_crs(4326, granule.properties["proj:epsg"], always_xy=True)
        area = shapely.transform(shape, back.transform, interleaved=False).area
        assert area < granule.data.sum() * 100 * 1.001 + 2 * 60 * 2800


def test_clouds_cast_shadows_and_are_counted(stored: dict[str, Stored]) -> None:
    covers = []
    for granule in stored.values():
        share = 100 * np.isin(granule.scl, CLOUD).sum() / (granule.scl != 0).sum()
        assert granule.properties["eo:cloud_cover"] == pytest.approx(share, abs=1e-3)
        covers.append(share)
    assert min(covers) == 0
    assert max(covers) > 45
    cloudy = stored["S2A_31TCH_20210505_0_L2A"]
    scl = cloudy.scl.repeat(2, 0).repeat(2, 1)
    assert {3, 4, 6, 8, 9} <= set(np.unique(np.concatenate([g.scl.ravel() for g in stored.values()])))
    usual = np.median(cloudy.nir[scl == 4])
    assert np.median(cloudy.nir[scl == 9]) > 1.5 * usual
    if (scl == 3).any():
        assert np.median(cloudy.nir[scl == 3]) < 0.7 * usual


def test_classes_say_what_the_ground_is(stored: dict[str, Stored]) -> None:
    clear = stored["S2B_31TCJ_20210619_0_L2A"]
    codes = _codes(clear)[0].astype(float)
    scl = clear.scl.repeat(2, 0).repeat(2, 1)
    assert np.median(codes[scl == 4]) > 5000
    assert 500 < np.median(codes[scl == 5]) < 3000
    assert np.median(codes[scl == 6]) < 0


def test_items_are_those_of_earth_search(made: Sandbox, stored: dict[str, Stored]) -> None:
    granule = stored["S2A_31TCJ_20210402_0_L2A"]
    assert granule.properties["platform"] == "sentinel-2a"
    assert granule.properties["s2:product_uri"].startswith("S2A_MSIL2A_20210402T104621_N0301_R008_T31TCJ_20210402T")
    assert granule.properties["s2:datatake_id"].startswith("GS2A_20210402T104621_")
    assert granule.properties["mgrs:grid_square"] == "CJ"
    for name, pixel, dtype in (("red", 10, "uint16"), ("nir", 10, "uint16"), ("scl", 20, "uint8")):
        asset = granule.item["assets"][name]
        path = made.directory / asset["href"]
        assert asset["file:size"] == path.stat().st_size
        with rasterio.open(path) as raster:
            assert list(raster.shape) == asset["proj:shape"]
            assert list(raster.transform[:6]) == asset["proj:transform"]
            assert (raster.res[0], raster.dtypes[0], raster.nodata) == (pixel, dtype, 0)
            structure = raster.tags(ns="IMAGE_STRUCTURE")
        assert structure["LAYOUT"] == "COG"
        assert (structure["COMPRESSION"], structure["PREDICTOR"]) == ("DEFLATE", "2")


def test_catalog_and_collection_link_to_every_item(made: Sandbox, stored: dict[str, Stored]) -> None:
    items = list(pystac.Catalog.from_file(str(made.catalog)).get_items(recursive=True))
    assert {item.id for item in items} == set(stored)
    for item in items:
        assert item.collection_id == "sentinel-2-l2a"
        path = item.assets["red"].get_absolute_href()
        assert path == str(made.directory / "sentinel-2-l2a" / item.id / "red.tif")
    assert len(pystac.ItemCollection.from_file(str(made.items))) == len(stored)
    assert not [path for path in made.directory.rglob("*.json") if str(made.directory) in path.read_text()]


def test_parquet_round_trip(made: Sandbox, stored: dict[str, Stored]) -> None:
    read = {item["id"]: item for item in rustac.read_sync(str(made.geoparquet))["features"]}
    assert set(read) == set(stored)
    for name, granule in stored.items():
        hrefs = {key: asset["href"] for key, asset in granule.item["assets"].items()}
        assert {key: asset["href"] for key, asset in read[name]["assets"].items()} == hrefs
        assert read[name]["geometry"] == granule.item["geometry"]
        for key in ("datetime", "eo:cloud_cover", "s2:processing_baseline", "earthsearch:boa_offset_applied"):
            assert read[name]["properties"][key] == granule.properties[key]


def test_the_region_to_try_lies_in_the_zone_31_crops(made: Sandbox, stored: dict[str, Stored]) -> None:
    to = pyproj.Transformer.from_crs(4326, 32631, always_xy=True)
    left, bottom, right, top = to.transform_bounds(*made.bbox)
    north, south = stored["S2A_31TCJ_20210402_0_L2A"], stored["S2A_31TCH_20210402_0_L2A"]
    assert north.corner[0] < left < right < north.corner[0] + 2560
    assert south.corner[1] - 2560 < bottom < south.corner[1] < top < north.corner[1]
    assert made.datetime == "2021-04-02/2021-06-19"


def test_deflated_bands_are_as_large_as_real_ones(tmp_path: Path) -> None:
    made = make_sandbox(tmp_path / "s", size=512, dates=2)
    sizes = [
        item["assets"][name]["file:size"]
        for item in json.loads(made.items.read_text())["features"]
        if item["id"] in {"S2B_31TCJ_20210420_0_L2A", "S2B_30TYP_20210420_0_L2A"}
        for name in ("red", "nir")
    ]
    assert 11 < np.mean(sizes) * 8 / 512**2 < 13


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pixels(tmp_path: Path) -> None:
    first, second, other = (
        _stored(make_sandbox(tmp_path / name, size=64, dates=3, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert list(first) == list(second) == list(other)
    for name in first:
        for one, two in zip(first[name][1:], second[name][1:], strict=True):
            np.testing.assert_array_equal(one, two)
    assert any((first[name].red != other[name].red).mean() > 0.5 for name in first)


@pytest.mark.parametrize("seed", [0, 5])
def test_the_ground_does_not_depend_on_the_window(seed: int) -> None:
    whole = Window(ANCHOR[0] // 2 * 2 - 120, ANCHOR[1] - 90, 240, 180)
    sky = Sky.over(whole, salt_of(seed, 9), 0.4)
    view = view_of(land_of(whole, seed), sky, 120, negative=True)
    mistaken = mistaken_scl(land_of(whole, seed), sky, view)
    for down, right, height, width in ((0, 0, 2, 2), (34, 52, 100, 30), (238, 0, 2, 180), (10, 178, 200, 2)):
        part = Window(whole.row + down, whole.col + right, height, width)
        again = view_of(land_of(part, seed), sky, 120, negative=True)
        here = np.s_[down : down + height, right : right + width]
        np.testing.assert_array_equal(again.red, view.red[here])
        np.testing.assert_array_equal(again.nir, view.nir[here])
        np.testing.assert_array_equal(again.saturated, view.saturated[here])
        half = np.s_[down // 2 : (down + height) // 2, right // 2 : (right + width) // 2]
        np.testing.assert_array_equal(again.scl, view.scl[half])
        np.testing.assert_array_equal(mistaken_scl(land_of(part, seed), sky, again), mistaken[half])


@pytest.mark.parametrize(
    ("red", "nir", "code"),
    [
        *[
            (400, 3600, 8000),
            (300, 150, -3333),
            (-20, 500, FILL),
            (-5, 3, FILL),
            (0, 0, FILL),
            (0, 7, 10_000),
        ],
        *[(7999, 8001, 1), (19999, 20001, 0), (19997, 20003, 2), (20001, 19999, 0), (20003, 19997, -2)],
    ],
)
def test_true_codes_round_halves_to_even(red: int, nir: int, code: int) -> None:
    assert true_codes(np.array([red], np.int32), np.array([nir], np.int32)).tolist() == [code]


def test_a_sandbox_is_taken_up_again_and_others_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "s"
    said: list[str] = []
    made = make_sandbox(place, size=64, dates=1, on_progress=said.append)
    assert said
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert make_sandbox(place, size=64, dates=1) == made
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    with pytest.raises(StoreError, match=r"'seed': 0.*'seed': 1.*delete it"):
        make_sandbox(place, size=64, dates=1, seed=1)
    assert not (place / ".ndvi-scale-sandbox").exists()


def test_only_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(StoreError, match="empty directory"):
        make_sandbox(tmp_path, size=64, dates=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(StoreError, match="is a file"):
        make_sandbox(tmp_path / "mine.txt", size=64, dates=1)
    unfinished = tmp_path / "u"
    (unfinished / ".ndvi-scale-sandbox").mkdir(parents=True)
    with pytest.raises(StoreError, match="not finished"):
        make_sandbox(unfinished, size=64, dates=1)


@pytest.mark.parametrize("wrong", [{"size": 62}, {"size": 65}, {"size": 10982}, {"dates": 0}, {"dates": 58}])
def test_wrong_parameters_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="got"):
        make_sandbox(tmp_path / "s", **wrong)
    assert not (tmp_path / "s").exists()


# Scene classes that err


@pytest.fixture(scope="module")
def erring(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return make_sandbox(tmp_path_factory.mktemp("sandbox") / "erring", size=256, dates=6, missed_clouds=True)


def test_without_the_option_pixels_and_description_are_as_they_were(tmp_path: Path) -> None:
    """Sandboxes made before there was a choice are taken up: so `FORMAT` 1 must go on meaning these pixels."""
    made = make_sandbox(tmp_path / "s", size=64, dates=3)
    digest = hashlib.sha256()
    for _, granule in sorted(_stored(made).items()):
        for band in granule[1:]:
            digest.update(band.tobytes())
    for path in sorted(made.truth.iterdir()):
        digest.update(_read(path).tobytes())
    assert digest.hexdigest() == "f5c63f8fcfd147e22e45f14524504926280d33115ed1ab6961a9e06fbe079ab1"
    described = json.loads((made.directory / "sandbox.json").read_text())
    assert set(described) == {"format", "seed", "size", "dates", "bbox", "datetime"}


def test_mistakes_are_in_the_scene_classes_alone(made: Sandbox, stored: dict[str, Stored], erring: Sandbox) -> None:
    assert json.loads((erring.directory / "sandbox.json").read_text())["missed_clouds"] is True
    changed = set()
    for name, granule in _stored(erring).items():
        np.testing.assert_array_equal(granule.red, stored[name].red)
        np.testing.assert_array_equal(granule.nir, stored[name].nir)
        np.testing.assert_array_equal(granule.scl == 0, stored[name].scl == 0)
        wrong = granule.scl != stored[name].scl
        changed |= set(zip(stored[name].scl[wrong].tolist(), granule.scl[wrong].tolist(), strict=True))
        assert wrong.mean() < 0.15
    for path in made.truth.glob("ndvi_*.tif"):
        np.testing.assert_array_equal(_read(erring.truth / path.name), _read(path))
    assert {before for before, _ in changed} == {3, 5, 8, 10}
    assert {after for before, after in changed if before == 5} == {8}
    assert {after for before, after in changed if before != 5} <= {4, 5, 6, 8}


def test_what_is_missed_spoils_what_is_let_through(erring: Sandbox) -> None:
    """`valid` goes by the stored classes, and some of what it shows is cloud: darker NDVI than the truth."""
    spoilt = 0
    for granule in _chosen(list(_stored(erring).values())):
        if not granule.tile.startswith("31"):
            continue
        with rasterio.open(erring.truth / f"ndvi_{granule.day}.tif") as raster:
            row, col = raster.index(granule.corner[0] + 5, granule.corner[1] - 5)
            here = np.s_[row : row + 256, col : col + 256]
            truth = raster.read(1)[here]
        codes, good = _codes(granule)
        assert _read(erring.truth / f"valid_{granule.day}.tif")[here][good].all()
        off = good & (codes != truth) & (truth != FILL) & (codes != FILL)
        spoilt += int(off.sum())
        if off.sum() > 500:
            assert np.mean(codes[off].astype(int) - truth[off]) < -500
    assert spoilt > 5000


def test_the_rim_of_a_cloud_is_missed_and_no_more() -> None:
    window = Window(ANCHOR[0] // 2 * 2 - 512, ANCHOR[1] // 2 * 2 - 512, 1024, 1024)
    land, sky = land_of(window, 0), Sky.over(window, salt_of(0, 3), 0.3)
    view = view_of(land, sky, 160, negative=False)
    scl, opacity = mistaken_scl(land, sky, view), sky.seen(window.halved())[1]
    cloud, missed = np.isin(view.scl, (8, 9)), np.isin(view.scl, (8, 9)) & ~np.isin(scl, (8, 9))
    assert opacity[missed].max() < RIM
    assert (opacity[cloud & ~missed] >= RIM).mean() > 0.999  # but for a false cloud on bright ground in a rim
    border = cloud & ~_inner(cloud)
    assert 1.5 < missed.sum() / border.sum() < 4  # cells of 20 m: a rim's width
    assert (view.scl[missed] == 8).all()
    assert 0.05 < (scl[view.scl == 10] != 10).mean() < 0.5
    assert 0.1 < (scl[view.scl == 3] != 3).mean() < 0.5


def test_false_clouds_are_few_lone_and_bright() -> None:
    window = Window(ANCHOR[0] // 2 * 2 - 512, ANCHOR[1] // 2 * 2 - 512, 1024, 1024)
    land, sky = land_of(window, 0), Sky.over(window, salt_of(0, 3), 0)
    view = view_of(land, sky, 120, negative=False)
    false = mistaken_scl(land, sky, view) != view.scl
    assert 20 < false.sum() < 0.002 * false.size
    assert (view.scl[false] == 5).all()
    assert view.red.reshape(512, 2, 512, 2).mean(axis=(1, 3))[false].min() > BRIGHT
    down, right = np.nonzero(false)
    places = set(zip(down.tolist(), right.tolist(), strict=True))
    beside = {(y, x) for y, x in places if (y, x ^ 1) in places}  # the other cell of its pair
    assert 0 < len(beside) < len(places)
    around = [(y, x) for y, x in places - beside if any((y + j, x + k) in places for j, k in ((1, 0), (0, 1)))]
    assert len(around) < 0.1 * len(places)


def _inner(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells whose four neighbours are among them too; beyond the edge is as at it."""
    wide = np.pad(cells, 1, mode="edge")
    return wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


def test_a_sandbox_with_mistakes_is_another(tmp_path: Path) -> None:
    right = make_sandbox(tmp_path / "right", size=64, dates=1)
    wrong = make_sandbox(tmp_path / "wrong", size=64, dates=1, missed_clouds=True)
    assert make_sandbox(tmp_path / "wrong", size=64, dates=1, missed_clouds=True) == wrong
    with pytest.raises(StoreError, match=r"'missed_clouds': True.*'missed_clouds': False.*delete it"):
        make_sandbox(wrong.directory, size=64, dates=1)
    with pytest.raises(StoreError, match=r"'missed_clouds': False.*'missed_clouds': True.*delete it"):
        make_sandbox(right.directory, size=64, dates=1, missed_clouds=True)


def test_the_command_makes_one_with_mistakes(tmp_path: Path) -> None:
    given = ["sandbox", str(tmp_path / "s"), "--size", "64", "--dates", "1", "--seed", "5", "--missed-clouds"]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 0, result.output
    described = json.loads((tmp_path / "s" / "sandbox.json").read_text())
    assert (described["seed"], described["missed_clouds"]) == (5, True)
