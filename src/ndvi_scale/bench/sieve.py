"""Which rows may be used, and why the others may not: nothing is left out without a reason.

A row counts where it finished, on as many workers as were asked for, in the one environment that the report is of,
with the same output as the rows that compute the same.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Final

from ndvi_scale.bench.rows import ALONE
from ndvi_scale.bench.wording import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ndvi_scale.bench.rows import Environment, Measured, Row

OTHER_CONDITIONS: Final = (
    "measured under other conditions than the newest rows (delay or rate of the source, address of the store, or "
    "profile of the cluster): measure again with the table as it is"
)

_SHOWN: Final = 12
"""Digits of a digest that tell it from others."""


@dataclass(frozen=True)
class Omitted:
    """A row that is not used."""

    row: Row
    reason: str


@dataclass(frozen=True)
class Sifted:
    """Rows that may be used, and the rest."""

    used: tuple[Row, ...]
    omitted: tuple[Omitted, ...]
    environment: Environment | None
    """What all used rows were measured in; None where no row can be used."""
    problems: tuple[str, ...]

    @property
    def reasons(self) -> dict[Row, str]:
        """Row → why it is not used."""
        return {one.row: one.reason for one in self.omitted}


def sift(measured: Measured, here: str = "") -> Sifted:
    """Rows by whether they may be used. Those of the environment `here` are, where there are any."""
    sieve = _Sieve(sorted(measured.rows, key=lambda row: row.order))
    sieve.drop(lambda row: _unknown(row, measured.environments))
    environment = _main_environment(sieve.rows, measured.environments, here)
    others = sorted({row.environment for row in sieve.rows if environment and row.environment != environment.id})
    sieve.drop(lambda row: _elsewhere(row, environment, measured.environments))
    newest = _newest_conditions(sieve.rows)
    sieve.drop(lambda row: "" if row.conditions == newest[_place(row)] else OTHER_CONDITIONS)
    sieve.drop(_unfinished)
    verdicts, unchecked = _digest_verdicts(sieve.rows)
    sieve.drop(lambda row: verdicts.get(row, ""))
    sieve.drop(_short_of_workers)
    problems = list(measured.problems)
    if others and environment:
        problems.append(_mixed(others, environment, sieve.omitted))
    problems += [f"{study}: no digest, so nothing says that all computed the same" for study in unchecked]
    return Sifted(tuple(sieve.rows), tuple(sieve.omitted), environment, tuple(problems))


class _Sieve:
    """Rows that are still in, and those that fell out."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.omitted: list[Omitted] = []

    def drop(self, why: Callable[[Row], str]) -> None:
        """Leave out the rows for which there is a reason."""
        reasons = [(row, why(row)) for row in self.rows]
        self.rows = [row for row, reason in reasons if not reason]
        self.omitted += [Omitted(row, reason) for row, reason in reasons if reason]


def _unknown(row: Row, environments: dict[str, Environment]) -> str:
    if row.environment in environments:
        return ""
    return f"environment {row.environment!r} is not in the file: nobody can say where this was measured"


def _main_environment(rows: Sequence[Row], environments: dict[str, Environment], here: str) -> Environment | None:
    """The one that is wished for, else the one that most rows name; of several, the newest."""
    counts = Counter(row.environment for row in rows)
    if not counts:
        return None
    name = max(counts, key=lambda one: (one == here, counts[one], environments[one].date, one))
    return environments[name]


def _elsewhere(row: Row, kept: Environment | None, environments: dict[str, Environment]) -> str:
    if kept is None or row.environment == kept.id:
        return ""
    return f"measured in another environment: {differences(environments[row.environment], kept)}"


def differences(other: Environment, kept: Environment) -> str:
    """In what two environments differ, for a person."""
    found = [] if other.machine == kept.machine else [f"{other.machine} instead of {kept.machine}"]
    if not found and (other.host, other.cores, other.memory) != (kept.host, kept.cores, kept.memory):
        found.append("another machine of the same kind")
    for name in sorted(other.versions.keys() | kept.versions.keys()):
        mine, theirs = (one.versions.get(name, "none") for one in (kept, other))
        if mine != theirs:
            found.append(f"{name} {theirs} instead of {mine}")
    return ", ".join(found) or "its id is another"


def _mixed(others: Sequence[str], kept: Environment, omitted: Iterable[Omitted]) -> str:
    count = sum(one.row.environment in others for one in omitted)
    return (
        f"the file mixes machines or versions: those of {kept.machine} ({moment(kept.date)}) are used, and {count} "
        f"row{'s' * (count != 1)} of {len(others)} other environment{'s' * (len(others) != 1)} left out; "
        "measure each into a file of its own"
    )


def _place(row: Row) -> tuple[object, ...]:
    """Rows that are alike in this have the same conditions in one table."""
    return row.cell.cluster, row.cell.store, row.cell.source, row.cell.emulated


def _newest_conditions(rows: Iterable[Row]) -> dict[tuple[object, ...], str]:
    return {_place(row): row.conditions for row in sorted(rows, key=lambda row: (row.began, row.order))}


def _unfinished(row: Row) -> str:
    if row.status == "failed":
        return row.reason or "failed, and no reason was noted"
    if row.status not in {"ok", "degraded"}:
        return f"status {row.status!r} is none of ok, degraded, failed"
    if row.wall is None or not (math.isfinite(row.wall) and row.wall > 0):
        return row.reason or "no time was noted"
    return ""


def _short_of_workers(row: Row) -> str:
    came = f"{row.arrived} of {row.cell.workers} workers arrived"
    if row.status == "degraded":
        return f"degraded: {row.reason or came}"
    if row.arrived != row.cell.workers and row.cell.stage not in ALONE:
        return f"degraded: {came}"
    return ""


def _same_work(row: Row) -> tuple[object, ...]:
    """Rows that are alike in this compute the same, on whatever cluster and into whatever store."""
    alike = replace(row.cell, cluster="", workers=1, threads=1, store="", seconds=None, repeat=0)
    return astuple(alike)


def _digest_verdicts(rows: Sequence[Row]) -> tuple[dict[Row, str], list[str]]:
    """Row → why its output is wrong; studies in which no output can be compared."""
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[_same_work(row)].append(row)
    verdicts: dict[Row, str] = {}
    unchecked: set[str] = set()
    for group in groups.values():
        counts = Counter(row.digest for row in group if row.digest)
        if counts:
            verdicts |= {row: _verdict(row, counts) for row in group}
        elif group[0].cell.stage == "full":
            unchecked.add(group[0].cell.study)
    return verdicts, sorted(unchecked)


def _verdict(row: Row, counts: Counter[str]) -> str:
    """Why a row's output is not that of most: empty where it is."""
    (most, count), total = counts.most_common(1)[0], counts.total()
    if not row.digest:
        return "no digest of its output, while rows that compute the same have one"
    if 2 * count <= total:
        return (
            f"outputs differ among the {total} rows that compute the same, and none has a majority: "
            f"this one's digest is {row.digest[:_SHOWN]}"
        )
    if row.digest == most:
        return ""
    return (
        f"output differs: its digest is {row.digest[:_SHOWN]}, where {count} of {total} rows that compute the same "
        f"have {most[:_SHOWN]}"
    )
