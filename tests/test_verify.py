"""Verification and repair: whatever becomes of stored objects is found, and mended to the same digest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from ndvi_scale import ledger, write
from ndvi_scale.lattice import Region
from ndvi_scale.verify import Verified, discard, verify
from runs import finished_store, plan_of, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], None]] = {"flip": flip, "cut": cut, "empty": empty, "lose": Path.unlink}


def a_full_region(plan: Plan, store: Store) -> Region:
    """One that has every object."""
    return max(ledger.finished(store, plan).values(), key=lambda record: record.valid).region


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "settings",
    [{}, {"zarr_format": 2}, {"chunk": 128, "shard": 256}, {"period": "all", "reducer": "max"}],
    ids=["plain", "zarr 2", "shards", "composite"],
)
def test_damage_is_found_and_mended(
    sandbox: Sandbox, tmp_path: Path, settings: dict[str, Any], damage: str
) -> None:
    plan, store = finished_store(sandbox, tmp_path, **settings)
    before = write.store_digest(store)
    assert verify(plan, store).sound
    region = a_full_region(plan, store)
    names = write.object_names(plan, region)
    DAMAGE[damage](Path(store.url) / names[-1])
    found = verify(plan, store)
    assert list(found.damaged) == [region]
    assert names[-1].split("/")[0] in found.damaged[region]
    assert not found.sound
    discard(plan, store, found.damaged)
    assert region in verify(plan, store).missing
    report = run(plan, store)
    assert report.computed == 1
    assert verify(plan, store).sound
    assert write.store_digest(store) == before


def test_one_wrong_pixel_is_found(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = finished_store(sandbox, tmp_path)
    region = a_full_region(plan, store)
    window = plan.lattice.window(region.iy, region.ix)
    array = zarr.open_array(store.zarr(), path="ndvi", mode="r+")
    place = region.layer, window.row + 3, window.column + 5
    array[place] = np.int16(array[place] + 1)
    found = verify(plan, store)
    assert found.damaged == {region: "ndvi: other pixels than were written"}


def test_regions_that_are_not_done_are_told(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = finished_store(sandbox, tmp_path)
    regions = list(plan.regions())[:2]
    ledger.forget(store, plan.id, regions)
    found = verify(plan, store)
    assert found.missing == tuple(regions)
    assert found.checked == len(plan.index) - 2
    assert not found.damaged
    assert str(found) == f"of {len(plan.index)} regions 2 are not done"


def test_only_what_is_wrong_is_said() -> None:
    damaged = {Region(0, 0, 1): "it was cut short"}
    assert str(Verified(5, damaged, ())) == "of 5 regions 1 are damaged, the first (0, 0, 1): it was cut short"
    assert str(Verified(5, {}, ())) == "of 5 regions all are as they were written"


def test_nothing_is_written(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = finished_store(sandbox, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    seen: list[Region] = []
    verify(plan, store, on_done=seen.append)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert set(seen) == set(plan.regions())


def test_checksums_of_the_first_version_are_understood() -> None:
    values = np.arange(6, dtype=np.int16)
    import hashlib

    assert write.is_as_written(values, hashlib.sha256(values.astype("<i2").tobytes()).hexdigest())
    assert write.is_as_written(values, write.checksum(values))
    assert not write.is_as_written(values + 1, write.checksum(values))
    with pytest.raises(write.StoreError, match="kind"):
        write.is_as_written(values, "crc32:00")


def test_a_run_that_has_not_begun(sandbox: Sandbox, tmp_path: Path) -> None:
    from ndvi_scale import open_store

    plan = plan_of(sandbox)
    found = verify(plan, open_store(str(tmp_path / "ndvi.zarr")))
    assert found.checked == 0
    assert len(found.missing) == len(plan.index)
