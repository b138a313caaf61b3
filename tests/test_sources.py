"""The table of sources: what it says of real hrefs, and that credentials stay where they belong."""

from __future__ import annotations

import pytest

from ndvi_scale.sentinel2 import ASSET_KEYS, BANDS
from ndvi_scale.sources import ACCESS, SOURCES, Limits, access_of


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/35/U/PU/B04.tif", "earth-search"),
        ("https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/c1/B04.tif", "earth-search"),
        ("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/32/T/MT/B04_10m.tif", "planetary-computer"),
        ("s3://eodata/Sentinel-2/MSI/L2A/2023/11/09/B04_10m.jp2", "cdse"),
        ("s3://sentinel-s2-l2a/tiles/35/U/PU/2023/11/9/0/B04.jp2", "sentinel-s2-l2a"),
        ("s3://eodata.example/B04.jp2", None),
        ("https://sentinel2l2a01.blob.core.windows.net.example.org/x.tif", None),
        ("https://example.org/sentinel2l2a01.blob.core.windows.net/x.tif", None),
        ("https://sentinel2l2a01.blob.core.windows.net@example.org/x.tif", None),
        ("/vsis3/eodata/x.jp2", None),
        ("eodata/x.jp2", None),
    ],
)
def test_which_rule_covers_an_href(href: str, name: str | None) -> None:
    access = access_of(href)
    assert (access.name if access else None) == name


def test_every_source_names_its_collections_and_offsets() -> None:
    for source in SOURCES.values():
        assert source.url.startswith("https://")
        assert source.collection == source.collections[0]
        assert set(source.auto) <= set(source.collections)
        assert source.offsets
        assert source.description


def test_rules_do_not_overlap() -> None:
    places = [place for access in ACCESS for place in (*access.hosts, *access.buckets)]
    assert len(places) == len(set(places))


def test_every_source_names_its_assets_and_how_they_are_read() -> None:
    for source in SOURCES.values():
        assert dict(zip(BANDS, source.assets, strict=True)) in ASSET_KEYS
        assert source.access in {access.name for access in ACCESS}
    assert {name: source.account for name, source in SOURCES.items()} == {
        "earth-search": "none",
        "earth-search-v0": "none",
        "planetary-computer": "none, links signed for an hour",
        "cdse": "S3 keys of the provider",
    }
    assert SOURCES["cdse"].limits.connections == 4
    assert SOURCES["earth-search"].limits == Limits()
