"""What a run makes of scene classes: which are dropped, and mask filters that grow or shrink cloud before that."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.errors import ConfigError
from ndvi_scale.sentinel2 import CLOUD_CLASSES, PRESET_FILTERS, SCL_CLASSES, parse_mask, scl_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ndvi_scale.kernels.morphology import Step

MAX_MARGIN: Final = 100
"""SCL pixels that filters may reach, 2 km: so much of SCL is read around a region. Under broken cloud, growing by
more would mask nearly all."""

_GROWS: Final[dict[str, tuple[bool, ...]]] = {
    "opening": (False, True),
    "closing": (True, False),
    "dilation": (True,),
    "erosion": (False,),
}
"""Mask filter → its steps: whether cloud grows, or what is clear. The words are those of odc-algo."""


@dataclass(frozen=True)
class SceneMask:
    """Which scene classes are dropped, and how far cloud among them is grown or shrunk first."""

    dropped: frozenset[int]
    filters: tuple[str, ...] = ()
    """In the order in which they are applied, such as ``opening:2``: radius in SCL pixels."""

    def __post_init__(self) -> None:
        """Raises ConfigError where filters reach too far, or would have nothing to act on."""
        if self.margin > MAX_MARGIN:
            raise ConfigError(
                f"mask filters {', '.join(self.filters)} reach {self.margin} SCL pixels, further than the margin "
                f"of {MAX_MARGIN} (2 km) that is read around a region at most: opening and closing reach twice "
                "their radius; give smaller ones"
            )
        if self.filters and not self.dropped & CLOUD_CLASSES:
            kinds = ", ".join(f"{number} {SCL_CLASSES[number]}" for number in sorted(CLOUD_CLASSES))
            raise ConfigError(
                f"mask filters {', '.join(self.filters)} have nothing to act on: the mask drops none of the "
                f"classes that they grow or shrink ({kinds}); drop some of these, or leave the filters out"
            )

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What `morphology.filter_classes` does."""
        pairs = (text.split(":") for text in self.filters)
        return tuple((grows, int(radius)) for name, radius in pairs for grows in _GROWS[name])

    @property
    def margin(self) -> int:
        """SCL pixels around a window that may decide of pixels in it."""
        return sum(radius for _, radius in self.steps)

    @cached_property
    def table(self) -> NDArray[np.uint8]:
        """Kernel bits of every SCL value, with the filters' where there are any."""
        return scl_table(self.dropped, filtered=bool(self.filters))


def scene_mask(mask: str | Iterable[int], filters: Any = None) -> SceneMask:
    """A mask from the name of a preset or classes, as `parse_mask` takes them, and filters.

    `filters` as `parse_filters` takes them; None is those of the preset, if it has any. Raises ConfigError.
    """
    preset = PRESET_FILTERS.get(mask, ()) if isinstance(mask, str) else ()
    return SceneMask(parse_mask(mask), preset if filters is None else parse_filters(filters))


def parse_filters(filters: Any) -> tuple[str, ...]:
    """Mask filters in one form, from a text such as ``"opening:2,dilation:5"`` or ``"none"``, or a list of such.

    In a list, pairs of name and radius are taken as well. Raises ConfigError.
    """
    if isinstance(filters, str):
        filters = [] if filters.strip() == "none" else filters.split(",")
    if not isinstance(filters, Iterable):
        raise ConfigError(f"mask filters {filters!r} have the wrong type: {_REMEDY}")
    return tuple(_parse_filter(one) for one in filters)


_REMEDY: Final = f"give {', '.join(_GROWS)} with a radius in SCL pixels (20 m), such as opening:2,dilation:5"


def _parse_filter(one: Any) -> str:
    text = ":".join(map(str, one)) if isinstance(one, list | tuple) else str(one)
    name, _, radius = (part.strip() for part in text.lower().partition(":"))
    if name not in _GROWS:
        near = get_close_matches(name, _GROWS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"mask filter {text!r} is unknown{hint}: {_REMEDY}")
    if not re.fullmatch(r"[0-9]{1,9}", radius) or int(radius) == 0:
        raise ConfigError(f"mask filter {text!r} needs a radius, a whole number of pixels from 1 on: {_REMEDY}")
    return f"{name}:{int(radius)}"
