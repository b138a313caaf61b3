"""A run goes on with what a new search finds: items processed again, and dates after the last.

The plan of an output is replaced by one that descends from it. What both say of a region is computed already; the
rest is what the next run does. Nothing is computed here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale import axis, ledger, output
from ndvi_scale.errors import ConfigError, PlanMismatchError, StoreError
from ndvi_scale.lattice import Region
from ndvi_scale.periods import period_index
from ndvi_scale.plan import Plan, in_order, layers_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Sequence

    from ndvi_scale.config import RunConfig
    from ndvi_scale.granules import Granule
    from ndvi_scale.periods import Period
    from ndvi_scale.store import Store

SHOWN: Final = 5
"""Items or dates that a line names; the others are counted."""


@dataclass(frozen=True)
class Wish:
    """Which of the changes that a search finds are wanted."""

    refresh: bool = False
    """Other items of dates that are there."""
    append: bool = False
    """Dates after the last."""
    rebuild_axis: bool = False
    """Also where layers that are there get other places, and are computed again."""

    def __post_init__(self) -> None:
        """Refuse what means nothing. Raises ConfigError."""
        if self.rebuild_axis and not self:
            raise ConfigError("--rebuild-axis alone changes nothing: give it with --append or --refresh")

    def __bool__(self) -> bool:
        """Whether any is wanted."""
        return self.refresh or self.append


@dataclass(frozen=True)
class Changes:
    """How a search differs from the plan of an output, and what becomes of it."""

    after: tuple[dt.date, ...]
    """Dates after the last."""
    between: tuple[dt.date, ...]
    """Dates before the last that the output has not."""
    gone: tuple[dt.date, ...]
    """Dates of the output without an item now."""
    again: tuple[tuple[str, str], ...]
    """Ids of items and of what stands for the same acquisition now."""
    joined: tuple[str, ...]
    """Ids of items that have come to dates that are there."""
    withdrawn: tuple[str, ...]
    """Ids of items of the output that are found no more."""
    left: tuple[dt.date, ...] = ()
    """Of those before the last, what the output does not get."""
    redone: int = 0
    """Regions to compute again."""
    added: int = 0
    """Regions that there were not."""
    removed: int = 0
    """Regions that no item touches any more."""
    changed: bool = False
    """Whether the output has got a new plan."""


def renew(store: Store, config: RunConfig, search: Callable[[], Plan], wish: Wish) -> tuple[Plan, Changes]:
    """Replace the plan of an output by one that says what `search` finds now, as far as that is wished for.

    The next run computes what differs. Where nothing does, the plan stays. Raises PlanMismatchError where the
    output was made with other parameters than a wish can bridge, or where layers would have to move and may not;
    StoreError where there is no run, or another driver is at work.
    """
    old = ledger.load_plan(store)
    if old is None:
        output.begin(store, config)  # says what lies there, if it is not ours
        raise StoreError(f"{store.url} holds no run yet: leave --append and --refresh out to begin one")
    output.check_same(store, old.config, config, later=wish.append, other_items=True)
    plan, changes = renewed(old, search(), wish)
    if not changes.changed:
        return old, changes
    if len(plan.layers) > len(old.layers) and not (wish.rebuild_axis or axis.grows_unseen(store)):
        raise StoreError(
            f"{store.url} keeps its times in a chunk that cannot grow while it is read, as the first versions made "
            "them: give --rebuild-axis as well, at a time when nobody reads it"
        )
    ledger.replace_plan(store, old, plan)
    return plan, changes


def renewed(old: Plan, new: Plan, wish: Wish) -> tuple[Plan, Changes]:
    """The plan that descends from `old` and says what `new` does as far as is wished for, and the difference.

    Raises PlanMismatchError.
    """
    if new.lattice != old.lattice:
        raise PlanMismatchError(
            f"what is found now makes another grid ({_grid(new)} in place of {_grid(old)}): name the region "
            "(--bbox, --aoi) and the grid (--crs) that the output has, or give another output",
            differences=("grid",),
        )
    changes = _compared(old, new)
    kept, taken = _days(old, changes, wish)
    changes = replace(changes, left=tuple(day for day in changes.between if day not in taken))
    layers = layers_of(kept | taken, new.config) if wish.append else layers_of(kept | taken, old.config)
    _check_axis(old.layers, layers, wish)
    plan = _merged(old, new, (kept, taken), layers)
    if replace(plan, dropped=old.dropped) == old.as_first():
        return old, changes
    since = _since(old, plan)
    number = len(old.ancestors) + 1
    fresh = [region for region, revision in since.items() if revision == number]
    redone = sum(region in old.index for region in fresh)
    return replace(plan, ancestors=(*old.ancestors, old.id), since=since), replace(
        changes,
        redone=redone,
        added=len(fresh) - redone,
        removed=sum(region not in plan.index for region in old.index),
        changed=True,
    )


def _grid(plan: Plan) -> str:
    geobox = plan.lattice.geobox
    left, top = geobox.affine.c, geobox.affine.f
    return f"{geobox.shape.x} x {geobox.shape.y} pixels from {left:.0f}, {top:.0f} in {geobox.crs}"


def _days(old: Plan, changes: Changes, wish: Wish) -> tuple[set[dt.date], set[dt.date]]:
    """Solar days that stay as the old plan has them, and those that are as they are found now."""
    daily = old.config.period is None
    if daily and wish.append and changes.between and not wish.rebuild_axis:
        raise PlanMismatchError(
            f"{_named(changes.between)} would come before dates that are there, which would have to move: give "
            "--rebuild-axis to compute again what comes after, or narrow what is searched",
            differences=("dates",),
        )
    before = set(old.granule_days)
    kept, taken = set(before), set(changes.after) if wish.append else set()
    if wish.refresh:
        kept.clear()
        taken |= before - set(changes.gone)
    if wish.rebuild_axis or (wish.refresh and not daily):
        taken |= set(changes.between)
    return kept, taken


def _check_axis(old: Sequence[Period], new: Sequence[Period], wish: Wish) -> None:
    """Refuse to move layers unasked. Raises PlanMismatchError."""
    if wish.rebuild_axis:
        return
    for before, now in zip_longest(old, new[: len(old)]):
        if now is None or before.start != now.start:
            raise PlanMismatchError(
                f"no item of {before.start} is found any more, or its layer would move: give --rebuild-axis to "
                "compute again what comes from there on, or leave --refresh out to keep it",
                differences=("dates",),
            )


def _merged(old: Plan, new: Plan, days: tuple[set[dt.date], set[dt.date]], layers: tuple[Period, ...]) -> Plan:
    """The granules of some days of one plan and of others of another."""
    sources = tuple(zip((old, new), days, strict=True))
    picked = sorted(
        (plan.granules[row].order, number, row)
        for number, (plan, wanted) in enumerate(sources)
        for row, day in enumerate(plan.granule_days)
        if day in wanted
    )
    place = {(number, row): position for position, (_, number, row) in enumerate(picked)}
    rows: dict[Region, list[int]] = defaultdict(list)
    for number, (plan, wanted) in enumerate(sources):
        layer_of = {day: period_index(layers, day) for day in wanted}
        for region, touching in plan.index.items():
            for row in touching:
                if (number, row) in place:
                    layer = layer_of[plan.granule_days[row]]
                    rows[Region(layer, region.iy, region.ix)].append(place[number, row])
    granules = [(sources[number][0], sources[number][0].granules[row]) for _, number, row in picked]
    return Plan(
        config=new.config,
        lattice=old.lattice,
        layers=layers,
        granules=tuple(granule for _, granule in granules),
        index=in_order(rows),
        dropped=new.dropped,
        spares={granule.id: plan.spares[granule.id] for plan, granule in granules if granule.id in plan.spares},
    )


def _since(old: Plan, new: Plan) -> dict[Region, int]:
    """`Plan.since` of a plan that comes after another."""
    numbers: dict[Any, int] = {}
    before, now = (
        [numbers.setdefault(_fixing(plan, granule), len(numbers)) for granule in plan.granules]
        for plan in (old, new)
    )
    since = {}
    for region, rows in new.index.items():
        known = old.index.get(region)
        if known is None or [before[row] for row in known] != [now[row] for row in rows]:
            since[region] = len(old.ancestors) + 1
        elif region in old.since:
            since[region] = old.since[region]
    return since


def _fixing(plan: Plan, granule: Granule) -> tuple[Any, ...]:
    """What a granule gives to pixels: its own files, and those that may stand in for it."""
    return _own(granule), tuple(map(_own, plan.spares.get(granule.id, ())))


def _own(granule: Granule) -> tuple[Any, ...]:
    files = tuple((a.href, a.offset, a.overview, a.geobox) for a in granule.assets.values())
    return granule.id, granule.time, granule.baseline, granule.generation, files


def _compared(old: Plan, new: Plan) -> Changes:
    before, now = set(old.granule_days), set(new.granule_days)
    last = max(before)
    lost, found = _different(old, new, before), _different(new, old, before)
    again = []
    for key in [key for key in lost if key in found]:
        again += zip(lost.pop(key), found.pop(key), strict=False)
    return Changes(
        after=tuple(sorted(day for day in now if day > last)),
        between=tuple(sorted(day for day in now - before if day < last)),
        gone=tuple(sorted(before - now)),
        again=tuple(again),
        joined=tuple(name for names in found.values() for name in names),
        withdrawn=tuple(name for names in lost.values() for name in names),
    )


def _different(plan: Plan, other: Plan, days: set[dt.date]) -> dict[tuple[str, str], list[str]]:
    """Acquisition → ids of what one plan has of it on some days, and another one has not just so."""
    known = {_fixing(other, granule) for granule in other.granules}
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for granule, day in zip(plan.granules, plan.granule_days, strict=True):
        if day in days and _fixing(plan, granule) not in known:
            found[granule.tile, granule.datatake or granule.id].append(granule.id)
    return found


def lines(changes: Changes, wish: Wish) -> list[str]:
    """What is to be said of changes, a line each."""
    told = [
        (
            f"Processed again: {_named([f'{was} → {now}' if was != now else now for was, now in changes.again])}",
            changes.again,
            wish.refresh,
        ),
        (f"Joined dates that are there: {_named(changes.joined)}", changes.joined, wish.refresh),
        (f"Found no more: {_named(changes.withdrawn)}", changes.withdrawn, wish.refresh),
    ]
    said = [
        line if taken else f"{line}. They are left as they are; --refresh takes them up"
        for line, any_, taken in told
        if any_
    ]
    if changes.after:
        left = "" if wish.append else ". They are left out; --append takes them up"
        said.append(f"New dates: {_named(changes.after)}{left}")
    if changes.between:
        left = f". Left out: {_named(changes.left)}; --rebuild-axis takes them up" if changes.left else ""
        said.append(f"New among the dates that are there: {_named(changes.between)}{left}")
    if not changes.changed:
        return [*said, "Nothing is to be changed."]
    return [
        *said,
        f"Regions: {changes.redone} to compute again, {changes.added} new, {changes.removed} removed.",
    ]


def _named(things: Iterable[object]) -> str:
    names = [str(thing) for thing in things]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
