"""Whether pixels agree with their offset: the rule, and what it says of real pixels, right and wrong."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

import runs
from ndvi_scale import RunConfig, build_plan, guard, open_store, search_items
from ndvi_scale.batch import read_report
from ndvi_scale.cli import main
from ndvi_scale.errors import OffsetConflictError
from ndvi_scale.granules import Asset, Granule
from ndvi_scale.kernels import cpu
from ndvi_scale.sentinel2 import MASKS, scl_table
from ndvi_scale.write import read_attributes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

UNU = "S2A_29UNU_20221005_0_L2A"
GRID = GeoBox((2, 2), Affine(10, 0, 0, 0, -10, 0), "EPSG:32631")


def granule(offset: int, item_id: str = "a") -> Granule:
    asset = Asset("/red.tif", GRID, "image/tiff", offset, "for a test")
    time = dt.datetime(2023, 6, 5, tzinfo=dt.UTC)
    return Granule(item_id, time, "", "31TCJ", "", (5, 9), "", asset, asset, replace(asset, offset=0))


# The rule


@pytest.mark.parametrize(
    ("offset", "land", "dark", "judgement", "words"),
    [
        (-1000, 10_000, 0, "agrees", "0.0% of 10,000 clear-land pixels"),
        (-1000, 10_000, 500, "agrees", "5.0%"),
        (-1000, 10_000, 501, "undecided", "more than 5% and less than 20%"),
        (-1000, 10_000, 1999, "undecided", "20.0%"),
        (-1000, 10_000, 2000, "conflict", "taken off already"),
        (-1000, 10_000, 10_000, "conflict", "100.0%"),
        (-1000, 9999, 9999, "undecided", "9,999 clear-land pixels (SCL 4, 5), fewer than 10,000"),
        (-1000, 0, 0, "undecided", "0 clear-land pixels"),
        (0, 10_000, 10_000, "agrees", "do not carry the offset"),
        (0, 10_000, 2000, "agrees", "do not carry the offset"),
        (0, 10_000, 1999, "undecided", "bright bare ground"),
        (0, 10_000, 0, "undecided", "still carry the offset"),
        (0, 9999, 9999, "undecided", "too few"),
        (-500, 10_000, 10_000, "undecided", "nothing of -500 DN"),
    ],
)
def test_verdict(offset: int, land: int, dark: int, judgement: str, words: str) -> None:
    verdict = guard.judge(granule(offset), land, dark)
    assert verdict.judgement == judgement
    assert words in verdict.evidence
    assert (verdict.item_id, verdict.offset, verdict.baseline) == ("a", offset, "05.09")
    assert (verdict.land, verdict.dark) == (land, dark)


@given(land=st.integers(0, 40_000), share=st.floats(0, 1), offset=st.integers(-2000, 0))
def test_only_an_offset_that_makes_much_land_negative_is_a_conflict(land: int, share: float, offset: int) -> None:
    dark = int(land * share)
    judgement = guard.judge(granule(offset), land, dark).judgement
    assert (judgement == "conflict") == (offset == -1000 and land >= 10_000 and dark / land >= 0.2)
    if offset not in (0, -1000) or land < 10_000:
        assert judgement == "undecided"


@given(parts=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9000), st.integers(0, 9000)), max_size=9))
def test_regions_sum_in_any_order(parts: list[tuple[str, int, int]]) -> None:
    granules = [granule(-1000, item_id) for item_id in "abcd"]
    there, back = guard.LandTally(granules), guard.LandTally(granules)
    for tally, ordered in ((there, parts), (back, parts[::-1])):
        for item_id, land, dark in ordered:
            tally.add({item_id: {"land": land + dark, "land_dark": dark, "valid": 7}})
    assert there.verdicts() == back.verdicts()
    seen = sorted({item_id for item_id, _, _ in parts})
    assert [verdict.item_id for verdict in there.verdicts()] == seen, "in the order of the plan, seen ones only"
    for verdict in there.verdicts():
        assert verdict.land == sum(land + dark for item_id, land, dark in parts if item_id == verdict.item_id)
        assert verdict.dark == sum(dark for item_id, _, dark in parts if item_id == verdict.item_id)
    assert there.verdicts(seen[1:]) == there.verdicts()[1:]
    assert there.verdicts(["d"]) == (), "no region saw it"


def test_summary_counts_and_names_conflicts() -> None:
    tally = guard.LandTally([granule(-1000, item_id) for item_id in "abc"])
    tally.add({"a": {"land": 20_000, "land_dark": 10}, "b": {"land": 20_000, "land_dark": 9000}})
    tally.add({"c": {"land": 5, "land_dark": 5}})
    said = guard.summary(tally.verdicts())
    assert (said["agrees"], said["undecided"]) == (1, 1)
    assert said["conflict"] == {"b": tally.verdicts()[1].evidence}
    assert "45.0% of 20,000" in tally.verdicts()[1].evidence


# Real pixels: what docs/offsets.md tabulates


def land_of(red: NDArray[Any], nir: NDArray[Any], scl: NDArray[Any], shift: int = 0) -> tuple[int, int]:
    """Clear land and dark clear land as the kernel counts them, after a shift of every DN but nodata."""
    bands = [np.where(band == 0, 0, band.astype(np.int32) + shift) for band in (red, nir)]
    assert all(int(band.max()) < 65_535 for band in bands)
    bands = [np.clip(band, 0, 65_535).astype(np.uint16).reshape(-1, band.shape[-1]) for band in bands]
    classes = scl.astype(np.uint8).reshape(-1, scl.shape[-1])
    _, counts = cpu.ndvi_codes(*bands, classes, scl_table(MASKS["default"]))
    return counts["land"], counts["land_dark"]


def tile_29unu(folder: Path) -> list[NDArray[Any]]:
    bands = []
    for band in ("red", "nir", "scl"):
        with rasterio.open(folder / "catalog" / "sentinel-2-l2a" / UNU / f"{band}.tif") as source:
            bands.append(source.read(1))
    return bands


def fields_31ues(folder: Path) -> list[NDArray[Any]]:
    with np.load(folder / "rasters" / "worldcereal" / "wc_31UES_72dates_B04_B08_10m_SCL_20m.npz") as bands:
        return [bands[name] for name in ("B04", "B08", "SCL")]


def meadow(folder: Path) -> list[NDArray[Any]]:
    with xr.open_dataset(folder / "reference" / "openeo_meadow" / "s2_meadow.nc") as bands:
        return [np.nan_to_num(bands[name].values).astype(np.int32) for name in ("B04", "B08", "SCL")]


@pytest.mark.parametrize(
    ("place", "shift", "as_it_is", "shifted"),
    [
        (tile_29unu, -1000, (540_296, 1079), (539_182, 530_745)),
        (fields_31ues, 1000, (133_872, 104_962), (133_872, 0)),
        (meadow, 1000, (87_274, 60_072), (87_274, 0)),
    ],
)
def test_real_places(real_data: Path, place: Any, shift: int, as_it_is: Any, shifted: Any) -> None:
    """29UNU carries the offset, the other two do not; each as it is, and as if it were the other way round."""
    bands = place(real_data)
    carrying, bare = (as_it_is, shifted) if shift < 0 else (shifted, as_it_is)
    assert land_of(*bands) == as_it_is
    assert land_of(*bands, shift=shift) == shifted
    assert guard.judge(granule(-1000), *carrying).judgement == "agrees"
    assert guard.judge(granule(-1000), *bare).judgement == "conflict"
    assert guard.judge(granule(0), *bare).judgement == "agrees"
    assert guard.judge(granule(0), *carrying).judgement == "undecided"


def test_the_least_number_of_pixels_is_enough(real_data: Path) -> None:
    """Windows of the real granule with just enough land: none that is right comes near a conflict."""
    bands = tile_29unu(real_data)
    right, wrong = [], []
    for row, column in np.ndindex(14, 14):
        window = [band[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128] for band in bands]
        counts = land_of(*window)
        if counts[0] >= guard.LEAST_LAND:
            right.append(guard.judge(granule(-1000), *counts))
            wrong.append(guard.judge(granule(-1000), *land_of(*window, shift=-1000)))
    assert len(right) == 22
    assert max(verdict.dark / verdict.land for verdict in right) == pytest.approx(0.035, abs=5e-4)
    assert {verdict.judgement for verdict in right} == {"agrees"}
    assert min(verdict.dark / verdict.land for verdict in wrong) > 0.98
    assert {verdict.judgement for verdict in wrong} == {"conflict"}


def test_seasons_of_a_field(real_data: Path) -> None:
    """Sowing, harvest and winter: on 40 of 41 dates with 1,000 clear pixels the missing offset shows."""
    counts = [land_of(*bands) for bands in zip(*fields_31ues(real_data), strict=True)]
    shares = sorted(dark / land for land, dark in counts if land >= 1000)
    assert len(shares) == 41
    assert shares[0] == pytest.approx(0.030, abs=5e-4)
    assert shares[1] > 0.36
    assert all(guard.judge(granule(0), *count).judgement == "undecided" for count in counts), "4,096 pixels are few"


@pytest.mark.parametrize("name", ["T01UBT_20230122T231849", "T07HFE_20190212T192651"])
def test_cloud_water_and_nodata_decide_nothing(real_data: Path, name: str) -> None:
    bands = []
    for band in ("B04_10m", "B08_10m", "SCL_20m"):
        with rasterio.open(real_data / "rasters" / "stactools_thumbs" / f"{name}_{band}.tif") as source:
            bands.append(source.read(1))
    land, dark = land_of(*bands)
    assert land <= 3
    assert guard.judge(granule(-1000), land, dark).judgement == "undecided"


# Real pixels, whole runs


@pytest.fixture(scope="module")
def shifted_29unu(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real tile whose pixels someone has shifted, and whose item goes on to say that nobody has."""
    folder = tmp_path_factory.mktemp("shifted")
    origin = real_data / "catalog" / "sentinel-2-l2a" / UNU
    for band in ("red", "nir", "scl"):
        with rasterio.open(origin / f"{band}.tif") as source:
            dn, profile = source.read(1), source.profile
        if band != "scl":
            dn = np.where(dn == 0, 0, np.maximum(dn.astype(np.int32) - 1000, 1)).astype(np.uint16)
        with rasterio.open(folder / f"{band}.tif", "w", **profile) as target:
            target.write(dn, 1)
    (folder / "item.json").write_text((origin / f"{UNU}.json").read_text())
    return folder / "item.json"


