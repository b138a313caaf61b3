"""Calendar periods of solar days: what becomes one layer of a composite. Pure arithmetic, no I/O.

A dekad is days 1-10, 11-20 or 21 to the end of a month, never "every ten days"; a season is meteorological and
begins on the first of March, June, September or December; a number of days counts from the first day asked for.
"""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_right
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Span = tuple[dt.date | None, dt.date | None]
"""The days asked for: the first, and the first after them; None where open."""

EPOCH: Final = dt.date(1970, 1, 1)
"""What stored dates count from."""

PERIODS: Final = ("month", "dekad", "season", "year", "all")
"""Periods with a name; others are a number of days, such as 16d."""

MOST_DAYS: Final = 3660
"""Days of the longest period that is given as a number of them: ten years."""

_ONE_DAY: Final = dt.timedelta(days=1)
_MONTHS: Final = {"month": (1, 0), "season": (3, 2), "year": (12, 0)}
"""Months in a period, and by how many months a period begins after 1 January."""
_SEASONS: Final = {12: "DJF", 3: "MAM", 6: "JJA", 9: "SON"}
_CHOICES: Final = (
    "give month, dekad (days 1-10, 11-20, 21 to the month's end), season (DJF, MAM, JJA, SON), year, all, "
    "or a number of days such as 16d"
)


@dataclass(frozen=True, order=True)
class Period:
    """A stretch of solar days."""

    start: dt.date
    """The first day in it."""
    end: dt.date
    """The first day after it: exclusive."""

    def __post_init__(self) -> None:
        """Refuse an empty one. Raises ValueError."""
        if self.start >= self.end:
            raise ValueError(f"a period from {self.start} to before {self.end} holds no day")

    def __contains__(self, day: dt.date) -> bool:
        """Whether a solar day lies in it."""
        return self.start <= day < self.end


def one_day(day: dt.date) -> Period:
    """The period of a solar day alone."""
    return Period(day, day + _ONE_DAY)


def days_since_epoch(day: dt.date) -> int:
    """A date as CF stores it."""
    return (day - EPOCH).days


