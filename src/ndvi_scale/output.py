"""What lies at an output location: nothing, a run of ours to take up, or what is not ours and stays.

One grid is one run at the location itself. With ``grid="per-zone"`` each zone is a run of its own in a group below,
and the location keeps the list of them, written when all their plans are frozen.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from ndvi_scale import ledger, write
from ndvi_scale.config import RunConfig, config_differences, extends
from ndvi_scale.errors import PlanMismatchError, StoreError
from ndvi_scale.plan import check_no_crs, zone_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ndvi_scale.plan import Plan
    from ndvi_scale.store import Store

ZONES: Final = "zones.json"
"""State object that lists the groups of zones."""

_GROUP: Final = r"(EPSG_\d+/)?"
_STATE: Final = re.compile(
    rf"zones\.json|{_GROUP}(plan\.json|(items|regions)(\.\d+)?\.parquet|ledger/\d{{8}}\.jsonl|lease/\d{{8}}\.json)"
)
_DATA: Final = re.compile(
    rf"{_GROUP}(zarr\.json|\.zgroup|\.zattrs|\.zmetadata"
    r"|(ndvi|observations|date|time|time_bnds|x|y|spatial_ref)/(zarr\.json|\.zarray|\.zattrs|c(/\d+)*|\d+(\.\d+)*))"
)
"""Every name that a run writes, in Zarr format 3 and 2."""


def begin(store: Store, config: RunConfig) -> Plan | None:
    """The plan that an output was begun with, if it is the same run; None where nothing was begun.

    Raises PlanMismatchError when the output was begun with other parameters, and StoreError when something
    that is not ours lies there.
    """
    plan = ledger.load_plan(store)
    if plan is not None:
        check_same(store, plan.config, config)
        return plan
    if zones_of(store):
        raise _mismatch(store, ('grid: "per-zone" there, "single" asked',))
    names = store.data_names() + _foreign(store.state_names(), _STATE)
    if names:
        raise StoreError(
            f"{store.url} is not empty and holds no run of ndvi-scale ({names[0]}, …): give another output"
        )
    return None


def begin_zones(root: Store, config: RunConfig, group: Callable[[str], Store]) -> dict[str, Plan]:
    """As `begin`, the plan of every zone by the name of its group; empty where nothing was begun.

    `group`: opens the store of a group. Plans that were frozen before their list was written count for nothing yet.
    """
    check_no_crs(config)
    if ledger.load_plan(root) is not None:
        raise _mismatch(root, ('grid: "single" there, "per-zone" asked',))
    plans = {}
    for name in zones_of(root):
        plan = begin(group(name), zone_config(config, name))
        if plan is None:
            raise StoreError(f"the plan of {group(name).url} is gone: use --overwrite, or give another output")
        plans[name] = plan
    names = [name for name in root.data_names() if not plans] + _foreign(root.state_names(), _STATE)
    if names:
        raise StoreError(
            f"{root.url} is not empty and holds no run of ndvi-scale ({names[0]}, …): give another output"
        )
    return plans


def freeze_zones(root: Store, plans: Mapping[str, Plan], group: Callable[[str], Store]) -> None:
    """Store the plans of all zones, then their list, and make the group that holds theirs. Raises StoreError."""
    for name, plan in plans.items():
        ledger.save_plan(group(name), plan)
    write.create_root(root, plans)
    root.put_state(ZONES, json.dumps(sorted(plans)).encode())


def zones_of(root: Store) -> list[str]:
    """Names of the groups of zones at a location; none where it has one grid, or nothing. Raises StoreError."""
    data = root.get_state(ZONES)
    try:
        return [] if data is None else [str(name) for name in json.loads(data)]
    except (ValueError, TypeError) as error:
        raise StoreError(f"the list of zones of {root.url} cannot be read ({error}): use --overwrite") from None


def check_ours(store: Store) -> None:
    """Make sure that an output and its state are a run of ours, whole or begun, and that nothing else is there.

    An empty location passes. Raises StoreError when anything is foreign.
    """
    data, state = store.data_names(), store.state_names()
    foreign = _foreign(data, _DATA) + _foreign(state, _STATE)
    marked = not data or write.MARKER in (write.read_attributes(store) or {})
    planned = not data or "plan.json" in state or ZONES in state
    if foreign or not (marked and planned):
        what = f"holds {foreign[0]!r}, which no run writes" if foreign else "bears no mark and plan of ndvi-scale"
        raise StoreError(f"{store.url} {what}: it is not deleted; give another output, or remove it by hand")


def check_same(
    store: Store, stored: RunConfig, asked: RunConfig, *, later: bool = False, other_items: bool = False
) -> None:
    """Make sure that a run was begun with these parameters, but for what may differ (`config.extends`).

    Raises PlanMismatchError.
    """
    if stored.digest() != asked.digest() and not extends(stored, asked, later=later, other_items=other_items):
        raise _mismatch(store, config_differences(stored, asked), _instead(stored, asked))


def _instead(stored: RunConfig, asked: RunConfig) -> str:
    """What takes an output from one configuration to another, if anything does."""
    if extends(stored, asked, later=False, other_items=True):
        return "--refresh or --append to take up what is found now, "
    return "--append to add the dates after the last, " if extends(stored, asked, other_items=True) else ""


def _mismatch(store: Store, differences: tuple[str, ...], instead: str = "") -> PlanMismatchError:
    return PlanMismatchError(
        f"{store.url} was made with other parameters ({'; '.join(differences)}): give {instead}the same ones to "
        "resume, another output, or --overwrite",
        differences=differences,
    )


def _foreign(names: Iterable[str], ours: re.Pattern[str]) -> list[str]:
    return [name for name in names if not ours.fullmatch(name)]
