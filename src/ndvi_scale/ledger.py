"""What is done: the plan and the finished regions of a run, beside its store. Only the driver writes here.

Records go into numbered segments, JSON lines, each created only if absent and never changed. A region
counts as done when its record is in a segment, and a record is written only after the region's objects are.
Losing the last, unwritten records to a kill costs computing those regions again, which writes the same bytes.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale import lease
from ndvi_scale.errors import ConfigError, StoreError
from ndvi_scale.lattice import Region, in_strips
from ndvi_scale.planfile import PLAN, decode_plan, encode_plan, table_names
from ndvi_scale.readers import Traffic
from ndvi_scale.region import DayCounts, RegionRecord

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from ndvi_scale.lease import Lease
    from ndvi_scale.plan import Plan
    from ndvi_scale.store import Store

logger = logging.getLogger(__name__)

FOLDER: Final = "ledger/"
FLUSH_RECORDS: Final = 256
"""Records a segment holds at most: a segment is one PUT, and a lost one at most this much work."""
COMPACT_SEGMENTS: Final = 64
"""Segments that are left as they are when a run is taken up; of more, one is made: each costs a request to read."""
FLUSH_SECONDS: Final = 2.0
"""Or this long, whichever comes first: a killed run repeats about two seconds of work."""


def save_plan(store: Store, plan: Plan) -> None:
    """Freeze the plan beside the store, `plan.json` last; replaces nothing. Raises StoreError for another one."""
    for name, data in encode_plan(plan).items():
        if not store.put_state(name, data, create=True):
            raise StoreError(
                f"{store.url} has got a plan from another run meanwhile: give another output, or --overwrite"
            )


def load_plan(store: Store) -> Plan | None:
    """The frozen plan of a store, or None where there is none. Raises StoreError if it is damaged."""
    head = store.get_state(PLAN)
    if head is None:
        return None
    try:
        tables = {name: store.get_state(name) or b"" for name in table_names(head)}
        return decode_plan({PLAN: head, **tables})
    except (KeyError, ValueError, TypeError, OSError, ConfigError) as error:
        raise StoreError(f"the plan of {store.url} cannot be read ({error}): use --overwrite") from None


def replace_plan(store: Store, old: Plan, new: Plan) -> None:
    """Put a plan in the place of the one that it descends from; its driver is to run next.

    The tables come first, under names of their own, and `plan.json` last: whatever happens between, the output has
    one plan, and it is whole. Raises StoreError where another driver is at work, or the plan is not `old` any more.
    """
    with lease.hold(store) as held:
        kept = store.get_state(PLAN)
        if load_plan(store) != old or kept is None:
            raise StoreError(f"{store.url} has got another plan meanwhile: run again")
        files = encode_plan(new)
        head = files.pop(PLAN)
        for name, data in files.items():
            store.put_state(name, data)
        held.check()
        store.put_state(PLAN, head)
        # Whoever has just read the head before may be reading its tables still.
        used = {PLAN, *files, *table_names(kept)}
        store.delete_state([name for name in store.state_names() if "/" not in name and name not in used])


def finished(store: Store, plan: Plan) -> dict[Region, RegionRecord]:
    """Records of the finished regions of a plan.

    Those of a plan that it took the place of count where both say the same of the region. Others do not, and
    neither do lines that cannot be read: their regions are computed again, and a warning says so.
    """
    done: dict[Region, RegionRecord] = {}
    for name in store.state_names(FOLDER):
        data = store.get_state(name)
        if data is None:  # compacted after it was listed
            return finished(store, plan)
        for line in data.splitlines():
            try:
                values = json.loads(line)
                region, revision = Region(*values["region"]), plan.revisions.get(values["plan"])
                if revision is None or region not in plan.index:
                    continue
                record = None if values.get("void") else _decode(values)
            except (ValueError, KeyError, TypeError):
                logger.warning("segment %s of %s is damaged: its regions are computed again", name, store.url)
                continue
            if record is None:
                done.pop(region, None)
            elif revision >= plan.since.get(region, 0):
                done[region] = record
    return done


def forget(store: Store, plan_id: str, regions: Iterable[Region]) -> None:
    """Note that regions are no longer done, so that the next run computes them again. Raises StoreError.

    Nothing is taken out of the ledger: later lines count.
    """
    with lease.hold(store) as held:
        book = Ledger(store, plan_id, held)
        for region in regions:
            book.void(region)
        book.flush()


def compact(store: Store, held: Lease) -> None:
    """Put the last line of every region and plan, as it is, into one segment in place of many. Raises StoreError.

    The new segment comes after all others and is read back before they are deleted: whoever stops in between leaves
    lines that say the same twice. Lines that cannot be read are left out: `finished` has said so.
    """
    names = store.state_names(FOLDER)
    if len(names) <= COMPACT_SEGMENTS:
        return
    last: dict[tuple[str, Region], bytes] = {}
    for name in names:
        for line in (store.get_state(name) or b"").splitlines():
            try:
                values = json.loads(line)
                if not values.get("void"):
                    _decode(values)
                key = values["plan"], Region(*values["region"])
                last.pop(key, None)  # the order of the lines is that of the last ones
                last[key] = line
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
    held.check()
    new, data = _segment(lease.number_of(names[-1]) + 1), b"\n".join(last.values())
    if not store.put_state(new, data, create=True) or store.get_state(new) != data:
        raise StoreError(
            f"another run is writing to {store.url} (segment {new}): stop one of the two, then run again"
        )
    held.check()
    store.delete_state(names)
    logger.info("%d segments of %s are one now, of %d regions", len(names), store.url, len(last))


def _segment(number: int) -> str:
    return f"{FOLDER}{number:08}.jsonl"


class Ledger:
    """Appends records to a store's ledger, while its driver holds the lease; without, it fails at a segment."""

    def __init__(self, store: Store, plan_id: str, held: Lease | None = None) -> None:
        self._store = store
        self._held = held
        self._plan_id = plan_id
        self._pending: list[str] = []
        self._written = time.monotonic()
        names = store.state_names(FOLDER)
        self._next = lease.number_of(names[-1]) + 1 if names else 0

    def add(self, record: RegionRecord) -> None:
        """Note a finished region; durable after the next flush. Raises StoreError."""
        self._note(_encode(record))

    def void(self, region: Region) -> None:
        """Note that a region is not done any more; durable after the next flush. Raises StoreError."""
        self._note({"region": list(region), "void": True})

    def _note(self, values: dict[str, Any]) -> None:
        self._pending.append(json.dumps({"plan": self._plan_id, **values}))
        if len(self._pending) >= FLUSH_RECORDS or time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is noted as one segment. Raises StoreError when another driver writes here too."""
        if not self._pending:
            return
        if self._held is not None:
            self._held.check()
        name = _segment(self._next)
        data = "\n".join(self._pending).encode()
        if not self._store.put_state(name, data, create=True):
            raise StoreError(
                f"another run is writing to {self._store.url} (segment {name} appeared): stop one of the two, "
                "then run again; nothing is lost"
            )
        self._pending.clear()
        self._next += 1
        self._written = time.monotonic()


def _encode(record: RegionRecord) -> dict[str, Any]:
    return {
        "region": list(record.region),
        "valid": record.valid,
        "counters": record.counters,
        "requests": record.traffic.requests,
        "bytes": record.traffic.bytes,
        "seconds": round(record.seconds, 4),
        "skipped": record.skipped,
        "days": {day.isoformat(): list(counts) for day, counts in record.days.items()},
        "inside": record.inside,
        "checksums": record.checksums,
        "worker": record.worker,
    }


def _decode(values: dict[str, Any]) -> RegionRecord:
    return RegionRecord(
        region=Region(*values["region"]),
        valid=values["valid"],
        counters=values["counters"],
        traffic=Traffic(values["requests"], values["bytes"]),
        seconds=values["seconds"],
        skipped=values["skipped"],
        days=_days(values.get("days", {})),  # not in 0.1's
        inside=values.get("inside", 0),
        checksums=values["checksums"],
        worker=values.get("worker", ""),
    )


def _days(values: dict[str, Any]) -> dict[dt.date, DayCounts]:
    return {dt.date.fromisoformat(day): DayCounts(*counts) for day, counts in values.items()}


def pending(plan: Plan, done: Container[Region]) -> list[Region]:
    """Regions of a plan that are still to be computed, in the order in which to do so."""
    return in_strips((region for region in plan.regions() if region not in done), plan.lattice)