def flagged(item: Path, out: Path) -> Path:
    """The item, saying that its pixels are shifted."""
    document = json.loads(item.read_text())
    document["properties"]["earthsearch:boa_offset_applied"] = True
    for asset in document["assets"].values():
        asset["href"] = str(item.parent / asset["href"])
    out.write_text(json.dumps(document))
    return out


def run_one(item: Path, out: Path, **options: Any) -> Any:
    plan = build_plan(search_items(str(item)), RunConfig(chunk=512))
    store = open_store(str(out))
    return plan, store, runs.run(plan, store, **options)


def test_right_metadata_agree(real_data: Path, tmp_path: Path) -> None:
    item = real_data / "catalog" / "sentinel-2-l2a" / UNU / f"{UNU}.json"
    plan, store, report = run_one(item, tmp_path / "ndvi.zarr", strict=True)
    (verdict,) = report.verdicts
    assert (verdict.judgement, verdict.offset, verdict.baseline) == ("agrees", -1000, "04.00")
    assert (verdict.land, verdict.dark) == (540_296, 1079)
    assert read_report(plan, store).verdicts == report.verdicts
    attributes = read_attributes(store)
    assert attributes is not None
    assert attributes["ndvi_scale"]["offset_guard"] == {"agrees": 1, "undecided": 0, "conflict": {}}


