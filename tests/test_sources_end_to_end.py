"""The main job from the recorded items of each source: the same ground gives the same NDVI codes from all of them.

The items keep all that their provider says. Their assets are local copies that hold one known patch of ground,
encoded as the provider encodes it, behind servers that ask for what the provider asks for.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr

import access_services
import mirror
import runs
from ndvi_scale import RunConfig, build_plan, ledger, open_store, parse_bbox, search_items, sources
from ndvi_scale.errors import ItemError
from test_cli import call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import services
    from ndvi_scale.store import Store

pytestmark = pytest.mark.slow  # full-size files of every source


@dataclass(frozen=True)
class Case:
    """An item that was recorded, and how its pixels are encoded (sentinel2-ndvi, section 2)."""

    file: str
    item: str
    shift: int
    """DN of its pixels above reflectance times 10,000."""
    offset: int
    """What the pipeline has to add."""
    given: int | None = None
    """The offset that a person has to give, as the item says too little."""


CASES = {
    "Earth Search l2a, 05.09, applied": Case(
        "earth-search-v1/search_belarus35U_202311.json", "S2B_35UPU_20231109_0_L2A", 0, 0
    ),
    "Earth Search l2a, 05.00, applied, declared all the same": Case(
        "earth-search-v1/search_lakeconstance_202003_p1.json", "S2A_32TNT_20200305_1_L2A", 0, 0
    ),
    "Earth Search l2a, 02.14": Case(
        "earth-search-v1/search_lakeconstance_202003_p1.json", "S2A_32TMT_20200305_0_L2A", 0, 0
    ),
    "Earth Search l2a, 18C in the south": Case(
        "earth-search-v1/items_sentinel-2-l2a_18C_antarctic.json", "S2B_18CWA_20250107_1_L2A", 0, 0
    ),
    "Earth Search c1, 05.11": Case(
        "earth-search-v1/items_sentinel-2-c1-l2a.json", "S2B_T33RYP_20250204T093106_L2A", 1000, -1000
    ),
    "Earth Search pre-c1, 04.00": Case(
        "earth-search-v1/items_sentinel-2-pre-c1-l2a.json", "S2B_T21NYC_20221205T140704_L2A", 1000, -1000
    ),
    "Earth Search v0, 05.11, applied": Case(
        "earth-search-v0/search_sentinel-s2-l2a-cogs.json", "S2B_20EPT_20250731_0_L2A", 0, 0
    ),
    "Earth Search v0 of 2020, without baseline": Case(
        "earth-search-v0/odcstac_S2A_28QCH_20200714_0_L2A.json", "S2A_28QCH_20200714_0_L2A", 0, 0, given=0
    ),
    "Planetary Computer, 02.12": Case(
        "planetary-computer/item_S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452.json",
        "S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452",
        0,
        0,
    ),
    "Planetary Computer, 05.10, nothing declared": Case(
        "planetary-computer/stacgeoparquet_sentinel-2-l2a-pc.json",
        "S2B_MSIL2A_20240419T095549_R122_T47XML_20240419T123458",
        1000,
        -1000,
    ),
    "Planetary Computer, 05.11, from stac-geoparquet": Case(
        "planetary-computer/rustac_100-sentinel-2-items.parquet",
        "S2B_MSIL2A_20241203T174629_R098_T13TDE_20241203T211406",
        1000,
        -1000,
    ),
    "CDSE, 05.09": Case(
        "cdse-v1/search_belarus35U_202311.json",
        "S2B_MSIL2A_20231109T092119_N0509_R093_T35UPU_20231109T104845",
        1000,
        -1000,
    ),
    "CDSE, 05.11": Case(
        "cdse-v1/items_sentinel-2-l2a_29LQG.json",
        "S2B_MSIL2A_20250202T105429_N0511_R108_T29LQG_20250202T125712",
        1000,
        -1000,
    ),
}


@dataclass
class World:
    """Servers that stand for the providers' hosts."""

    plain: services.RangeServer
    blobs: access_services.SasService
    eodata: Callable[[], access_services.KeyedS3]
    folder: Path

    def keep(self, href: str, file: Path) -> str:
        """Put a file where an href names it; the href that is read instead, which differs in the host alone."""
        parts = urlsplit(href)
        if parts.scheme == "s3":
            self.eodata().put(parts.path.lstrip("/"), file)
            return href
        if parts.netloc.endswith(".blob.core.windows.net"):
            return self._place(self.blobs.blobs, parts.path, file)
        assert parts.netloc.endswith(".amazonaws.com")
        return self._place(self.plain, f"/{parts.netloc}{parts.path}", file)

    @staticmethod
    def _place(server: services.RangeServer, path: str, file: Path) -> str:
        place = server.directory / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, place)
        return f"{server.url}{path}"


