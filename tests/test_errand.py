"""What is sent to other processes: small, and useless for another plan."""

from __future__ import annotations

import os
import pickle
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ndvi_scale import errand, ledger, open_reader, open_store, write
from ndvi_scale.errand import Errand
from ndvi_scale.errors import StoreError
from runs import finished_store, plan_of

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox


def test_it_weighs_the_same_whatever_the_plan(sandbox: Sandbox, tmp_path: Path) -> None:
    sizes = set()
    for chunk in (32, 128):
        plan = plan_of(sandbox, chunk=chunk)
        sent = pickle.dumps(Errand(open_store(str(tmp_path / "ndvi.zarr")), plan.id, open_reader().bare()))
        sizes.add(len(sent))
    assert len(sizes) == 1
    assert max(sizes) < 1000


def test_it_computes_what_the_run_wrote_and_says_where(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = finished_store(sandbox, tmp_path)
    done = ledger.finished(store, plan)
    region = max(done.values(), key=lambda record: record.valid).region
    record = Errand(store, plan.id, open_reader())(region)
    assert record.checksums == done[region].checksums
    assert record.worker == f"{socket.gethostname()}:{os.getpid()}"


@pytest.mark.parametrize("there", ["no plan", "another plan"])
def test_one_that_comes_late_writes_nothing(sandbox: Sandbox, tmp_path: Path, there: str) -> None:
    errand._kept.clear()
    plan, store = plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    if there == "another plan":
        ledger.save_plan(store, plan_of(sandbox, mask=(9,)))
    with pytest.raises(StoreError, match=there):
        Errand(store, plan.id, open_reader())(next(plan.regions()))
    assert not store.data_names()


def test_a_region_that_the_plan_does_not_have_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    # Without granules it would be written as empty, and be counted as done.
    whole = plan_of(sandbox)
    first, other, *_ = whole.regions()
    plan, store = replace(whole, index={first: whole.index[first]}), open_store(str(tmp_path / "ndvi.zarr"))
    assert plan.id == whole.id
    ledger.save_plan(store, plan)
    write.create_template(store, plan)
    with pytest.raises(StoreError, match=r"has no region layer 0, .* another part"):
        Errand(store, plan.id, open_reader())(other)
    assert Errand(store, plan.id, open_reader())(first).region == first