def test_raw_pixels_that_are_called_shifted_stay_undecided(real_data: Path, tmp_path: Path) -> None:
    item = real_data / "catalog" / "sentinel-2-l2a" / UNU / f"{UNU}.json"
    _, _, report = run_one(flagged(item, tmp_path / "item.json"), tmp_path / "ndvi.zarr", strict=True)
    (verdict,) = report.verdicts
    assert (verdict.judgement, verdict.offset) == ("undecided", 0)
    assert "still carry the offset" in verdict.evidence


def test_shifted_pixels_that_are_called_shifted_agree(shifted_29unu: Path, tmp_path: Path) -> None:
    _, _, report = run_one(flagged(shifted_29unu, tmp_path / "item.json"), tmp_path / "ndvi.zarr", strict=True)
    assert [verdict.judgement for verdict in report.verdicts] == ["agrees"]


def test_conflict_stops_a_strict_run_and_the_rest_goes_on(shifted_29unu: Path, tmp_path: Path) -> None:
    plan = build_plan(search_items(str(shifted_29unu)), RunConfig(chunk=512))
    store = open_store(str(tmp_path / "ndvi.zarr"))
    with pytest.raises(OffsetConflictError) as caught:
        runs.run(plan, store, workers=1, strict=True)
    for part in (UNU, "04.00", "clear-land pixels have red DN below 1000", "--offset 0"):
        assert part in str(caught.value)
    error = caught.value
    assert error.item_id == UNU
    assert error.dark / error.land > 0.9

    begun = read_report(plan, store)
    assert 0 < begun.done < begun.regions, "judged after the first regions"
    assert (begun.verdicts[0].land, begun.verdicts[0].dark) == (error.land, error.dark)
    attributes = read_attributes(store)
    assert attributes is not None
    assert attributes["status"] == "incomplete"

    with pytest.raises(OffsetConflictError):
        runs.run(plan, store, strict=True)
    assert read_report(plan, store).done == begun.done, "a strict run does not take it up"

    report = runs.run(plan, store)
    assert report.computed == report.regions - begun.done
    assert [verdict.judgement for verdict in report.verdicts] == ["conflict"]
    attributes = read_attributes(store)
    assert attributes is not None
    assert attributes["status"] == "complete"
    said = attributes["ndvi_scale"]["offset_guard"]["conflict"]
    assert said == {UNU: report.verdicts[0].evidence}


