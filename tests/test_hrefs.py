"""Where an href may point, and what of it is kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stac
from ndvi_scale.catalog import to_item
from ndvi_scale.errors import ItemError, SearchError
from ndvi_scale.granules import granule_from_item
from ndvi_scale.hrefs import REFUSED, is_remote, refusal, unsigned, unsigned_fields
from ndvi_scale.item_files import load_items, save_items
from ndvi_scale.search import search_items
from ndvi_scale.sources import SOURCES, access_of
from test_granules import feature

if TYPE_CHECKING:
    from pathlib import Path

    import services

REMOTE = "https://stac.example.org/search"
COG = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/31/a.tif"

FROM_ANYWHERE = [
    "/vsicurl/http://example.org/a.tif",
    "/vsis3/bucket/a.tif",
    "/VSIZIP/a.zip/a.tif",
    "//vsimem/a.tif",
    "file:///vsizip//data/a.zip/a.tif",
    "file:///%76sizip//data/a.zip",
    "GTIFF_DIR:1:/data/a.tif",
    "GTIFF_RAW:/data/a.tif",
    "J2K_SUBFILE:1,2,/data/a.jp2",
    "NETCDF:/data/a.nc:ndvi",
    "zip+file:///data/a.zip!a.tif",
    "/./vsicurl/http://example.org/a.tif",
    "/data/../vsicurl/http://example.org/a.tif",
    "//vsicurl/http://example.org/a.tif",
    "///data/.././vsis3/bucket/a.tif",
    "\\data\\..\\vsizip\\a.zip",
    "file:///data/../vsicurl/http://example.org/a.tif",
    "ftp://example.org/a.tif",
    "vrt:///data/a.tif",
    "<VRTDataset rasterXSize='1'/>",
    "https://example.org/a.tif\r\nHost: other",
    "/data/a\x00.tif",
]

FROM_REMOTE = [
    "/etc/passwd",
    "../../etc/passwd",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://localhost/etc/passwd",
    "http://localhost/a.tif",
    "http://LOCALHOST./a.tif",
    "http://tiles.localhost:8000/a.tif",
    "http://ip6-localhost/a.tif",
    "http://127.0.0.1/a.tif",
    "http://127.255.1.2:8080/a.tif",
    "http://127.1/a.tif",
    "http://2130706433/a.tif",
    "http://0x7f000001/a.tif",
    "http://0x7f.1/a.tif",
    "http://0177.0.0.1/a.tif",
    "http://017700000001/a.tif",
    "http://0/a.tif",
    "http://0.0.0.0/a.tif",
    "http://0.1.2.3/a.tif",
    "http://169.254.169.254/latest/meta-data",
    "http://2852039166/latest/meta-data",
    "http://169.254.1/a.tif",
    "http://[::1]/a.tif",
    "http://[::]/a.tif",
    "http://[fe80::1%25eth0]/a.tif",
    "http://[::ffff:127.0.0.1]/a.tif",
    "http://[::ffff:7f00:1]/a.tif",
    "http://[::127.0.0.1]/a.tif",
    "http://[64:ff9b::7f00:1]/a.tif",
    "http://[2002:7f00:1::]/a.tif",
    "http://[fd00:ec2::254]/latest/meta-data",
    "http://100.100.100.200/latest/meta-data",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://instance-data/latest/meta-data",
    "http://instance-data.ec2.internal/latest/meta-data",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/opc/v2",
    "http://localhost6.localdomain6/a.tif",
    "http://[::ffff:0:127.0.0.1]/a.tif",
    "http://[64:ff9b:1::7f00:1]/a.tif",
    "http://127.0.0.1%00/a.tif",
    "http://example.org%00.127.0.0.1/a.tif",
    "http://127%2e0%2e0%2e1/a.tif",
    "http://\uff11\uff12\uff17.0.0.1/a.tif",
    "http://127。0.0.1/a.tif",
    "http://user@127.0.0.1/a.tif",
    "http://example.org\\@127.0.0.1/a.tif",
    "http://127.0.0.1\\@example.org/a.tif",
    "http:///a.tif",
    "http://[::1/a.tif",
    "s3://user:key@bucket/a.tif",
    "s3://..%2f127.0.0.1/a.tif",
    "s3:///a.tif",
    "az://c@127.0.0.1/a.tif",
    "abfs://c@account.dfs.example.org/a.tif",
]

GOOD = [
    COG,
    "http://example.org:8080/a.tif?x=1",
    "https://93.184.216.34/a.tif",
    "https://[2606:2800:220:1::1]/a.tif",
    "https://10.0.0.5/a.tif",  # an intranet's catalog may be on another machine of it
    "s3://eodata/Sentinel-2/a.jp2",
    "gs://gcp-public-data-sentinel-2/a.jp2",
    "az://sentinel2-l2/a.tif",
    "abfs://sentinel2-l2@sentinel2l2a01.dfs.core.windows.net/a.tif",
]

LOCAL = ["/data/a.tif", "file:///data/a.tif", "/data/run:1/a.tif", "C:\\data\\a.tif", "http://127.0.0.1:8000/a.tif"]


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("href", FROM_ANYWHERE)
def test_what_nobodys_catalog_may_name(href: str, *, remote: bool) -> None:
    assert refusal(href, remote=remote)


@pytest.mark.parametrize("href", FROM_REMOTE)
def test_what_a_remote_catalog_may_not_name(href: str) -> None:
    assert refusal(href, remote=True)


@pytest.mark.parametrize("href", GOOD)
def test_what_any_catalog_may_name(href: str) -> None:
    assert refusal(href, remote=True) == ""
    assert refusal(href, remote=False) == ""


@pytest.mark.parametrize("href", LOCAL)
def test_what_a_local_catalog_may_name(href: str) -> None:
    assert refusal(href, remote=False) == ""
    assert refusal(href, remote=True)


@pytest.mark.parametrize("tail", ["a.tif", "/../../../vsicurl/a.tif", "..\\..\\..\\vsizip\\a.tif"])
def test_what_a_host_is_decides_whatever_file_of_it_is_named(tail: str) -> None:
    """A host is looked at once; that a path of it reads like GDAL's names makes it none of them."""
    assert refusal(f"https://example.org/{tail}", remote=True) == ""
    assert refusal(f"https://127.0.0.1/{tail}", remote=True)
    assert refusal(f"s3://bucket/{tail}", remote=True) == ""
    assert refusal(f"s3://user:key@bucket/{tail}", remote=True)