@pytest.fixture
def world(
    tmp_path: Path,
    range_http: services.RangeServer,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """The rules of `sources`, for hosts on this machine."""

    def eodata() -> access_services.KeyedS3:
        s3: access_services.KeyedS3 = request.getfixturevalue("eodata_s3")
        monkeypatch.setenv("CDSE_ACCESS_KEY_ID", s3.key)
        monkeypatch.setenv("CDSE_SECRET_ACCESS_KEY", s3.secret)
        rules["cdse"] = replace(rules["cdse"], endpoint=s3.url)
        monkeypatch.setattr(sources, "ACCESS", tuple(rules.values()))
        return s3

    range_http.reset()
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    rules = {rule.name: rule for rule in sources.ACCESS}
    with access_services.sas_service(blobs) as service:
        rules["planetary-computer"] = replace(
            rules["planetary-computer"], hosts=(access_services.BLOBS,), token_url=service.token_url
        )
        monkeypatch.setattr(sources, "ACCESS", tuple(rules.values()))
        yield World(range_http, service, eodata, tmp_path)


def codes_of(item: mirror.Json, world: World, case: Case, **settings: Any) -> tuple[np.ndarray, Any]:
    """What search, plan and run make of an item: the codes of the patch, and the plan."""
    path = mirror.save([item], world.folder / "items.json")
    aoi = parse_bbox(mirror.bbox_of(item))
    items = search_items(path, aoi=aoi)
    plan = build_plan(items, RunConfig(aoi=aoi, clip=False, offset=case.given, **settings))
    store = open_store(str(world.folder / "ndvi.zarr"))
    report = runs.run(plan, store)
    assert not report.failed
    assert_unsigned(store, world.folder)
    cube = zarr.open_group(store.zarr(read_only=True), mode="r")["ndvi"][:]  # pyright: ignore[reportIndexIssue]
    return mirror.patch_of(np.asarray(cube), plan.lattice.geobox.affine, item), plan


def assert_unsigned(store: Store, folder: Path) -> None:
    """Nothing that signs, and no secret, in what a run leaves behind."""
    stored = ledger.load_plan(store)
    assert stored is not None
    assert not any("?" in href or "@" in href for href in stored.hrefs())
    written = [file for file in folder.glob("ndvi.zarr*/**/*") if file.is_file()]
    assert len(written) > 5
    for file in written:
        assert not any(secret in file.read_bytes() for secret in (b"sig=", b"canary", b"right-key")), file


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_same_ground_gives_the_same_codes_from_every_source(real_data: Path, world: World, name: str) -> None:
    case = CASES[name]
    recorded = mirror.recorded(real_data / "stac" / case.file, case.item)
    item = mirror.mirror(recorded, case.shift, world.folder, world.keep)
    codes, plan = codes_of(item, world, case)
    np.testing.assert_array_equal(codes, mirror.ground().codes()[np.newaxis])
    assert {asset.offset for band, asset in plan.granules[0].assets.items() if band != "scl"} == {case.offset}


def test_the_ground_would_show_a_wrong_offset() -> None:
    land = mirror.ground()
    right = land.codes()
    for wrong in (1000, -1000):
        shifted = mirror.Ground(land.red + wrong, land.nir + wrong, land.scl)
        assert (shifted.codes() != right)[right != mirror.FILL].mean() > 0.9
    assert 0.6 < (right != mirror.FILL).mean() < 0.9
    assert right[right != mirror.FILL].min() < -5000
    assert right.max() > 8000


@pytest.mark.slow
def test_without_baseline_the_offset_has_to_be_given(real_data: Path, world: World) -> None:
    case = CASES["Earth Search v0 of 2020, without baseline"]
    recorded = mirror.recorded(real_data / "stac" / case.file, case.item)
    with pytest.raises(ItemError, match="gives no processing baseline"):
        codes_of(recorded, world, replace(case, given=None))


def test_missing_keys_stop_a_run_before_anything_is_written(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CDSE_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("CDSE_SECRET_ACCESS_KEY", "canary")
    case = CASES["CDSE, 05.11"]
    item = mirror.recorded(real_data / "stac" / case.file, case.item)
    path = mirror.save([item], tmp_path / "items.json")
    out = tmp_path / "ndvi.zarr"
    code = call("run", "--items", path, f"--bbox={mirror.bbox_of(item)}", "--out", out)
    said = capsys.readouterr().err
    assert code == 2, said
    assert "CDSE_ACCESS_KEY_ID not set" in said.replace("\n", " ")
    assert "canary" not in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["items.json"]
