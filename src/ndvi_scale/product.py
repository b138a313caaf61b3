"""What a product's own metadata (``MTD_MSIL2A.xml``) say of offsets. Text in, values out; no I/O.

XML from elsewhere goes through defusedxml: entities, which can blow up or read files, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import ParseError

from ndvi_scale.errors import ItemError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

BAND_IDS: Final = {"red": 3, "nir": 7}
"""``band_id`` of B04 and B08; ids count from B01 = 0, and B8A is 8."""


@dataclass(frozen=True)
class ProductMetadata:
    """The offsets of a product."""

    baseline: str
    """As it stands there; empty where it does not."""
    quantification: float | None
    offsets: dict[int, int]
    """``band_id`` → BOA_ADD_OFFSET in DN; empty before baseline 04.00."""

    def offset(self, band: str) -> int | None:
        """The offset of ``red`` or ``nir``; None where none is declared."""
        return self.offsets.get(BAND_IDS[band])


def parse_product_metadata(text: str | bytes, where: str) -> ProductMetadata:
    """Read the XML of a product; `where` is what errors call it. Raises ItemError for anything else."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root = fromstring(text)
        found = ProductMetadata(
            baseline=_text(root, "PROCESSING_BASELINE") or "",
            quantification=_number(_text(root, "BOA_QUANTIFICATION_VALUE")),
            offsets={int(e.attrib["band_id"]): int(e.text or "") for e in _elements(root, "BOA_ADD_OFFSET")},
        )
    except (ParseError, DefusedXmlException, KeyError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    else:
        if found.baseline or found.quantification:
            return found
        why = "it has neither PROCESSING_BASELINE nor BOA_QUANTIFICATION_VALUE"
    raise ItemError(f"{where} is no product metadata ({why}): give the product's MTD_MSIL2A.xml", item_id=where)


def _elements(root: Element, name: str) -> list[Element]:
    """Elements by name, in whatever namespace: ESA changes it with every version of the format."""
    return [element for element in root.iter() if str(element.tag).rpartition("}")[2] == name]


def _text(root: Element, name: str) -> str | None:
    return next(((element.text or "").strip() for element in _elements(root, name)), None)


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
