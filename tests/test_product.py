"""Product metadata: what a real file says, older ones, and XML that is not to be trusted."""

from __future__ import annotations

import pytest

from ndvi_scale.errors import ItemError
from ndvi_scale.product import parse_product_metadata

OLD = """<p:Level-2A_User_Product xmlns:p="https://psd-13"><p:General_Info>
<PROCESSING_BASELINE> 02.12 </PROCESSING_BASELINE><L2A_BOA_QUANTIFICATION_VALUE>10000</L2A_BOA_QUANTIFICATION_VALUE>
</p:General_Info></p:Level-2A_User_Product>"""
PER_BAND = """<a xmlns="urn:x"><PROCESSING_BASELINE>05.11</PROCESSING_BASELINE>
<BOA_QUANTIFICATION_VALUE>10000</BOA_QUANTIFICATION_VALUE>
<BOA_ADD_OFFSET band_id="8">-3</BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id="7">-500</BOA_ADD_OFFSET>
<BOA_ADD_OFFSET band_id="3"> -1000 </BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id="4">-7</BOA_ADD_OFFSET></a>"""


def test_the_real_product(real_data) -> None:
    text = (real_data / "rasters" / "t29unu_20221005_N0400" / "MTD_MSIL2A.xml").read_bytes()
    found = parse_product_metadata(text, "MTD_MSIL2A.xml")
    assert (found.baseline, found.quantification) == ("04.00", 10_000)
    assert found.offsets == dict.fromkeys(range(13), -1000)
    assert (found.offset("red"), found.offset("nir")) == (-1000, -1000)


def test_offsets_go_by_band_id() -> None:
    found = parse_product_metadata(PER_BAND, "x.xml")
    assert (found.offset("red"), found.offset("nir")) == (-1000, -500)


def test_before_04_00_there_are_none() -> None:
    found = parse_product_metadata(OLD, "x.xml")
    assert found.baseline == "02.12"
    assert (found.quantification, found.offsets, found.offset("red")) == (None, {}, None)


BOMB = """<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;">]>
<a><PROCESSING_BASELINE>&c;</PROCESSING_BASELINE></a>"""
OUTSIDE = """<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]>
<a><PROCESSING_BASELINE>&b;</PROCESSING_BASELINE></a>"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "EntitiesForbidden"),
        (OUTSIDE, "EntitiesForbidden"),
        ("<a><b></a>", "ParseError"),
        ("", "ParseError"),
        ("<html><body>Not found</body></html>", "neither PROCESSING_BASELINE nor"),
        (PER_BAND.replace('band_id="3"', ""), "band_id"),
        (PER_BAND.replace("> -1000 <", ">none<"), "none"),
        (PER_BAND.replace(">10000<", ">many<"), "many"),
    ],
)
def test_anything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(ItemError, match=r"is no product metadata .* give the product's MTD_MSIL2A.xml") as caught:
        parse_product_metadata(text, "x.xml")
    assert why in str(caught.value)
