"""Many segments of a ledger become one when a run is taken up, and nothing is lost on the way."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ndvi_scale import lease, ledger, open_store
from ndvi_scale.errors import StoreError
from ndvi_scale.lattice import Region
from ndvi_scale.readers import Traffic
from ndvi_scale.region import RegionRecord
from ndvi_scale.store import Store
from runs import plan_of, run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import services
    from ndvi_scale.sandbox import Sandbox

PLAN = "a" * 64
MANY = ledger.COMPACT_SEGMENTS + 6


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        endpoint: services.S3Endpoint = request.getfixturevalue("seaweed_s3")
        return open_store(f"s3://{endpoint.bucket}/{tmp_path.name}.zarr", endpoint.options)
    return open_store(str(tmp_path / "ndvi.zarr"))


def record(number: int, valid: int = 0) -> RegionRecord:
    return RegionRecord(Region(number, 0, 0), valid, {}, Traffic(1, 2), 0.5, checksums={"ndvi": f"crc32c:{number}"})


def finished(store: Store, plan_id: str = PLAN) -> dict[Region, RegionRecord]:
    """What the ledger says of a plan of all these regions."""
    index = {Region(number, 0, 0): () for number in range(MANY + 2)}
    return ledger.finished(store, SimpleNamespace(revisions={plan_id: 0}, index=index, since={}))


def fill(store: Store, count: int = MANY) -> None:
    """So many segments of two records, the second of which comes again in the next; the fourth region is void."""
    book = ledger.Ledger(store, PLAN)
    for number in range(count):
        book.add(record(number, valid=1))
        book.add(record(number + 1))
        if number == 10:
            book.void(Region(4, 0, 0))
        book.flush()


def compact(store: Store) -> None:
    with lease.hold(store) as held:
        ledger.compact(store, held)


def test_many_segments_become_one_that_says_the_same(store: Store) -> None:
    fill(store)
    before, names = finished(store), store.state_names(ledger.FOLDER)
    compact(store)
    (left,) = store.state_names(ledger.FOLDER)
    assert left > names[-1]
    assert finished(store) == before
    assert len(before) == MANY
    assert Region(4, 0, 0) not in before
    ledger.Ledger(store, PLAN).add(record(4))
    book = ledger.Ledger(store, PLAN)
    book.add(record(4))
    book.flush()
    assert store.state_names(ledger.FOLDER)[-1] > left
    assert Region(4, 0, 0) in finished(store)


def test_few_segments_stay(store: Store) -> None:
    fill(store, ledger.COMPACT_SEGMENTS)
    before = store.state_names(ledger.FOLDER)
    compact(store)
    assert store.state_names(ledger.FOLDER) == before


def test_lines_of_other_plans_and_fields_of_other_versions_stay(store: Store) -> None:
    fill(store)
    line = json.dumps({"plan": "b" * 64, **ledger._encode(record(1)), "of another version": [1, {"a": 2}]}).encode()
    store.put_state(f"{ledger.FOLDER}{MANY:08}.jsonl", line, create=True)
    compact(store)
    (left,) = store.state_names(ledger.FOLDER)
    assert line in (store.get_state(left) or b"").splitlines()
    assert finished(store, "b" * 64) == {Region(1, 0, 0): record(1)}


class Broken(Store):
    """Dies at its n-th deletion."""

    left = 0

    def delete_state(self, names: Sequence[str]) -> None:
        """Delete some, then fail."""
        super().delete_state(names[: self.left])
        raise KeyboardInterrupt


@pytest.mark.parametrize("deleted", [0, 1, MANY // 2, MANY])
def test_who_stops_in_between_leaves_what_says_the_same(store: Store, deleted: int) -> None:
    fill(store)
    before = finished(store)
    broken = Broken(**vars(store))
    object.__setattr__(broken, "left", deleted)
    with pytest.raises(KeyboardInterrupt):
        compact(broken)
    assert len(store.state_names(ledger.FOLDER)) == MANY + 1 - deleted
    assert finished(store) == before
    compact(store)
    assert finished(store) == before


def test_a_segment_cut_short_costs_its_own_regions_and_is_said(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store)
    whole = finished(store)
    name = store.state_names(ledger.FOLDER)[-1]
    data = store.get_state(name) or b""
    store.put_state(name, data[: len(data) - 40])
    with caplog.at_level(logging.WARNING):
        cut = finished(store)
    assert name in caplog.text
    assert "computed again" in caplog.text
    assert set(whole) - set(cut) == {Region(MANY, 0, 0)}
    compact(store)
    assert finished(store) == cut


def test_who_was_taken_over_deletes_nothing(store: Store) -> None:
    fill(store)
    names = store.state_names(ledger.FOLDER)
    with lease.hold(store) as held:
        lease.take_over(store)
        with pytest.raises(StoreError, match="taken over"):
            ledger.compact(store, held)
    assert store.state_names(ledger.FOLDER) == names


def test_a_reader_that_listed_segments_before_finds_the_new_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    before, listed = finished(store), []
    names = store.state_names(ledger.FOLDER)
    compact(store)
    real = Store.state_names

    def stale_once(self: Store, prefix: str = "") -> list[str]:
        listed.append(prefix)
        return names if len(listed) == 1 else real(self, prefix)

    monkeypatch.setattr(Store, "state_names", stale_once)
    assert finished(store) == before
    assert len(listed) == 2


def test_a_run_that_is_taken_up_compacts_and_goes_on(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "FLUSH_RECORDS", 1)
    monkeypatch.setattr(ledger, "COMPACT_SEGMENTS", 3)
    plan, store = plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    first = run(plan, store)
    assert len(store.state_names(ledger.FOLDER)) > 3
    again = run(plan, store)
    assert len(store.state_names(ledger.FOLDER)) == 1
    assert again.computed == 0
    assert (again.valid, again.pixels, again.counters, again.days) == (
        first.valid,
        first.pixels,
        first.counters,
        first.days,
    )
