"""`--collection auto`: products that a catalog holds in several collections, each from the best that has it.

Pure: items come in, items go out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ndvi_scale.sentinel2 import baseline_rank, item_baseline, item_datatake, item_tile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pystac

AUTO: Final = "auto"
"""What is given as the collection to join all that a known source has."""


@dataclass(frozen=True)
class Joined:
    """Each product once, from one collection."""

    items: list[pystac.Item]
    products: int
    """How many MGRS tiles of datatakes they are."""
    holes: dict[str, tuple[str, ...]]
    """Collection → ids of the items taken from another one because it lacks the product, or a part of it."""


def join_collections(found: Mapping[str, Sequence[pystac.Item]]) -> Joined:
    """Join items on MGRS tile and datatake; `found` has the preferred collection first.

    A product comes from the first collection that has all its parts: two halves of a split datatake are two
    parts, a processing and its successor are one. What does not say its tile and datatake stays as it is.
    """
    products: dict[tuple[str, str], dict[str, list[pystac.Item]]] = defaultdict(dict)
    for collection, items in found.items():
        for item in items:
            products[_product(item)].setdefault(collection, []).append(item)
    chosen: list[pystac.Item] = []
    holes: dict[str, list[str]] = {collection: [] for collection in found}
    for held in products.values():
        parts = {collection: _parts(held.get(collection, [])) for collection in found}
        best = max(parts, key=lambda collection: parts[collection])  # the first of equals
        chosen += held[best]
        for collection, count in parts.items():
            if count < parts[best]:
                holes[collection] += [item.id for item in held[best]]
    return Joined(chosen, len(products), {collection: tuple(ids) for collection, ids in holes.items()})


def _product(item: pystac.Item) -> tuple[str, str]:
    tile, datatake = item_tile(item.properties, item.id), item_datatake(item.properties)
    return (tile, datatake) if tile and datatake else (str(item.collection_id), item.id)


def _parts(items: Sequence[pystac.Item]) -> int:
    """How many files of the newest processing: more than one where the datatake was split."""
    ranks = [baseline_rank(item_baseline(item.properties) or (0, 0)) for item in items]
    names = {
        str(item.properties.get("s2:product_uri") or item.id)
        for item, rank in zip(items, ranks, strict=True)
        if rank == max(ranks)
    }
    return len(names)