def parse_period(text: str) -> str:
    """A period in its one form: one of `PERIODS`, or a number of days as ``16d``. Raises ConfigError."""
    name = text.strip().lower()
    if name in PERIODS:
        return name
    days = re.fullmatch(r"0*([1-9][0-9]{0,3})d", name)
    if days and int(days[1]) <= MOST_DAYS:
        return days[0].lstrip("0")
    if re.fullmatch(r"[+-]?[0-9.,]+ *d(ays?)?", name):
        raise ConfigError(
            f"period {text!r}: a number of days is whole, from 1d to {MOST_DAYS}d. Give such as 16d, "
            "or all for one layer of the whole range"
        )
    near = get_close_matches(name, PERIODS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(f"period {text!r} is unknown{hint}: {_CHOICES}")


def periods_of(days: Sequence[dt.date], period: str, span: Span = (None, None)) -> tuple[Period, ...]:
    """All periods from the first to the last, one after the other, those that hold no day too.

    They go from end to end of `span`, and where it is open from the first to the last of `days` (in any order).
    A day outside the span has its period as well: the solar day may be the one before or after the UTC day asked
    for. `period` is in the form of `parse_period`. Raises ConfigError where the span lies inside one longer
    period, or a period would begin or end outside the years 1 to 9999; ValueError for an empty span, and for no
    days where an end is open.
    """
    first, last = _ends(days, span)
    try:
        if period == "all":
            return (Period(first, last + _ONE_DAY),)
        _check_fits(period, span)
        return tuple(_from_to(first, last, span[0] or first, period))
    except OverflowError:
        raise ConfigError(
            f"period {period!r} from {first} to {last}: the calendar has the years 1 to 9999. Narrow datetime"
        ) from None


def period_index(periods: Sequence[Period], day: dt.date) -> int:
    """Position of the period that holds a day, among sorted ones. Raises ValueError where none does."""
    index = bisect_right(periods, day, key=lambda period: period.start) - 1
    if index < 0 or day not in periods[index]:
        raise ValueError(f"{day} lies in none of {len(periods)} periods")
    return index


def period_name(rule: str) -> str:
    """A rule in words: ``month``, ``16 days``, ``day``."""
    if not rule[:-1].isdigit():
        return rule
    return "day" if rule == "1d" else f"{rule[:-1]} days"


def period_label(period: Period, rule: str) -> str:
    """What a table or a picture calls a period made by a rule.

    ``2023-06``; ``2023-06 dekad 2``; ``2023 JJA``, and ``2022/23 DJF`` with both its years, for the field
    names it after either; ``2023``; first and last day for `all` and a number of days: ``2023-06-01..2023-06-16``.
    """
    start, last = period.start.isoformat(), (period.end - _ONE_DAY).isoformat()
    year, month = start[:4], start[:7]
    if rule == "dekad":
        return f"{month} dekad {period.start.day // 10 + 1}"
    if rule == "season":
        following = "" if last[:4] == year else f"/{last[2:4]}"
        return f"{year}{following} {_SEASONS[period.start.month]}"
    if rule in _MONTHS:
        return year if rule == "year" else month
    return start if start == last else f"{start}..{last}"


def partial_periods(periods: Sequence[Period], span: Span) -> tuple[Period, ...]:
    """Those that begin before the days asked for or end after them: their layers lack dates that were not searched.

    One that `all` widened by a solar day is among them.
    """
    start, end = span
    return tuple(
        period
        for period in periods
        if (start is not None and period.start < start) or (end is not None and period.end > end)
    )


def _ends(days: Sequence[dt.date], span: Span) -> tuple[dt.date, dt.date]:
    """First and last of the days and the span."""
    start, end = span
    if not days and (start is None or end is None):
        raise ValueError("no days, and a span with an open end: there is nothing that periods could go from or to")
    if start is not None and end is not None and start >= end:
        raise ValueError(f"the span from {start} to before {end} holds no day")
    first = min((*days, start) if start is not None else days)
    last = max((*days, end - _ONE_DAY) if end is not None else days)
    return first, last


def _check_fits(period: str, span: Span) -> None:
    """Refuse a span that lies inside one period and does not fill it."""
    start, end = span
    if start is None or end is None:
        return
    around = next(_from_to(start, start, start, period))
    if around.end >= end and (around.start, around.end) != (start, end):
        raise ConfigError(
            f"period {period!r} is longer than the range {start} to {end - _ONE_DAY}: "
            f"it would be a part of {around.start} to {around.end - _ONE_DAY}. "
            "Give all for one layer of the range, a shorter period, or a longer range"
        )


def _from_to(first: dt.date, last: dt.date, origin: dt.date, period: str) -> Iterator[Period]:
    """The periods from the one that holds `first` to the one that holds `last`."""
    start = _start_of(first, origin, period)
    while start <= last:
        end = _start_after(start, period)
        yield Period(start, end)
        start = end


def _start_of(day: dt.date, origin: dt.date, period: str) -> dt.date:
    """First day of the period that holds a day; a number of days counts from `origin`, both ways."""
    if period in _MONTHS:
        length, phase = _MONTHS[period]
        return _first_of_month((_month_number(day) - phase) // length * length + phase)
    if period == "dekad":
        return day.replace(day=min((day.day - 1) // 10, 2) * 10 + 1)
    length = int(period[:-1])
    return origin + dt.timedelta(days=(day - origin).days // length * length)


def _start_after(start: dt.date, period: str) -> dt.date:
    """First day after the period that begins at `start`."""
    if period in _MONTHS:
        return _first_of_month(_month_number(start) + _MONTHS[period][0])
    if period == "dekad":
        last = start.day > 20  # noqa: PLR2004 - the third dekad begins on the 21st
        return _first_of_month(_month_number(start) + 1) if last else start + dt.timedelta(days=10)
    return start + dt.timedelta(days=int(period[:-1]))


def _month_number(day: dt.date) -> int:
    """Months since January of the year 0."""
    return day.year * 12 + day.month - 1


def _first_of_month(number: int) -> dt.date:
    """The inverse of `_month_number`. Raises OverflowError outside the years 1 to 9999."""
    year, month = divmod(number, 12)
    if not dt.MINYEAR <= year <= dt.MAXYEAR:
        raise OverflowError(f"the calendar has no year {year}")
    return dt.date(year, month + 1, 1)
