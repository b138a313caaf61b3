"""Dates as STAC writes them become an interval: half-open, in UTC."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from itertools import pairwise

from ndvi_scale.errors import ConfigError

_ARCHIVE_START = dt.datetime(2015, 6, 1, tzinfo=dt.UTC)
"""The month of the first Sentinel-2 image: what an open start is split from."""
_LONGEST_MONTH = dt.timedelta(days=31)

_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")


@dataclass(frozen=True)
class Interval:
    """A stretch of time; both ends are aware, in UTC, and None where open."""

    start: dt.datetime | None
    """The first moment in it."""
    end: dt.datetime | None
    """The first moment after it: exclusive."""

    def __contains__(self, moment: dt.datetime) -> bool:
        """Whether an aware moment lies in it."""
        return (self.start is None or self.start <= moment) and (self.end is None or moment < self.end)


def split_by_month(interval: Interval, now: dt.datetime) -> list[Interval]:
    """Cut it at calendar months, in order; whole when it is no longer than one.

    The pieces cover it once. Open ends stay open: the first piece holds what is before Sentinel-2, the
    last what is yet to come.
    """
    first = max(interval.start or _ARCHIVE_START, _ARCHIVE_START)
    if min(interval.end or now, now) - first <= _LONGEST_MONTH:
        return [interval]
    edges: list[dt.datetime] = []
    month = first.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while month <= now and (interval.end is None or month < interval.end):
        if interval.start is None or month > interval.start:
            edges.append(month)
        month = (month + _LONGEST_MONTH).replace(day=1)
    ends = [interval.start, *edges, interval.end]
    return [Interval(start, end) for start, end in pairwise(ends)]


def parse_interval(text: str) -> Interval:
    """Read a STAC datetime: an instant, a year, month or day, or two of them as "A/B", ".." being open.

    An end that is a year, month or day is whole. Raises ConfigError.
    """
    parts = [part.strip() for part in text.split("/")]
    if text.count("/") > 1:
        raise ConfigError(f"datetime {text!r}: an interval has one '/'. Write A/B, for example 2023-06/2023-08.")
    open_ends = [part in {"", ".."} for part in parts]
    if all(open_ends):
        raise ConfigError(f"datetime {text!r}: one end must be given. Leave datetime out to search all dates.")
    start = None if open_ends[0] else _span(parts[0], text)[0]
    end = None if open_ends[-1] else _span(parts[-1], text)[1]
    if start is not None and end is not None and start >= end:
        raise ConfigError(f"datetime {text!r}: {parts[0]} is after {parts[-1]}. Swap them: the earlier is first.")
    return Interval(start, end)


def asked_days(text: str | None) -> tuple[dt.date | None, dt.date | None]:
    """First day in and first day after a STAC datetime, in UTC; None where it is open. Raises ConfigError."""
    if text is None:
        return None, None
    interval = parse_interval(text)
    instant = dt.timedelta(microseconds=1)
    start = None if interval.start is None else interval.start.date()
    end = None if interval.end is None else (interval.end - instant).date() + dt.timedelta(days=1)
    return start, end


def _span(part: str, text: str) -> tuple[dt.datetime, dt.datetime | None]:
    """First moment in and first moment after a date or an instant (which lasts a microsecond)."""
    date = _DATE.fullmatch(part)
    try:
        if date is not None:
            return _date_span(*(int(number) if number else None for number in date.groups()))
        if _INSTANT.fullmatch(part.upper()):
            start = dt.datetime.fromisoformat(part.upper()).astimezone(dt.UTC)
            return start, start + dt.timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"datetime {text!r}: {part} does not exist ({error}). Correct the date.") from error
    raise ConfigError(
        f"datetime {text!r}: {part!r} is neither a date nor an RFC 3339 instant. "
        "Write 2023, 2023-06, 2023-06-01 or 2023-06-01T10:50:00Z (with Z or an offset)."
    )


def _date_span(year: int | None, month: int | None, day: int | None) -> tuple[dt.datetime, dt.datetime | None]:
    start = dt.datetime(year or 0, 1 if month is None else month, 1 if day is None else day, tzinfo=dt.UTC)
    try:
        if day is not None:
            return start, start + dt.timedelta(days=1)
        months = start.year * 12 + start.month - 1 + (12 if month is None else 1)
        return start, start.replace(year=months // 12, month=months % 12 + 1)
    except (ValueError, OverflowError):
        return start, None  # the end of year 9999 is the end of time here
