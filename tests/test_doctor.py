"""What the doctor tells of real items, right and wrong ones, and where it finds them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

import access_services
import stac
import test_access
from ndvi_scale import open_reader
from ndvi_scale.cli import main
from ndvi_scale.doctor import Diagnosis, diagnose, find_item, spread_windows
from ndvi_scale.errors import ConfigError, ItemError, SearchError
from ndvi_scale.hrefs import REFUSED
from ndvi_scale.readers import BlockingReader

if TYPE_CHECKING:
    from pathlib import Path

    import services

UNU, UES = "S2A_29UNU_20221005_0_L2A", "S2_31UES_20180918_0_L2A"


def said(found: Diagnosis) -> dict[str, str]:
    return {evidence.source: evidence.says for evidence in found.evidence}


def item_file(folder: Path, item_id: str) -> Path:
    return folder / "catalog" / "sentinel-2-l2a" / item_id / f"{item_id}.json"


def changed(source: Path, target: Path, **properties: Any) -> Path:
    """A real item elsewhere, with other properties; None takes one away."""
    document = json.loads(source.read_text())
    told = document["properties"] | {name.replace("__", ":"): value for name, value in properties.items()}
    document["properties"] = {name: value for name, value in told.items() if value is not None}
    for asset in document["assets"].values():
        asset["href"] = str(source.parent / asset["href"])
    target.write_text(json.dumps(document))
    return target


def look(item: Path, **options: Any) -> Diagnosis:
    return diagnose(find_item(str(item)), open_reader(), **options)


# Real items


def test_the_real_tile_that_carries_the_offset(real_data: Path) -> None:
    metadata = real_data / "rasters" / "t29unu_20221005_N0400" / "MTD_MSIL2A.xml"
    found = look(item_file(real_data, UNU), metadata=str(metadata))
    assert {band: (d.offset, d.why) for band, d in found.decisions.items()} == dict.fromkeys(
        ("red", "nir"), (-1000, "declared by the asset, baseline 04.00")
    )
    assert said(found) == {
        "s2:processing_baseline": "04.00",
        "earthsearch:boa_offset_applied": "false",
        "collection": "sentinel-2-l2a",
        "red file": "asset 'red': COG, a copy",
        "red declared": "offset -0.1, scale 0.0001: -1000 DN",
        "nir file": "asset 'nir': COG, a copy",
        "nir declared": "offset -0.1, scale 0.0001: -1000 DN",
        "product metadata": f"{metadata}: baseline 04.00, 1 / 10000",
        "red BOA_ADD_OFFSET": "-1000 DN",
        "nir BOA_ADD_OFFSET": "-1000 DN",
    }
    sample = found.sample
    assert sample is not None
    assert (sample.blocks, sample.of) == (4, 4)
    assert (sample.verdict.judgement, sample.verdict.land, sample.verdict.dark) == ("agrees", 540_296, 1079)
    assert sample.vegetation == 522_171
    assert {name: round(value, 3) for name, value in sample.median_ndvi.items()} == {"-1000": 0.842, "0": 0.571}


def test_percentiles_are_those_of_the_pixels(real_data: Path) -> None:
    item = item_file(real_data, UNU)
    bands = {}
    for band in ("red", "nir", "scl"):
        with rasterio.open(item.parent / f"{band}.tif") as source:
            bands[band] = source.read(1)
    valid = np.all([(bands[b] > 0) & (bands[b] <= 32_767) for b in ("red", "nir")], axis=0)
    land = valid & ((bands["scl"] == 4) | (bands["scl"] == 5))
    sample = look(item).sample
    assert sample is not None
    assert sample.pixels == valid.sum()
    for name, where in (("red", valid), ("nir", valid), ("red on land", land), ("nir on land", land)):
        values = bands[name.split(maxsplit=1)[0]][where]
        assert sample.percentiles[name] == np.percentile(values, [1, 5, 25, 50, 75, 95, 99]).round().tolist()


def test_a_field_before_04_00(real_data: Path) -> None:
    found = look(item_file(real_data, UES))
    assert {d.offset for d in found.decisions.values()} == {0}
    assert said(found)["red declared"] == "offset 0, scale 0.0001: 0 DN"
    assert said(found)["product metadata"].startswith("not an asset of the item")
    assert found.sample is not None
    assert found.sample.verdict.judgement == "undecided"
    assert "4,096" in found.sample.verdict.evidence
    assert {name: round(value, 3) for name, value in found.sample.median_ndvi.items()} == {
        "0": 0.53,
        "-1000": 0.417,
    }


def test_the_jp2_of_an_item_that_says_applied(real_data: Path, tmp_path: Path) -> None:
    """The flag is wrong for ESA's own file: the decision is -1000, and its pixels agree."""
    item = changed(item_file(real_data, UNU), tmp_path / "item.json", earthsearch__boa_offset_applied=True)
    document = json.loads(item.read_text())
    folder = real_data / "rasters" / "t29unu_20221005_N0400"
    for key, band in (("red", "B04"), ("nir", "B8A"), ("scl", "SCL")):
        href = str(folder / f"T29UNU_20221005T115411_{band}_60m.jp2")
        document["assets"][key] |= {"href": href, "type": "image/jp2"}
    document["assets"]["product_metadata"] = {"href": str(folder / "MTD_MSIL2A.xml"), "type": "application/xml"}
    item.write_text(json.dumps(document))
    found = look(item)
    assert found.decisions["red"].offset == -1000
    assert "speaks of the COG, not of this JP2" in found.decisions["red"].why
    assert said(found)["red file"] == "asset 'red': JP2, ESA's own file"
    assert said(found)["red BOA_ADD_OFFSET"] == "-1000 DN", "read from the item's own asset"
    assert found.sample is not None
    assert found.sample.verdict.judgement == "agrees"


