"""Whether the pixels agree with the BOA offset that the metadata led to: dark red over clear land tells. Pure.

Red reflectance of vegetation and of most soils is below 0.1. Where DN carry the offset (−1000 is to be added),
such land has red DN above 1000; where they do not, below. Nothing is read for this and nothing is ever
flipped: the kernel counts both kinds on its way. Thresholds and the measurements behind them:
``docs/offsets.md``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ndvi_scale.kernels import DARK_DN
from ndvi_scale.sentinel2 import BOA_OFFSET_DN, baseline_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ndvi_scale.granules import Granule

Judgement = Literal["agrees", "conflict", "undecided"]

LEAST_LAND: Final = 10_000
"""Fewest clear-land pixels (1 km² at 10 m) to judge by. Of 22 windows of a real granule with as many, none that is
right had more than 3.5 % dark; with a tenth of them one had 11 %."""

FEW_DARK: Final = 0.05
"""At most so much of clear land is dark where DN carry the offset: measured 0.2 % over a real granule, 4.2 % over
its bare ground alone."""

MANY_DARK: Final = 0.20
"""At least so much is dark where DN do not carry it: measured 98 % over that granule with the offset taken off,
36 % or more on 40 of 41 dates of a block of fields, 21 % or more on all 43 of a meadow."""


@dataclass(frozen=True)
class Verdict:
    """What the pixels of a granule say of its offset."""

    item_id: str
    judgement: Judgement
    offset: int
    """The offset in use for red, in DN."""
    baseline: str
    land: int
    """Usable pixels of SCL 4 and 5."""
    dark: int
    """Those of them whose red DN is below 1000."""
    evidence: str
    """The numbers and what follows from them, in words."""


def judge(granule: Granule, land: int, dark: int) -> Verdict:
    """The verdict on a granule of whose `land` clear-land pixels `dark` have a red DN below 1000."""
    judgement, evidence = _judge(granule.red.offset, land, dark)
    return Verdict(
        item_id=granule.id,
        judgement=judgement,
        offset=granule.red.offset,
        baseline=baseline_name(granule.baseline),
        land=land,
        dark=dark,
        evidence=evidence,
    )


def _judge(offset: int, land: int, dark: int) -> tuple[Judgement, str]:
    if land < LEAST_LAND:
        return "undecided", f"{land:,} clear-land pixels (SCL 4, 5), fewer than {LEAST_LAND:,}: too few to judge"
    share = dark / land
    counted = f"{share:.1%} of {land:,} clear-land pixels have red DN below {DARK_DN}"
    if offset == BOA_OFFSET_DN:
        return _judge_carried(share, counted)
    if offset == 0:
        return _judge_absent(share, counted)
    return "undecided", f"{counted}: that tells 0 from {BOA_OFFSET_DN}, but nothing of {offset} DN"


def _judge_carried(share: float, counted: str) -> tuple[Judgement, str]:
    """The offset is −1000, so DN carry 1000 more than reflectance."""
    if share >= MANY_DARK:
        return "conflict", (
            f"{counted}, negative with an offset of {BOA_OFFSET_DN}; at most {FEW_DARK:.0%} are where DN carry the "
            "offset: it looks taken off already"
        )
    if share <= FEW_DARK:
        return "agrees", f"{counted}: few, as where DN carry the offset (bright bare ground looks so in any case)"
    return "undecided", f"{counted}: more than {FEW_DARK:.0%} and less than {MANY_DARK:.0%} tell nothing"


def _judge_absent(share: float, counted: str) -> tuple[Judgement, str]:
    """The offset is 0, so DN are reflectance."""
    if share >= MANY_DARK:
        return "agrees", f"{counted}: so many are only where DN do not carry the offset"
    return "undecided", f"{counted}: bright bare ground, or DN that still carry the offset; red cannot tell which"


class LandTally:
    """Clear-land pixels of each granule, summed as its regions come in."""

    def __init__(self, granules: Iterable[Granule]) -> None:
        self._granules = {granule.id: granule for granule in granules}
        self._land: Counter[str] = Counter()
        self._dark: Counter[str] = Counter()

    def add(self, counters: Mapping[str, Mapping[str, int]]) -> None:
        """Add a region's counters by granule id."""
        for item_id, counts in counters.items():
            self._land[item_id] += counts["land"]
            self._dark[item_id] += counts["land_dark"]

    def verdicts(self, item_ids: Iterable[str] | None = None) -> tuple[Verdict, ...]:
        """Verdicts on these granules; by default on all that any region saw, in the order of the plan."""
        wanted = self._granules if item_ids is None else item_ids
        return tuple(
            judge(self._granules[item_id], self._land[item_id], self._dark[item_id])
            for item_id in wanted
            if item_id in self._land
        )


def conflicts(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Those that contradict the metadata."""
    return tuple(verdict for verdict in verdicts if verdict.judgement == "conflict")


def summary(verdicts: Iterable[Verdict]) -> dict[str, object]:
    """How many of each judgement, and the evidence of every conflict by item: for the output's attributes."""
    verdicts = tuple(verdicts)
    counted = Counter(verdict.judgement for verdict in verdicts)
    return {
        "agrees": counted["agrees"],
        "undecided": counted["undecided"],
        "conflict": {verdict.item_id: verdict.evidence for verdict in conflicts(verdicts)},
    }