@given(st.ip_addresses(v=4, network="127.0.0.0/8"), st.data())
def test_loopback_in_any_spelling(address: object, data: st.DataObject) -> None:
    octets = [int(octet) for octet in str(address).split(".")]
    written = [data.draw(st.sampled_from([str, hex, lambda n: f"0{n:o}"]))(octet) for octet in octets]
    number = int.from_bytes(octets)
    for host in (
        ".".join(written),
        str(number),
        hex(number),
        f"[::ffff:{address}]",
        f"[::ffff:{number:x}]"[:0] or "0",
    ):
        assert refusal(f"https://{host}/a.tif", remote=True), host


@pytest.mark.parametrize("source", SOURCES.values())
def test_known_sources_are_remote(source: object) -> None:
    assert is_remote(source.url)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("base", "remote"),
    [
        ("/data/catalog.json", False),
        ("http://127.0.0.1:8000/catalog.json", False),
        ("http://localhost/catalog.json", False),
        ("http://[::1]:80/catalog.json", False),
        ("https://example.org/catalog.json", True),
        ("http://192.168.1.2/catalog.json", True),
    ],
)
def test_whose_word_it_is(base: str, *, remote: bool) -> None:
    assert is_remote(base) is remote


# Items


def foreign(href: str) -> stac.Json:
    document = feature()
    document["assets"]["red"]["href"] = href
    return document | {"geometry": stac.box(1.0, 43.0, 2.0, 44.0), "bbox": [1.0, 43.0, 2.0, 44.0]}


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_refused_href_is_gone_for_good(tmp_path: Path, suffix: str) -> None:
    """Saved beside its target and loaded as a local file, an item of a remote catalog gains nothing."""
    for target in ("/etc/passwd", "http://169.254.169.254/latest", "file:///etc/passwd"):
        found = to_item(foreign(f"{target}"), REMOTE if "://" in target else "file.json", origin=REMOTE)
        assert found.assets["red"].href == ""
        assert target.rpartition("/")[2] in found.assets["red"].extra_fields[REFUSED]
        assert found.assets["nir"].href.startswith("https://example.org")
        save_items([found], tmp_path / f"items.{suffix}")
        (again,) = load_items(tmp_path / f"items.{suffix}")
        for item in (found, again):
            with pytest.raises(
                ItemError, match=r"asset 'red': a remote catalog may not point to .*Leave"
            ) as caught:
                granule_from_item(item)
            assert caught.value.asset == "red"
        assert again.assets["nir"].href == found.assets["nir"].href


