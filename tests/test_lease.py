"""One driver at a time: leases that are held, given back, outlived, taken over."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ndvi_scale import lease, ledger, open_store, store_digest
from ndvi_scale.batch import run_batch, thread_pool
from ndvi_scale.errors import StoreError
from runs import plan_of, run
from test_cli import call

if TYPE_CHECKING:
    from pathlib import Path

    import services
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store


@pytest.fixture(params=["disk", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        endpoint: services.S3Endpoint = request.getfixturevalue("seaweed_s3")
        return open_store(f"s3://{endpoint.bucket}/{tmp_path.name}.zarr", endpoint.options)
    return open_store(str(tmp_path / "ndvi.zarr") if request.param == "disk" else f"memory://{tmp_path.name}")


def held_by(store: Store, **changes: Any) -> None:
    """Write a lease as another driver would have left it."""
    holder = {**vars(lease._myself()), **changes}
    names = store.state_names(lease.FOLDER)
    store.put_state(lease._name(len(names)), json.dumps(holder).encode(), create=True)


def ago(**span: float) -> str:
    return (dt.datetime.now(dt.UTC) - dt.timedelta(**span)).isoformat(timespec="seconds")


def test_a_second_driver_is_told_of_the_first(store: Store) -> None:
    with lease.hold(store), pytest.raises(StoreError) as refused, lease.hold(store):
        pass
    for word in (f"process {os.getpid()}", "--break-lock", "wait for it"):
        assert word in str(refused.value)


def test_what_is_given_back_can_be_taken(store: Store) -> None:
    for _ in range(3):
        with lease.hold(store):
            pass
    assert len(store.state_names(lease.FOLDER)) == 3


def test_it_is_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), lease.hold(store):
        raise ZeroDivisionError
    with lease.hold(store):
        pass


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "silent": 4}, False),
        ({"host": "elsewhere", "silent": 6}, True),
        ({"host": "elsewhere", "released": True}, True),
        ({}, False),
        ({"pid": 2**22 + 1}, True),  # above the largest that Linux gives
        ({"born": 1.0}, True),  # its number was given to another process
    ],
    ids=str,
)
def test_who_counts(store: Store, changes: dict[str, Any], *, free: bool) -> None:
    changes = dict(changes)
    if "silent" in changes:
        changes["beat"] = ago(minutes=changes.pop("silent"))
    held_by(store, **changes)
    if free:
        with lease.hold(store):
            return
    with pytest.raises(StoreError, match="is being written by"), lease.hold(store):
        pass


def test_a_lease_that_cannot_be_read_keeps_nobody_out(store: Store) -> None:
    store.put_state(lease._name(0), b"{")
    with lease.hold(store) as held:
        assert held.number == 1


def test_of_drivers_that_begin_at_once_one_gets_it(store: Store) -> None:
    ready, over = threading.Barrier(8), threading.Barrier(8)
    outcomes: list[str] = []

    def begin() -> None:
        ready.wait()
        try:
            with lease.hold(store):
                outcomes.append("held")
                over.wait(20)
        except StoreError:
            outcomes.append("refused")
            over.wait(20)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + 7 * ["refused"]


def test_a_lease_says_that_it_lives(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.02)
    with lease.hold(store) as held:
        before = held.holder.beat
        for _ in range(500):
            found = lease._read(store, lease._name(held.number))
            if found is not None and found.beat > before:
                break
            threading.Event().wait(0.02)
        assert found is not None
        assert found.beat > before
        assert not found.released


def test_who_is_taken_over_stops_before_it_notes_more(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    taken = []

    def take_over(_: object) -> None:
        if not taken:
            taken.append(lease.take_over(store))

    with pytest.raises(StoreError, match="has taken over"), thread_pool(1) as submit:
        run_batch(plan, store, submit, in_flight=1, on_done=take_over)
    assert taken[0] is not None
    assert taken[0].pid == os.getpid()
    assert not ledger.finished(store, plan)
    report = run(plan, store)
    assert report.done == report.regions


def test_who_loses_the_output_stops_before_it_says_done(sandbox: Sandbox, tmp_path: Path) -> None:
    # Another driver deletes it, begins anew, and its lease has the number that ours had.
    plan, store = plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    begun = []

    def begin_anew(_: object) -> None:
        if not begun:
            store.delete()
            begun.append(lease._create(store, 0, lease._myself()))

    with pytest.raises(StoreError, match="begun anew by another driver"), thread_pool(1) as submit:
        run_batch(plan, store, submit, in_flight=1, on_done=begin_anew)
    assert begun == [True]


def test_a_lease_that_was_deleted_is_lost(store: Store) -> None:
    with lease.hold(store) as held:
        held.check()
        store.delete()
        with pytest.raises(StoreError, match="was deleted"):
            held.check()


def test_nobody_overwrites_what_another_driver_writes(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "ndvi.zarr")
    given = ["run", "--items", str(sandbox.items), "--crs", "EPSG:32631", "--chunk", "64", "--out", out]
    assert call(*given) == 0
    store = open_store(out)
    digest = store_digest(store)
    with lease.hold(store):
        for more in ([], ["--cluster", "local", "--workers", "1"]):
            capsys.readouterr()
            assert call(*given, "--overwrite", *more) == 7
            told = capsys.readouterr()
            assert "is being written by" in told.err
            assert "Cluster:" not in told.out + told.err
        assert store_digest(store) == digest
    assert call(*given, "--overwrite") == 0
    assert store_digest(store) == digest


def test_zones_are_taken_over_before_they_are_overwritten(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "zones.zarr"
    given = ["run", "--items", str(sandbox.items), "--grid", "per-zone", "--chunk", "128", "--out", str(out)]
    assert call(*given) == 0
    zone = open_store(out, group=next(out.glob("EPSG_*")).name)
    held_by(zone, host="elsewhere")
    assert call(*given, "--overwrite") == 7
    assert "is being written by" in capsys.readouterr().err
    assert call(*given, "--overwrite", "--break-lock") == 0


def test_taking_over_what_nobody_has(store: Store) -> None:
    assert lease.take_over(store) is None
    with lease.hold(store):
        pass
    assert lease.take_over(store) is None


def test_a_killed_driver_keeps_nobody_out(tmp_path: Path) -> None:
    """Of this machine, at once: its process is gone."""
    program = (
        "import os, signal, sys\n"
        "from ndvi_scale import lease, open_store\n"
        "with lease.hold(open_store(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    url = str(tmp_path / "ndvi.zarr")
    assert subprocess.run([sys.executable, "-c", program, url], check=False).returncode == -9
    with lease.hold(open_store(url)) as held:
        assert held.number == 1
