"""Dates: what is read, what is refused, and what lies in an interval."""

from __future__ import annotations

import contextlib
import datetime as dt

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ndvi_scale.errors import ConfigError
from ndvi_scale.interval import Interval, parse_interval, split_by_month
from stac import says, utc

_MOMENTS = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2050, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2023", utc(2023, 1, 1), utc(2024, 1, 1)),
        ("2023-06", utc(2023, 6, 1), utc(2023, 7, 1)),
        ("2023-12", utc(2023, 12, 1), utc(2024, 1, 1)),
        ("2024-02", utc(2024, 2, 1), utc(2024, 3, 1)),
        ("2023-06-01", utc(2023, 6, 1), utc(2023, 6, 2)),
        ("2023/2023-06-15", utc(2023, 1, 1), utc(2023, 6, 16)),
        ("2023-06-15/2023-06", utc(2023, 6, 15), utc(2023, 7, 1)),
        ("2023-06-01/2023-06-01", utc(2023, 6, 1), utc(2023, 6, 2)),
        ("../2023-06", None, utc(2023, 7, 1)),
        ("/2023-06", None, utc(2023, 7, 1)),
        ("2023-06/..", utc(2023, 6, 1), None),
        ("2023-06/", utc(2023, 6, 1), None),
        (" 2023-06 / .. ", utc(2023, 6, 1), None),
        ("2023-06-01T10:50:22Z", utc(2023, 6, 1, 10, 50, 22), utc(2023, 6, 1, 10, 50, 22, 1)),
        ("2023-06-01t10:50:22.5z", utc(2023, 6, 1, 10, 50, 22, 500000), utc(2023, 6, 1, 10, 50, 22, 500001)),
        ("2023-06-01T00:30:00+02:00/..", utc(2023, 5, 31, 22, 30), None),
        ("9999", utc(9999, 1, 1), None),
        ("9999-12-31", utc(9999, 12, 31), None),
    ],
)
def test_interval(text: str, start: dt.datetime | None, end: dt.datetime | None) -> None:
    assert parse_interval(text) == Interval(start, end)


@pytest.mark.parametrize(
    ("text", "value", "rule", "remedy"),
    [
        ("2023-02-30", "2023-02-30", "does not exist", "Correct the date"),
        ("2023-13", "2023-13", "does not exist", "Correct the date"),
        ("2023-00-01", "2023-00-01", "does not exist", "Correct the date"),
        ("0000", "0000", "does not exist", "Correct the date"),
        ("2023-06-01T25:00:00Z", "T25:00:00Z", "does not exist", "Correct the date"),
        ("0001-01-01T00:00:00+01:00", "0001-01-01", "does not exist", "Correct the date"),
        ("2023-07/2023-06", "2023-07", "is after 2023-06", "Swap them"),
        ("2023-06-01T00:00:01Z/2023-06-01T00:00:00Z", "00:00:01Z", "is after", "Swap them"),
        ("../..", "../..", "one end must be given", "Leave datetime out"),
        ("/", "'/'", "one end must be given", "Leave datetime out"),
        ("", "''", "one end must be given", "Leave datetime out"),
        ("2023/2024/2025", "2023/2024/2025", "one '/'", "Write A/B"),
        ("June 2023", "'June 2023'", "neither a date nor", "Write 2023"),
        ("2023-6", "'2023-6'", "neither a date nor", "Write 2023"),
        ("20230601", "'20230601'", "neither a date nor", "Write 2023"),
        ("2023-06-01T10:00:00", "'2023-06-01T10:00:00'", "neither a date nor", "with Z or an offset"),
        ("٢٠٢٣", "'٢٠٢٣'", "neither a date nor", "Write 2023"),
    ],
)
def test_interval_refused(text: str, value: str, rule: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_interval(text)
    says(caught, f"datetime {text!r}", value, rule, remedy)


@given(st.dates(), st.dates(), st.sampled_from(["%Y", "%Y-%m", "%Y-%m-%d"]))
def test_interval_holds_its_ends_and_nothing_beside_them(first: dt.date, last: dt.date, form: str) -> None:
    def written(day: dt.date) -> str:
        return {"%Y": f"{day.year:04}", "%Y-%m": day.isoformat()[:7]}.get(form, day.isoformat())

    assume(first <= last)
    interval = parse_interval(f"{written(first)}/{written(last)}")
    noon = dt.time(12, tzinfo=dt.UTC)
    assert dt.datetime.combine(first, noon) in interval
    assert dt.datetime.combine(last, noon) in interval
    assert interval.start is not None
    assert interval.start == dt.datetime.combine(interval.start.date(), dt.time(0), dt.UTC)
    if interval.end is not None:
        assert interval.end not in interval
        assert interval.end - dt.timedelta(microseconds=1) in interval
        after = interval.end.date()
        assert written(after) != written(last)
        assert written(after - dt.timedelta(days=1)) == written(last)


@given(st.text(alphabet="0123456789-/.:TZ+ ", max_size=24))
def test_interval_never_fails_but_with_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        interval = parse_interval(text)
        assert interval.start is None or interval.end is None or interval.start < interval.end


# Months

NOW = utc(2024, 3, 15, 12)


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        ("2023-06", []),
        ("2023-07", []),
        ("2023-06-15/2023-07-14", []),  # crosses a month's end, and is no longer than one
        ("2023-06-15/2023-07-16", [utc(2023, 7, 1)]),
        ("2023-06/2023-07", [utc(2023, 7, 1)]),
        ("2023-12-31/2024-01-31", [utc(2024, 1, 1)]),
        ("2024-01-10/..", [utc(2024, 2, 1), utc(2024, 3, 1)]),
        ("2024-03/..", []),
        ("2024-01/2030", [utc(2024, 2, 1), utc(2024, 3, 1)]),
        ("2030/2031", []),
        ("../2015-05", []),
        ("../2015-07", [utc(2015, 6, 1), utc(2015, 7, 1)]),
        ("1900/2015-07", [utc(2015, 6, 1), utc(2015, 7, 1)]),
    ],
)
def test_where_an_interval_is_split(text: str, edges: list[dt.datetime]) -> None:
    pieces = split_by_month(parse_interval(text), NOW)
    assert [piece.start for piece in pieces[1:]] == edges


@given(st.none() | _MOMENTS, st.none() | _MOMENTS, _MOMENTS, _MOMENTS)
def test_every_moment_is_in_one_piece(
    start: dt.datetime | None, end: dt.datetime | None, now: dt.datetime, moment: dt.datetime
) -> None:
    assume(start is None or end is None or start < end)
    whole = Interval(start, end)
    pieces = split_by_month(whole, now)
    assert sum(moment in piece for piece in pieces) == (moment in whole)
    assert all(piece.start is None or piece.start != piece.end for piece in pieces)
    for piece in pieces[1:-1]:
        assert piece.start is not None
        assert piece.end is not None
        assert (piece.start.day, piece.end.day) == (1, 1)
        assert piece.end - piece.start <= dt.timedelta(days=31)