def test_an_asset_that_is_not_needed_disturbs_nothing() -> None:
    document = feature()
    document["assets"]["red-jp2"]["href"] = "file:///etc/passwd"
    found = to_item(document, REMOTE)
    assert found.assets["red-jp2"].href == ""
    assert granule_from_item(found).red.href.startswith("https://example.org")


def test_an_href_that_is_no_url_disturbs_nothing_else() -> None:
    for href in ("http://[::1/a.tif", "https://example.org/\x00"):
        found = to_item(foreign(href), REMOTE)
        assert (found.assets["red"].href, found.assets["nir"].href[:5]) == ("", "https")


def test_a_self_link_makes_no_item_local() -> None:
    """A remote API's items say themselves where they come from: that is its word too."""
    for base in ("/etc/x.json", "http://127.0.0.1/x.json"):
        assert to_item(foreign("http://127.0.0.1/a.tif"), base, origin=REMOTE).assets["red"].href == ""
        assert to_item(foreign("http://127.0.0.1/a.tif"), base).assets["red"].href


def test_items_from_elsewhere_than_a_search_are_checked_too() -> None:
    found = to_item(feature(), "/data/items.json")
    found.assets["scl"].href = "/vsicurl/http://example.org/a.tif"
    with pytest.raises(ItemError, match="asset 'scl': an href names one of GDAL's virtual file systems"):
        granule_from_item(found)


def test_a_catalog_on_this_machine_may_point_to_it(range_http: services.RangeServer, tmp_path: Path) -> None:
    folder = range_http.directory / tmp_path.name
    stac.write(folder / "item.json", foreign("./red.tif"))
    (found,) = search_items(f"{range_http.url}/{tmp_path.name}/item.json")
    assert found.assets["red"].href == f"{range_http.url}/{tmp_path.name}/red.tif"


def test_a_remote_catalog_is_not_followed_onto_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from ndvi_scale import catalog

    links = [{"rel": "item", "href": "http://169.254.169.254/latest"}]
    root = {"type": "Catalog", "id": "a", "stac_version": "1.0.0", "links": links}
    read: list[str] = []
    monkeypatch.setattr(catalog, "read_json", lambda href, **_: read.append(href))
    with pytest.raises(SearchError, match=r"catalog.json: links to http://169.254.169.254/latest, and a remote"):
        list(catalog.linked_items(root, "https://example.org/catalog.json", None))  # type: ignore[arg-type]
    assert read == []


def test_recorded_items_lose_nothing(real_data: Path) -> None:
    """What the providers really say is all allowed, and unsigned already."""
    seen = 0
    for file in sorted((real_data / "stac").glob("*/*.json")):
        document = json.loads(file.read_text())
        features = document if isinstance(document, list) else document.get("features", [document])
        for item in features:
            if item.get("type") != "Feature" or "stactools" in file.parts:
                continue
            for asset in item["assets"].values():
                if "://" in asset["href"]:
                    assert refusal(asset["href"], remote=True) == ""
                    assert unsigned(asset["href"]) == asset["href"]
                    seen += 1
    assert seen > 1000


# Signatures

SIGNED = {
    "Azure": "st=2024-01-01T00%3A00%3A00Z&se=2024-01-02&sp=rl&sv=2021-06-08&sr=c&skoid=a&sktid=b&skt=c&sig=x%3D",
    "AWS": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F1&X-Amz-Expires=9&X-Amz-Signature=x",
    "AWS of old": "AWSAccessKeyId=AKIA&Expires=1&Signature=x",
    "Google": "X-Goog-Algorithm=GOOG4&X-Goog-Credential=a&X-Goog-Signature=x",
    "CloudFront": "Policy=a&Signature=x&Key-Pair-Id=b",
}