def test_an_unknown_baseline_is_refused_and_looked_at_all_the_same(real_data: Path, tmp_path: Path) -> None:
    item = changed(item_file(real_data, UNU), tmp_path / "item.json", s2__processing_baseline=None)
    found = look(item)
    assert {decision.offset for decision in found.decisions.values()} == {None}
    assert "gives no processing baseline" in found.decisions["red"].why
    assert said(found)["baseline"] == "not told"
    assert found.sample is not None
    assert found.sample.median_ndvi.keys() == {"0", "-1000"}
    overridden = look(item, offset=-1000)
    assert overridden.decisions["red"].why == "given by the user"
    assert said(overridden)["the user"] == "-1000 DN"


def test_pixels_that_cannot_be_read_are_noted(real_data: Path, tmp_path: Path) -> None:
    item = changed(item_file(real_data, UNU), tmp_path / "item.json")
    document = json.loads(item.read_text())
    document["assets"]["nir"]["href"] = str(tmp_path / "gone.tif")
    item.write_text(json.dumps(document))
    found = look(item)
    assert found.sample is None
    assert "gone.tif" in found.unreadable
    assert found.decisions["red"].offset == -1000
    assert said(found)["nir declared"] == "offset -0.1, scale 0.0001: -1000 DN"


@pytest.mark.parametrize(
    ("href", "why"),
    [
        ("s3://eodata/x/MTD_MSIL2A.xml", "neither a file nor http(s)"),
        ("gone.xml", "cannot be read"),
        ("item.json", "is no product metadata"),
    ],
)
def test_metadata_of_the_item_that_cannot_be_read_are_noted(
    real_data: Path, tmp_path: Path, href: str, why: str
) -> None:
    item = changed(item_file(real_data, UNU), tmp_path / "item.json")
    document = json.loads(item.read_text())
    document["assets"]["product-metadata"] = {"href": href}
    item.write_text(json.dumps(document))
    assert why in said(look(item))["product metadata"]


def test_metadata_over_http(real_data: Path, tmp_path: Path, range_http: services.RangeServer) -> None:
    range_http.reset()
    xml = (real_data / "rasters" / "t29unu_20221005_N0400" / "MTD_MSIL2A.xml").read_bytes()
    (range_http.directory / "MTD_MSIL2A.xml").write_bytes(xml)
    item = changed(item_file(real_data, UNU), tmp_path / "item.json")
    document = json.loads(item.read_text())
    document["assets"]["product_metadata"] = {"href": f"{range_http.url}/MTD_MSIL2A.xml?sig=canary"}
    item.write_text(json.dumps(document))
    told = said(look(item))
    assert told["red BOA_ADD_OFFSET"] == "-1000 DN"
    assert "canary" not in json.dumps(told)
    document["assets"]["product_metadata"] = {"href": f"{range_http.url}/gone.xml?sig=canary"}
    item.write_text(json.dumps(document))
    told = said(look(item))
    assert "HTTP 404" in told["product metadata"]
    assert "canary" not in json.dumps(told)


