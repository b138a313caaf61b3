"""Calendar periods: what they are, against pandas where it has the same notion, and what is refused."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ndvi_scale.errors import ConfigError
from ndvi_scale.periods import (
    MOST_DAYS,
    PERIODS,
    Period,
    parse_period,
    partial_periods,
    period_index,
    period_label,
    periods_of,
)
from stac import says

ONE = dt.timedelta(days=1)
DAYS = st.dates(dt.date(2014, 12, 1), dt.date(2031, 1, 31))
SEVERAL = st.lists(DAYS, min_size=1, max_size=30)
COUNTS = st.integers(1, 400).map(lambda number: f"{number}d")
RULES = st.sampled_from(PERIODS) | COUNTS
PANDAS = {"month": "MS", "season": "QS-DEC", "year": "YS"}


def day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


def span_of(first: str, last: str) -> tuple[dt.date, dt.date]:
    return day(first), day(last) + ONE


def labels(periods: tuple[Period, ...], rule: str) -> list[str]:
    return [period_label(period, rule) for period in periods]


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((name, name) for name in PERIODS),
        (" Month ", "month"),
        ("DEKAD", "dekad"),
        ("16d", "16d"),
        ("016D", "16d"),
        ("1d", "1d"),
        (f"{MOST_DAYS}d", f"{MOST_DAYS}d"),
    ],
)
def test_a_name_in_its_one_form(text: str, name: str) -> None:
    assert parse_period(text) == name
    assert parse_period(name) == name


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("0d", "whole, from 1d to 3660d"),
        ("-3d", "whole, from 1d to 3660d"),
        ("1.5d", "whole, from 1d to 3660d"),
        ("3661d", "whole, from 1d to 3660d"),
        ("9" * 5000 + "d", "whole, from 1d to 3660d"),
        ("10 days", "whole, from 1d to 3660d"),
        ("monthly", "did you mean 'month'?"),
        ("decade", "did you mean 'dekad'?"),
        ("dekads", "days 1-10, 11-20, 21"),
        ("seasons", "did you mean 'season'?"),
        ("weekly", "a number of days such as 16d"),
        ("", "give month, dekad"),
        ("10", "a number of days such as 16d"),
        ("²d", "is unknown"),
        ("d", "is unknown"),
    ],
)
def test_a_name_refused(text: str, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_period(text)
    says(caught, f"period {text!r}", rule, "ive", "16d")


@given(st.text(max_size=12) | st.text(alphabet="0123456789d.+- ", max_size=8))
def test_a_name_is_read_or_refused_never_more(text: str) -> None:
    with contextlib.suppress(ConfigError):
        name = parse_period(text)
        assert name in PERIODS or 0 < int(name.removesuffix("d")) <= MOST_DAYS


# What they are


def test_months_from_end_to_end_of_the_range_also_without_days() -> None:
    june = periods_of([day("2023-06-11")], "month", span_of("2023-04-01", "2023-07-31"))
    assert labels(june, "month") == ["2023-04", "2023-05", "2023-06", "2023-07"]


def test_open_ends_go_to_the_days() -> None:
    days = [day("2023-06-30"), day("2023-03-02"), day("2023-06-01")]
    assert labels(periods_of(days, "month"), "month") == ["2023-03", "2023-04", "2023-05", "2023-06"]
    assert labels(periods_of(days, "month", (day("2023-02-10"), None)), "month")[0] == "2023-02"
    assert labels(periods_of(days, "month", (None, day("2023-08-01"))), "month")[-1] == "2023-07"


@pytest.mark.parametrize(
    ("rule", "first", "last", "label"),
    [
        ("dekad", "2024-02-01", "2024-02-10", "2024-02 dekad 1"),
        ("dekad", "2024-02-11", "2024-02-20", "2024-02 dekad 2"),
        ("dekad", "2024-02-21", "2024-02-29", "2024-02 dekad 3"),
        ("dekad", "2023-02-21", "2023-02-28", "2023-02 dekad 3"),
        ("dekad", "2023-12-21", "2023-12-31", "2023-12 dekad 3"),
        ("month", "2024-02-01", "2024-02-29", "2024-02"),
        ("month", "2023-12-01", "2023-12-31", "2023-12"),
        ("season", "2023-12-01", "2024-02-29", "2023/24 DJF"),
        ("season", "1999-12-01", "2000-02-29", "1999/00 DJF"),
        ("season", "2023-03-01", "2023-05-31", "2023 MAM"),
        ("season", "2023-06-01", "2023-08-31", "2023 JJA"),
        ("season", "2023-09-01", "2023-11-30", "2023 SON"),
        ("year", "2024-01-01", "2024-12-31", "2024"),
    ],
)
def test_a_period_and_its_label(rule: str, first: str, last: str, label: str) -> None:
    whole = Period(*span_of(first, last))
    for inside in (day(first), day(last), day(first) + (day(last) - day(first)) // 2):
        assert periods_of([inside], rule) == (whole,)
    assert period_label(whole, rule) == label
    assert day(first) - ONE not in whole
    assert day(last) + ONE not in whole


@pytest.mark.parametrize("year", [2023, 2024, 2000, 1900])
def test_a_year_has_36_dekads(year: int) -> None:
    dekads = periods_of([], "dekad", (dt.date(year, 1, 1), dt.date(year + 1, 1, 1)))
    assert len(dekads) == 36
    assert Counter(period.start.day for period in dekads) == {1: 12, 11: 12, 21: 12}
    assert sum((period.end - period.start).days for period in dekads) == 365 + (year in {2024, 2000})
    assert period_index(dekads, dt.date(year, 3, 1) - ONE) == 5  # the last of February: the sixth of the year


def test_a_number_of_days_counts_from_the_first_day_asked_for() -> None:
    days = [day("2023-06-09"), day("2023-06-30")]
    asked = periods_of(days, "16d", span_of("2023-06-01", "2023-06-30"))
    assert labels(asked, "16d") == ["2023-06-01..2023-06-16", "2023-06-17..2023-07-02"]
    assert labels(periods_of(days, "16d"), "16d") == ["2023-06-09..2023-06-24", "2023-06-25..2023-07-10"]
    assert labels(periods_of([days[0]], "1d"), "1d") == ["2023-06-09"]


def test_all_is_the_range_or_the_days() -> None:
    days = [day("2023-06-09"), day("2023-06-30")]
    (asked,) = periods_of(days, "all", span_of("2023-01-01", "2023-12-31"))
    assert period_label(asked, "all") == "2023-01-01..2023-12-31"
    assert labels(periods_of(days, "all"), "all") == ["2023-06-09..2023-06-30"]


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        ("month", "2023-05", "2023-07"),
        ("dekad", "2023-05 dekad 3", "2023-07 dekad 1"),
        ("10d", "2023-05-22..2023-05-31", "2023-07-01..2023-07-10"),
        ("7d", "2023-05-25..2023-05-31", "2023-06-29..2023-07-05"),
    ],
)
def test_a_solar_day_beside_the_range_has_its_period(rule: str, before: str, after: str) -> None:
    """UTC 2023-06-01 is 31 May in the far west; UTC 2023-06-30 is 1 July in the far east."""
    span, west, east = span_of("2023-06-01", "2023-06-30"), day("2023-05-31"), day("2023-07-01")
    periods = periods_of([west, east], rule, span)
    assert period_label(periods[period_index(periods, west)], rule) == before
    assert period_label(periods[period_index(periods, east)], rule) == after
    (whole,) = periods_of([west, east], "all", span)
    assert (whole.start, whole.end) == (west, east + ONE)


# Laws


@given(SEVERAL, RULES)
def test_periods_follow_one_another_and_every_day_is_in_one(days: list[dt.date], rule: str) -> None:
    periods = periods_of(days, rule)
    assert list(periods) == sorted(periods)
    assert all(one.end == following.start for one, following in pairwise(periods))
    assert min(days) in periods[0]
    assert max(days) in periods[-1]
    for one in days:
        assert [one in period for period in periods].count(True) == 1
        assert one in periods[period_index(periods, one)]
    assert len(set(labels(periods, rule))) == len(periods)


@given(SEVERAL, DAYS, DAYS, RULES)
def test_a_range_is_covered_from_end_to_end(days: list[dt.date], first: dt.date, last: dt.date, rule: str) -> None:
    assume(first <= last)
    with contextlib.suppress(ConfigError):
        periods = periods_of(days, rule, (first, last + ONE))
        assert periods[0].start <= min(*days, first) < periods[0].end
        assert periods[-1].start <= max(*days, last) < periods[-1].end
        assert all(one.end == following.start for one, following in pairwise(periods))
        if rule[0].isdigit():
            assert all((period.start - first).days % int(rule[:-1]) == 0 for period in periods)


@given(SEVERAL, st.sampled_from(sorted(PANDAS)))
def test_pandas_cuts_at_the_same_days(days: list[dt.date], rule: str) -> None:
    periods = periods_of(days, rule)
    edges = pd.date_range(periods[0].start, periods[-1].end, freq=PANDAS[rule])
    assert [edge.date() for edge in edges] == [period.start for period in periods] + [periods[-1].end]
    counts = pd.Series(1, pd.DatetimeIndex(sorted(days))).resample(PANDAS[rule]).sum()
    found = Counter(period_index(periods, one) for one in days)
    assert counts.tolist() == [found[index] for index in range(len(periods))]


@given(SEVERAL, st.integers(1, 400))
def test_pandas_counts_days_alike(days: list[dt.date], length: int) -> None:
    periods = periods_of(days, f"{length}d")
    edges = pd.date_range(min(days), periods=len(periods) + 1, freq=f"{length}D")
    assert [edge.date() for edge in edges] == [period.start for period in periods] + [periods[-1].end]


@pytest.mark.slow
@given(SEVERAL, DAYS, RULES)
def test_a_day_that_no_period_holds_has_no_index(days: list[dt.date], other: dt.date, rule: str) -> None:
    periods = periods_of(days, rule)
    assume(not periods[0].start <= other < periods[-1].end)
    with pytest.raises(ValueError, match=f"{other} lies in none"):
        period_index(periods, other)


# What is in part, and what is refused


def test_periods_that_the_range_has_only_in_part() -> None:
    span = span_of("2023-05-10", "2023-07-31")
    months = periods_of([], "month", span)
    assert labels(partial_periods(months, span), "month") == ["2023-05"]
    assert partial_periods(months, (None, None)) == ()
    assert partial_periods(months, (day("2023-05-01"), None)) == ()
    assert labels(partial_periods(months, (None, day("2023-07-31"))), "month") == ["2023-07"]
    sixteens = periods_of([], "16d", span_of("2023-06-01", "2023-06-30"))
    assert partial_periods(sixteens, span_of("2023-06-01", "2023-06-30")) == sixteens[1:]


@pytest.mark.parametrize(
    ("rule", "first", "last", "whole"),
    [
        ("month", "2023-06-02", "2023-06-30", "2023-06-01 to 2023-06-30"),
        ("month", "2023-06-01", "2023-06-29", "2023-06-01 to 2023-06-30"),
        ("dekad", "2023-06-12", "2023-06-12", "2023-06-11 to 2023-06-20"),
        ("season", "2024-01-01", "2024-02-29", "2023-12-01 to 2024-02-29"),
        ("year", "2023-03-01", "2023-11-30", "2023-01-01 to 2023-12-31"),
        ("31d", "2023-06-01", "2023-06-30", "2023-06-01 to 2023-07-01"),
    ],
)
def test_a_period_longer_than_the_range_is_refused(rule: str, first: str, last: str, whole: str) -> None:
    with pytest.raises(ConfigError) as caught:
        periods_of([day(first)], rule, span_of(first, last))
    says(caught, repr(rule), f"longer than the range {first} to {last}", whole, "Give all for one layer")
    assert len(periods_of([day(first)], "all", span_of(first, last))) == 1


@pytest.mark.parametrize(
    ("rule", "first", "last"),
    [
        ("month", "2023-06-01", "2023-06-30"),
        ("month", "2023-06-30", "2023-07-01"),
        ("30d", "2023-06-01", "2023-06-30"),
        ("year", "2023-01-01", "2023-12-31"),
    ],
)
def test_a_range_that_fills_a_period_or_crosses_its_end_is_not(rule: str, first: str, last: str) -> None:
    assert periods_of([], rule, span_of(first, last))


@pytest.mark.parametrize(
    ("rule", "first", "last"),
    [
        ("season", "0001-01-01", "0001-12-31"),
        ("month", "9999-11-01", "9999-12-15"),
        ("dekad", "9999-11-01", "9999-12-25"),
        ("16d", "9999-11-01", "9999-12-25"),
    ],
)
def test_a_calendar_ends(rule: str, first: str, last: str) -> None:
    with pytest.raises(ConfigError) as caught:
        periods_of([], rule, span_of(first, last))
    says(caught, repr(rule), first, last, "years 1 to 9999", "Narrow datetime")


def test_all_ends_with_the_calendar_too() -> None:
    with pytest.raises(ConfigError, match="years 1 to 9999"):
        periods_of([dt.date.max], "all")


def test_nothing_to_go_from_or_to() -> None:
    with pytest.raises(ValueError, match="open end"):
        periods_of([], "month", (day("2023-06-01"), None))
    with pytest.raises(ValueError, match="holds no day"):
        periods_of([day("2023-06-01")], "month", (day("2023-06-01"), day("2023-06-01")))
    with pytest.raises(ValueError, match="holds no day"):
        Period(day("2023-06-02"), day("2023-06-01"))
