"""What an asset's file must be, and how it is said that it is not, or cannot be read; the same for every reader."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ndvi_scale.errors import ReadError
from ndvi_scale.web import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from odc.geo.geobox import GeoBox

    from ndvi_scale.granules import Asset
    from ndvi_scale.sources import Access

DTYPES: Final = ("uint8", "uint16")
"""What Sentinel-2 L2A assets hold: classes and DN."""

BLOCK_BYTES: Final = 256 << 20
"""Largest block that is decoded: a whole 10 m band as one JP2 tile is 241 MB; a hostile header can ask for more
than there is."""

GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_SAME: Final = 1e-6


def grid_difference(found: GeoBox, said: GeoBox) -> str:
    """How a file's grid is not the one its item says; empty where it is. A CRS without a code is believed."""
    codes = [grid.crs.to_epsg() if grid.crs else None for grid in (found, said)]
    same_crs = None in codes or codes[0] == codes[1]
    if same_crs and found.shape == said.shape and found.affine.almost_equals(said.affine, _SAME):
        return ""
    return (
        f"it is {found.shape.y} x {found.shape.x} pixels at ({found.affine.c}, {found.affine.f}) in "
        f"EPSG:{codes[0]}, not {said.shape.y} x {said.shape.x} at ({said.affine.c}, {said.affine.f}) in "
        f"EPSG:{codes[1]}"
    )


def another_file(item_id: str, asset: Asset, what: str) -> ReadError:
    """The error for a file that is not what its item says."""
    return ReadError(
        f"item {item_id} does not describe this file, {shown(asset.href)}: {what}. Leave the item out, or use "
        "on-error = skip",
        item_id=item_id,
        asset=shown(asset.href),
        permanent=True,
    )


def no_overview(item_id: str, asset: Asset, found: Sequence[int]) -> ReadError:
    """The error for a file without the overview that is to be read; `found`: those that it has."""
    others = ", ".join(str(number) for number in found) or "none"
    return ReadError(
        f"{shown(asset.href)} of item {item_id} has no overview of 1/{asset.overview} of its size (it has: {others}"
        "): leave --overviews out, to make coarser pixels of its own",
        item_id=item_id,
        asset=shown(asset.href),
        permanent=True,
    )


def unreadable(item_id: str, asset: Asset, why: str, *, permanent: bool) -> ReadError:
    """The error for a file that cannot be read."""
    return ReadError(
        f"cannot read {shown(asset.href)} of item {item_id}: {why}. Run again if the origin was "
        "away for a while; use on-error = skip to leave unreadable items out with a record",
        item_id=item_id,
        asset=shown(asset.href),
        permanent=permanent,
    )


def refusal_hint(status: int | None, rule: Access | None, *, located: bool = True) -> str:
    """What to do about credentials, where they are the reason; `located`: the place that refused is known."""
    if status not in REFUSED or not located:
        return ""
    if rule is None or rule.signing == "none":
        return "; the place needs credentials, and no rule of ours covers it"
    if rule.signing == "sas":
        return f"; {rule.name} refused the signed link, also a new one"
    return f"; {rule.name} refused the keys in {' and '.join(rule.key_variables)}: {rule.remedy}"