def test_conflict_on_the_command_line(
    shifted_29unu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["ndvi-scale", *words])
        try:
            main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    job = ("run", "--catalog", str(shifted_29unu), "--chunk", "512", "--out", str(tmp_path / "ndvi.zarr"))
    assert call(*job, "--strict") == 10
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"Error: item {UNU} (baseline 04.00): 9")
    assert call(*job) == 0
    printed = capsys.readouterr().err
    assert f"Warning: item {UNU} (baseline 04.00): 98.4% of 540,296 clear-land pixels" in printed
    assert "contradict for 1" in printed
    assert call("status", str(tmp_path / "ndvi.zarr")) == 0
    assert f"Warning: item {UNU} (" in capsys.readouterr().err
    for command in ("status", "info"):
        assert call(command, str(tmp_path / "ndvi.zarr"), "--json") == 0
        said = json.loads(capsys.readouterr().out)["offset_guard"][UNU]
        assert (said["judgement"], said["offset"]) == ("conflict", -1000)
    facts = json.loads((tmp_path / "ndvi.zarr" / "zarr.json").read_text())["attributes"]
    assert facts["offsets"] == [
        {
            "red": -1000,
            "nir": -1000,
            "evidence": "declared by the asset, baseline 04.00",
            "items": 1,
            "ids": [UNU],
        }
    ]
