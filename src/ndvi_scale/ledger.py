"""What is done: the plan and the finished regions of a run, beside its store. Only the driver writes here.

Records go into numbered segments, JSON lines, each created only if absent and never touched again. A region
counts as done when its record is in a segment, and a record is written only after the region's objects are.
Losing the last, unwritten records to a kill costs computing those regions again, which writes the same bytes.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.errors import ConfigError, StoreError
from ndvi_scale.lattice import Region, in_strips
from ndvi_scale.planfile import PLAN, decode_plan, encode_plan
from ndvi_scale.readers import Traffic
from ndvi_scale.region import DayCounts, RegionRecord

if TYPE_CHECKING:
    from ndvi_scale.plan import Plan
    from ndvi_scale.store import Store

logger = logging.getLogger(__name__)

FOLDER: Final = "ledger/"
FLUSH_RECORDS: Final = 256
"""Records a segment holds at most: a segment is one PUT, and a lost one at most this much work."""
FLUSH_SECONDS: Final = 2.0
"""Or this long, whichever comes first: a killed run repeats about two seconds of work."""


def save_plan(store: Store, plan: Plan) -> None:
    """Freeze the plan beside the store, `plan.json` last; replaces nothing. Raises StoreError for another one."""
    for name, data in encode_plan(plan).items():
        if not store.put_state(name, data, create=True) and store.get_state(name) != data:
            raise StoreError(
                f"{store.url} has got a plan from another run meanwhile: give another output, or --overwrite"
            )


def load_plan(store: Store) -> Plan | None:
    """The frozen plan of a store, or None where there is none. Raises StoreError if it is damaged."""
    head = store.get_state(PLAN)
    if head is None:
        return None
    names = [name for name in store.state_names() if "/" not in name and name != PLAN]
    files = {PLAN: head, **{name: store.get_state(name) or b"" for name in names}}
    try:
        return decode_plan(files)
    except (KeyError, ValueError, TypeError, OSError, ConfigError) as error:
        raise StoreError(f"the plan of {store.url} cannot be read ({error}): use --overwrite") from None


def finished(store: Store, plan_id: str) -> dict[Region, RegionRecord]:
    """Records of the finished regions of a plan.

    Those of an older plan do not count, and neither do lines that cannot be read: their regions are computed
    again, and a warning says so.
    """
    done: dict[Region, RegionRecord] = {}
    for name in store.state_names(FOLDER):
        for line in (store.get_state(name) or b"").splitlines():
            try:
                record = _decode(json.loads(line), plan_id)
            except (ValueError, KeyError, TypeError):
                logger.warning("segment %s of %s is damaged: its regions are computed again", name, store.url)
                continue
            if record is not None:
                done[record.region] = record
    return done


class Ledger:
    """Appends records to a store's ledger. One driver at a time: a second one fails at its first segment."""

    def __init__(self, store: Store, plan_id: str) -> None:
        self._store = store
        self._plan_id = plan_id
        self._pending: list[str] = []
        self._written = time.monotonic()
        names = store.state_names(FOLDER)
        self._next = int(names[-1].rpartition("/")[2].partition(".")[0]) + 1 if names else 0

    def add(self, record: RegionRecord) -> None:
        """Note a finished region; durable after the next flush. Raises StoreError."""
        self._pending.append(json.dumps({"plan": self._plan_id, **_encode(record)}))
        if len(self._pending) >= FLUSH_RECORDS or time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is noted as one segment. Raises StoreError when another driver writes here too."""
        if not self._pending:
            return
        name = f"{FOLDER}{self._next:08}.jsonl"
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
    }


def _decode(values: dict[str, Any], plan_id: str) -> RegionRecord | None:
    if values["plan"] != plan_id:
        return None
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
    )


def _days(values: dict[str, Any]) -> dict[dt.date, DayCounts]:
    return {dt.date.fromisoformat(day): DayCounts(*counts) for day, counts in values.items()}


def pending(plan: Plan, done: dict[Region, RegionRecord]) -> list[Region]:
    """Regions of a plan that are still to be computed, in the order in which to do so."""
    return in_strips((region for region in plan.regions() if region not in done), plan.lattice)