def test_metadata_behind_a_signature(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xml = (real_data / "rasters" / "t29unu_20221005_N0400" / "MTD_MSIL2A.xml").read_bytes()
    (tmp_path / "blobs" / "sentinel2-l2").mkdir(parents=True)
    (tmp_path / "blobs" / "sentinel2-l2" / "MTD_MSIL2A.xml").write_bytes(xml)
    item = changed(item_file(real_data, UNU), tmp_path / "item.json")
    with access_services.sas_service(tmp_path / "blobs") as service:
        place = {"hosts": (access_services.BLOBS,), "token_url": service.token_url}
        test_access.rules(monkeypatch, planetary_computer=place)
        document = json.loads(item.read_text())
        document["assets"]["product_metadata"] = {"href": f"{service.blobs.url}/sentinel2-l2/MTD_MSIL2A.xml"}
        item.write_text(json.dumps(document))
        told = said(look(item))
    assert told["red BOA_ADD_OFFSET"] == "-1000 DN"
    assert "canary" not in json.dumps(told)
    assert not service.refused


def test_metadata_that_may_not_be_followed(real_data: Path, tmp_path: Path) -> None:
    item = changed(item_file(real_data, UNU), tmp_path / "item.json")
    document = json.loads(item.read_text())
    document["assets"]["product_metadata"] = {"href": "", REFUSED: "a remote catalog may not point to local files"}
    item.write_text(json.dumps(document))
    assert said(look(item))["product metadata"] == "not read: a remote catalog may not point to local files"


@pytest.mark.parametrize("text", [None, "<html/>"])
def test_metadata_given_by_hand_must_be_some(real_data: Path, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "MTD.xml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError if text is None else ItemError, match=r"MTD_MSIL2A\.xml"):
        look(item_file(real_data, UES), metadata=str(path))


def test_absurdly_large_metadata_are_not_read(real_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "MTD.xml"
    with path.open("wb") as file:
        file.truncate(10_000_001)
    with pytest.raises(ConfigError, match="10,000,001 bytes"):
        look(item_file(real_data, UES), metadata=str(path))


def test_absurdly_large_metadata_are_not_read_over_http(
    real_data: Path, tmp_path: Path, range_http: services.RangeServer
) -> None:
    range_http.reset()
    with (range_http.directory / "large.xml").open("wb") as file:
        file.truncate(10_000_001)
    item = changed(item_file(real_data, UNU), tmp_path / "item.json")
    document = json.loads(item.read_text())
    document["assets"]["product_metadata"] = {"href": f"{range_http.url}/large.xml"}
    item.write_text(json.dumps(document))
    assert "too large (more than 10,000,000 bytes)" in said(look(item))["product metadata"]


# Recorded items, whose pixels are far away


def test_recorded_items_show_their_sources(real_data: Path) -> None:
    class Away(BlockingReader):
        name = "away"

        def read(self, item_id: str, *_: Any) -> Any:
            raise ItemError("the pixels are far away", item_id=item_id)

        layout = read

    def of(name: str, item_id: str) -> dict[str, str]:
        item = find_item(str(real_data / "stac" / name), item_id=item_id)
        for key in ("product_metadata", "product-metadata"):
            item.assets.pop(key, None)  # far away too
        found = diagnose(item, Away())
        assert found.sample is None
        return said(found)

    earth_search = of("earth-search-v1/search_belarus35U_202311.json", "S2B_35UPU_20231109_0_L2A")
    assert earth_search["earthsearch:boa_offset_applied"] == "true"
    assert earth_search["red file"] == "asset 'red': COG, a copy, at earth-search"
    cdse = of(
        "cdse-v1/search_belarus35U_202311.json", "S2B_MSIL2A_20231109T092119_N0509_R093_T35UPU_20231109T104845"
    )
    assert cdse["processing:version"] == "05.09"
    assert cdse["flag"] == "none says that the offset is in the COGs"
    assert cdse["red file"] == "asset 'B04_10m': JP2, ESA's own file, at cdse"
    assert cdse["red declared"] == "offset -0.1, scale 0.0001: -1000 DN"
    name = "S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452"
    planetary = of(f"planetary-computer/item_{name}.json", name)
    assert planetary["red declared"] == "nothing"
    assert planetary["s2:product_uri"].startswith("S2B_MSIL2A_20200705T101559_N0212")


# Finding the item


def test_an_item_by_file_by_id_and_in_a_catalog(real_data: Path) -> None:
    catalog = str(real_data / "catalog" / "catalog.json")
    assert find_item(str(item_file(real_data, UES))).id == UES
    assert find_item(catalog, item_id=UNU).id == UNU
    assert find_item(UNU, catalog=catalog).id == UNU
    assert find_item(UNU, catalog=catalog, collection="sentinel-2-l2a").id == UNU


@pytest.mark.parametrize(
    ("where", "options", "parts", "kind"),
    [
        ("no-such", {}, ("'no-such'", "--catalog"), ConfigError),
        ("{catalog}", {}, ("holds 73 items", "--id"), ConfigError),
        ("{catalog}", {"item_id": "x"}, ("no item 'x'", "check the id"), SearchError),
        ("x", {"catalog": "{catalog}"}, ("no item 'x'",), SearchError),
    ],
)
def test_an_item_that_is_not_there(
    real_data: Path, where: str, options: dict[str, str], parts: tuple[str, ...], kind: type[Exception]
) -> None:
    catalog = str(real_data / "catalog" / "catalog.json")
    with pytest.raises(kind) as caught:
        find_item(
            where.format(catalog=catalog), **{key: value.format(catalog=catalog) for key, value in options.items()}
        )
    stac.says(caught, *parts)


def test_an_item_of_an_api_by_its_id() -> None:
    with stac.scripted_api() as api:
        api.other = {f"/collections/{stac.COLLECTION}/items/S2A_31TCJ_20230603_0_L2A": stac.item(3)}
        found = find_item("S2A_31TCJ_20230603_0_L2A", catalog=api.url, collection=stac.COLLECTION)
        assert found.id == "S2A_31TCJ_20230603_0_L2A"
        assert not api.bodies, "nothing is searched"
        with pytest.raises(ConfigError, match="--collection"):
            find_item("S2A_31TCJ_20230603_0_L2A", catalog=api.url)


# The sample


@given(height=st.integers(1, 12_000), width=st.integers(1, 12_000), blocks=st.integers(1, 200))
def test_blocks_lie_inside_and_apart(height: int, width: int, blocks: int) -> None:
    windows, total = spread_windows((height, width), blocks)
    assert 1 <= len(windows) <= min(blocks, total)
    assert total == -(-height // 1024) * -(-width // 1024)
    assert len({(window.row, window.column) for window in windows}) == len(windows)
    for window in windows:
        assert window.row % 1024 == window.column % 1024 == 0
        assert 0 < window.height <= 1024
        assert 0 < window.width <= 1024
        assert window.row + window.height <= height
        assert window.column + window.width <= width
    assert (windows[0].row, windows[0].column) == (0, 0)


# On the command line


def call(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["ndvi-scale", *map(str, words)])
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_command(real_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "doctor", item_file(real_data, UNU)) == 0
    shown = capsys.readouterr().err
    for part in (
        "earthsearch:boa_offset_applied  false",
        "4 of 4 blocks",
        "1344",
        "-1000 DN: declared by the asset",
    ):
        assert part in shown
    assert "agrees: 0.2% of 540,296" in shown
    assert "97% of them vegetation" in " ".join(shown.split())
    assert "0.842 with -1000 DN, 0.571 with 0 DN" in shown
    assert call(monkeypatch, "doctor", item_file(real_data, UNU), "--json", "--blocks", "1") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["decisions"]["red"] == {"offset": -1000, "why": "declared by the asset, baseline 04.00"}
    assert (facts["sample"]["blocks"], facts["sample"]["of"]) == (1, 4)
    assert facts["sample"]["verdict"]["judgement"] in {"agrees", "undecided"}


def test_the_command_where_pixels_are_gone(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = changed(item_file(real_data, UES), tmp_path / "item.json")
    item.write_text(item.read_text().replace("nir.tif", "gone.tif"))
    assert call(monkeypatch, "doctor", item) == 6
    shown = capsys.readouterr().err
    assert "0 DN: baseline 02.07 is before 04.00" in shown
    assert shown.splitlines()[-1].startswith("Error: cannot read")