@pytest.mark.parametrize("kind", SIGNED)
def test_what_signs_is_not_kept(kind: str) -> None:
    assert unsigned(f"{COG}?{SIGNED[kind]}") == COG
    assert unsigned(f"{COG}?version=3&{SIGNED[kind]}&x=1") == f"{COG}?version=3&x=1"


def test_user_and_password_are_not_kept() -> None:
    assert unsigned("https://me:word@example.org:8080/a.tif") == "https://example.org:8080/a.tif"
    assert unsigned("s3://key:secret@bucket/a.tif") == "s3://bucket/a.tif"
    container = "abfs://sentinel2-l2@sentinel2l2a01.dfs.core.windows.net/a.tif"
    assert unsigned(container) == container


QUERIES = st.lists(st.tuples(st.sampled_from(["x", "se", "sp", "policy", "expires", "token", "v"]), st.text("ab9")))


@given(QUERIES)
def test_other_queries_stay_to_the_letter(pairs: list[tuple[str, str]]) -> None:
    href = f"{COG}?{urlencode(pairs)}" if pairs else COG
    assert unsigned(href) == href


@given(QUERIES, st.sampled_from(sorted(SIGNED)))
def test_unsigned_twice_is_unsigned_once(pairs: list[tuple[str, str]], kind: str) -> None:
    once = unsigned(f"{COG}?{urlencode(pairs)}&{SIGNED[kind]}")
    assert unsigned(once) == once
    assert "x%3D" not in once
    assert {name for name, _ in parse_qsl(urlsplit(once).query)} <= {
        "x",
        "se",
        "sp",
        "policy",
        "expires",
        "token",
        "v",
    }


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_saved_items_are_unsigned_in_every_corner(tmp_path: Path, suffix: str) -> None:
    document = foreign(f"{COG}?{SIGNED['Azure']}")
    document["links"] = [{"rel": "derived_from", "href": f"https://example.org/a?{SIGNED['AWS']}"}]
    found = to_item(document, REMOTE)
    assert found.assets["red"].href == COG
    found.assets["nir"].href = f"{COG}?{SIGNED['Google']}"  # as a signing modifier of pystac-client leaves it
    found.assets["scl"].extra_fields["alternate"] = {"https": {"href": f"{COG}?{SIGNED['AWS of old']}"}}
    assert granule_from_item(found).nir.href == COG
    save_items([found], tmp_path / f"items.{suffix}")
    (again,) = load_items(tmp_path / f"items.{suffix}")
    assert again.assets["nir"].href == COG
    text = (tmp_path / f"items.{suffix}").read_bytes()
    for secret in (b"sig=", b"Signature", b"AKIA", b"Goog"):
        assert secret not in text


def test_what_is_no_url_is_still_unsigned() -> None:
    assert unsigned("http://me:word@[::1/a.tif?sig=1#x") == "http://[::1/a.tif"


def test_a_nul_in_a_host_is_no_address() -> None:
    assert is_remote("http://a%00b/catalog.json")


def test_fields_that_are_no_hrefs_stay() -> None:
    value = {"href": 3, "a": [{"href": COG, "b": f"{COG}?sig=1"}], "c": None}
    assert unsigned_fields(value) == value


def test_rules_cover_their_places_and_no_others() -> None:
    rule = access_of(COG)
    assert rule is not None
    assert rule.name == "planetary-computer"
    for other in (
        "https://sentinel2l2a01.blob.core.windows.net.example.org/a.tif",
        "https://example.org/?sentinel2l2a01.blob.core.windows.net",
        "https://sentinel2l2a01.blob.core.windows.net@example.org/a.tif",
        "s3://eodata2/a.jp2",
    ):
        assert access_of(other) is None, other


def test_what_is_no_url_keeps_no_secret_either() -> None:
    assert unsigned_fields({"alternate": {"x": {"href": "https://[me:CANARY@h"}}}) == {
        "alternate": {"x": {"href": "https://h"}}
    }
