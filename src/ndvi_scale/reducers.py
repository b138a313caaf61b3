"""How the days of a period become one: names of reducers. Pure."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Final

from ndvi_scale.errors import ConfigError

REDUCERS: Final = ("median", "mean", "max", "min", "count")
"""Beside these, ``p05``, ``p90`` and the like: percentiles."""

MEDIAN: Final = 50
_PERCENT: Final = 100


def parse_reducer(text: str) -> str:
    """The name of a reducer in its one form: a member of `REDUCERS`, or ``p`` and two digits or 100.

    Raises ConfigError.
    """
    name = text.strip().lower()
    if name in REDUCERS:
        return name
    percentile = re.fullmatch(r"p([0-9]{1,3})", name)
    if percentile is None:
        near = get_close_matches(name, REDUCERS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(
            f"unknown reducer {text!r}{hint}: give one of {', '.join(REDUCERS)}, or a percentile such as p90"
        )
    percent = int(percentile[1])
    if percent > _PERCENT:
        raise ConfigError(f"reducer {text!r}: a percentile is a whole number from 0 to 100, such as p90")
    return f"p{percent:02}"


def percent_of(reducer: str) -> int | None:
    """The percentile that a reducer is; None where it is none. A median is the 50th."""
    if reducer == "median":
        return MEDIAN
    return int(reducer[1:]) if reducer[1:].isdigit() else None


def has_date(reducer: str | None) -> bool:
    """Whether a reducer takes each pixel from one day, whose date is kept."""
    return reducer in {"max", "min"}


def reducer_name(reducer: str) -> str:
    """In words: ``maximum``, ``90th percentile``."""
    percent = None if reducer == "median" else percent_of(reducer)
    if percent is None:
        return {"max": "maximum", "min": "minimum"}.get(reducer, reducer)
    ending = "th" if percent // 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(percent % 10, "th")
    return f"{percent}{ending} percentile"
