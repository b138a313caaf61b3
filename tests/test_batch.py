from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import runs
from ndvi_scale import (
    RunConfig,
    batch,
    build_plan,
    open_reader,
    open_store,
    output,
    parse_bbox,
    search_items,
    store_digest,
)
from ndvi_scale.errors import PlanMismatchError, ReadError, StoreError
from ndvi_scale.ledger import Ledger, finished, load_plan, save_plan
from ndvi_scale.readers import BlockingReader
from ndvi_scale.write import checksum, create_template, object_names, read_attributes

if TYPE_CHECKING:
    import services
    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window
    from ndvi_scale.plan import Plan
    from ndvi_scale.readers import Reader
    from ndvi_scale.sandbox import Sandbox


class Wrapped(BlockingReader):
    """A real reader with something in its way."""

    name = "wrapped"

    def __init__(self) -> None:
        self.inner: Reader = open_reader()
        self.reads = 0
        self.broken: set[str] = set()
        self.permanent = True

    def read(self, item_id: str, asset: Asset, window: Window) -> Any:
        self.reads += 1
        if item_id in self.broken:
            raise ReadError(f"cannot read {item_id}", item_id=item_id, asset=asset.href, permanent=self.permanent)
        return self.inner.read(item_id, asset, window)

    def layout(self, item_id: str, asset: Asset) -> Any:
        return self.inner.layout(item_id, asset)


def test_a_run_completes_and_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    attributes = read_attributes(store)
    assert attributes is not None
    assert attributes["status"] == "complete"
    assert attributes["ndvi_scale"]["plan"] == plan.id
    assert set(finished(store, plan)) == set(plan.regions())


def test_running_again_computes_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    digest = store_digest(store)
    reader = Wrapped()
    report = runs.run(plan, store, reader=reader)
    assert (report.computed, reader.reads) == (0, 0)
    assert report.done == report.regions
    assert store_digest(store) == digest


def test_the_same_script_again_is_the_same_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """Its region comes from a box, that of the stored plan from a file: where from does not count."""
    store = open_store(str(tmp_path / "ndvi.zarr"))
    for computed in (True, False):
        plan = runs.plan_of(sandbox, aoi=parse_bbox(sandbox.bbox))
        assert bool(runs.run(plan, store).computed) is computed


def test_the_digest_does_not_depend_on_order_workers_or_compression(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path / "one")
    other = open_store(str(tmp_path / "two.zarr"))
    runs.run(plan, other, workers=3)
    assert store_digest(store) == store_digest(other)
    array = zarr.open_array(other.zarr(), path="ndvi", mode="r+")
    array[0, 10, 10] += 1
    assert store_digest(store) != store_digest(other)


def test_a_store_is_incomplete_until_its_last_region(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    reader = Wrapped()
    reader.broken = {plan.granules[0].id}
    report = runs.run(plan, store, reader=reader)
    assert report.failed
    assert all(plan.granules[0].id in why for why in report.failed.values())
    assert report.done + len(report.failed) == report.regions
    attributes = read_attributes(store)
    assert attributes is not None
    assert attributes["status"] == "incomplete"

    reader.broken = set()
    again = runs.run(plan, store, reader=reader)
    assert again.computed == len(report.failed)
    assert (read_attributes(store) or {})["status"] == "complete"
    whole = open_store(str(tmp_path / "whole.zarr"))
    runs.run(plan, whole)
    assert store_digest(store) == store_digest(whole)


def reprocessed(plan: Plan) -> str:
    """The granule of the sandbox that was processed again."""
    (name,) = plan.spares
    return name


def test_the_older_processing_stands_in_for_one_that_is_gone(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    newer = reprocessed(plan)
    (older,) = plan.spares[newer]
    assert older.id in {dropped.id for dropped in plan.dropped}
    assert older.id not in {granule.id for granule in plan.granules}
    reader = Wrapped()
    reader.broken = {newer}
    report = runs.run(plan, store, reader=reader)
    assert not report.failed
    assert list(report.skipped) == [newer]
    assert all(part in report.skipped[newer] for part in (f"cannot read {newer}", older.id, "stands in"))
    assert {name for record in finished(store, plan).values() for name in record.counters} >= {older.id}
    assert {verdict.item_id for verdict in report.verdicts} == {g.id for g in (*plan.granules, older)} - {newer}

    without = [item for item in search_items(sandbox.items) if item.id != newer]
    alone = build_plan(without, plan.config)
    assert older.id in {granule.id for granule in alone.granules}
    expected = open_store(str(tmp_path / "older.zarr"))
    runs.run(alone, expected)
    codes = [zarr.open_array(s.zarr(read_only=True), path="ndvi", mode="r")[:] for s in (store, expected)]
    np.testing.assert_array_equal(codes[0], codes[1])
    whole = open_store(str(tmp_path / "newer.zarr"))
    runs.run(plan, whole)
    assert (codes[0] != zarr.open_array(whole.zarr(read_only=True), path="ndvi", mode="r")[:]).any()


@pytest.mark.parametrize("trouble", ["passing", "both"])
def test_nothing_stands_in_for_what_may_come_back_or_where_all_is_gone(
    sandbox: Sandbox, tmp_path: Path, trouble: str
) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    newer = reprocessed(plan)
    reader = Wrapped()
    reader.permanent = trouble == "both"
    reader.broken = {newer, *(spare.id for spare in plan.spares[newer] if trouble == "both")}
    report = runs.run(plan, store, reader=reader)
    assert report.failed
    assert all(f"cannot read {newer}" in why for why in report.failed.values())
    assert not report.skipped


def test_a_plan_keeps_its_spares(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    save_plan(store, plan)
    assert load_plan(store) == plan
    assert plan.id != dataclasses.replace(plan, spares={}).id


def test_skip_leaves_out_what_cannot_be_read_and_records_it(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox, on_error="skip"), open_store(str(tmp_path / "ndvi.zarr"))
    reader = Wrapped()
    lost = plan.granules[1].id
    reader.broken = {lost}
    report = runs.run(plan, store, reader=reader)
    assert not report.failed
    assert list(report.skipped) == [lost]
    assert (read_attributes(store) or {})["ndvi_scale"]["skipped"] == report.skipped


class CountingSubmit:
    """A thread pool that knows how many of its calls are neither done nor fetched."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool, self.open, self.most, self.lock = pool, 0, 0, threading.Lock()

    def __call__(self, function: Any, /, *args: Any) -> Future[Any]:
        with self.lock:
            self.open += 1
            self.most = max(self.most, self.open)
        future = self.pool.submit(function, *args)
        future.add_done_callback(self._closed)
        return future

    def _closed(self, _: Future[Any]) -> None:
        with self.lock:
            self.open -= 1


@pytest.mark.parametrize("in_flight", [1, 3])
def test_never_more_regions_in_flight_than_asked(sandbox: Sandbox, tmp_path: Path, in_flight: int) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    with ThreadPoolExecutor(4) as pool:
        submit = CountingSubmit(pool)
        batch.run_batch(plan, store, submit, reader=open_reader(), in_flight=in_flight)
    assert submit.most == in_flight


def test_other_parameters_are_refused_with_the_difference(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    assert output.begin(store, plan.config) is not None
    other = RunConfig(crs="EPSG:32631", chunk=128, mask=(0, 9))
    with pytest.raises(PlanMismatchError, match=r"chunk: 64 there, 128 asked.*--overwrite") as error:
        output.begin(store, other)
    assert len(error.value.differences) == 2


def test_resuming_uses_the_frozen_plan(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    save_plan(store, plan)
    taken_up = output.begin(store, plan.config)
    assert taken_up == plan


def test_a_foreign_folder_is_not_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="holds no run of ndvi-scale"):
        output.begin(open_store(str(folder)), RunConfig())


@pytest.mark.parametrize("where", ["data", "state"])
def test_overwrite_refuses_foreign_objects(sandbox: Sandbox, tmp_path: Path, where: str) -> None:
    _, store = runs.finished_store(sandbox, tmp_path)
    output.check_ours(store)
    folder = Path(store.url) if where == "data" else Path(store.url + ".run")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt.*not deleted"):
        output.check_ours(store)


def test_overwrite_refuses_a_store_without_our_plan(sandbox: Sandbox, tmp_path: Path) -> None:
    _, store = runs.finished_store(sandbox, tmp_path)
    shutil.rmtree(store.url + ".run")
    with pytest.raises(StoreError, match="bears no mark and plan"):
        output.check_ours(store)


def test_two_drivers_do_not_mix_their_ledgers(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    first, second, *_ = finished(store, plan).values()
    one, two = Ledger(store, plan.id), Ledger(store, plan.id)
    one.add(first)
    one.flush()
    two.add(second)
    with pytest.raises(StoreError, match=r"another run is writing.*nothing is lost"):
        two.flush()


def test_records_of_another_plan_do_not_count(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    assert finished(store, plan)
    assert not finished(store, dataclasses.replace(plan, ancestors=("another",)))


def test_checksums_of_an_older_run_stay_what_they_are(sandbox: Sandbox, tmp_path: Path) -> None:
    """Version 0.1 noted a bare SHA-256: its regions are done, and no checksum of today looks like it."""
    plan, store = runs.finished_store(sandbox, tmp_path)
    older = hashlib.sha256(b"pixels").hexdigest()
    for segment in Path(store.url + ".run").glob("ledger/*.jsonl"):
        lines = [json.loads(line) | {"checksums": {"ndvi": older}} for line in segment.read_text().splitlines()]
        segment.write_text("\n".join(map(json.dumps, lines)))
    assert {record.checksums["ndvi"] for record in finished(store, plan).values()} == {older}
    assert runs.run(plan, store).computed == 0
    kind, _, number = checksum(np.zeros(4, np.int16)).partition(":")
    assert (kind, len(number)) == ("xxh3_128", 32)


def test_a_damaged_ledger_is_said_and_its_regions_are_computed_again(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    digest = store_digest(store)
    segment = next(Path(store.url + ".run").glob("ledger/*.jsonl"))
    segment.write_bytes(segment.read_bytes()[:-20])
    report = runs.run(plan, store)
    assert "is damaged: its regions are computed again" in caplog.text
    assert report.computed == 1
    assert report.done == report.regions
    assert store_digest(store) == digest


def test_a_failing_store_stops_the_run_and_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.plan_of(sandbox), open_store(str(tmp_path / "ndvi.zarr"))
    runs.run(plan, store, reader=Wrapped())
    for segment in Path(store.url + ".run").glob("ledger/*.jsonl"):
        segment.unlink()
    chunks = Path(store.url) / "ndvi" / "c"
    shutil.rmtree(chunks)
    chunks.write_text("a file where a folder belongs")
    with pytest.raises(StoreError, match=r"cannot be written"):
        runs.run(plan, store)


KILLED = """
import json
import sys
from ndvi_scale import RunConfig, build_plan, open_reader, open_store, output, run_batch, search_items, thread_pool

items, url, sides, *options = sys.argv[1:]
store = open_store(url, dict(option.split("=", 1) for option in options))
config = RunConfig(crs="EPSG:32631", **json.loads(sides))
plan = output.begin(store, config) or build_plan(search_items(items), config)
print("started", flush=True)
with thread_pool(2) as submit:
    report = run_batch(plan, store, submit, reader=open_reader(), in_flight=2)
print("computed", report.computed, "of", report.regions, flush=True)
"""


def killed_then_finished(command: list[str], delays: list[float]) -> list[str]:
    """Run a command, kill it after each delay, then let it finish; what it printed at each turn."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    printed = []
    for delay in delays:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            printed.append(process.stdout.read())
    last = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [*printed, last.stdout]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "sides"),
    [(1, {"chunk": 32}), (2, {"chunk": 32}), (3, {"chunk": 32}), (4, {"chunk": 128, "shard": 256})],
)
def test_killing_the_driver_at_any_moment_loses_nothing(
    sandbox: Sandbox, tmp_path: Path, seed: int, sides: dict[str, int]
) -> None:
    whole = open_store(str(tmp_path / "whole.zarr"))
    plan = build_plan(search_items(sandbox.items), RunConfig(crs="EPSG:32631", **sides))
    runs.run(plan, whole)
    url = str(tmp_path / "killed.zarr")
    chance = random.Random(seed)  # noqa: S311 - a moment, not a secret
    command = [sys.executable, "-c", KILLED, str(sandbox.items), url, json.dumps(sides)]
    printed = killed_then_finished(command, [chance.uniform(0, 1.5) for _ in range(2)])
    assert "computed" in printed[-1]
    store = open_store(url)
    assert store_digest(store) == store_digest(whole)
    assert (read_attributes(store) or {})["status"] == "complete"


@pytest.mark.slow
def test_killing_the_driver_loses_nothing_on_s3(
    sandbox: Sandbox, tmp_path: Path, seaweed_s3: services.S3Endpoint
) -> None:
    whole = open_store(str(tmp_path / "whole.zarr"))
    plan = build_plan(search_items(sandbox.items), RunConfig(crs="EPSG:32631", chunk=32))
    runs.run(plan, whole)
    url = f"s3://{seaweed_s3.bucket}/killed.zarr"
    options = dict(seaweed_s3.options)
    given = [json.dumps({"chunk": 32}), *(f"{key}={value}" for key, value in options.items())]
    command = [sys.executable, "-c", KILLED, str(sandbox.items), url, *given]
    killed_then_finished(command, [0.3, 1.0])
    store = open_store(url, options)
    assert load_plan(store) == plan
    assert store_digest(store) == store_digest(whole)


def test_regions_outside_the_aoi_are_not_stored(sandbox: Sandbox, tmp_path: Path) -> None:
    west, south, east, north = sandbox.bbox
    small = parse_bbox((west, south, (west + east) / 2, (south + north) / 2))
    plan, store = runs.finished_store(sandbox, tmp_path, aoi=small, chunk=32)
    stored = [name for name in store.data_names() if name.startswith("ndvi/c/")]
    assert 0 < len(stored) <= len(plan.index)


def test_another_plan_does_not_run_into_a_store(sandbox: Sandbox, tmp_path: Path) -> None:
    """A notebook's cell, run again with other settings."""
    _, store = runs.finished_store(sandbox, tmp_path)
    digest = store_digest(store)
    with pytest.raises(PlanMismatchError, match=r"mask: .* there, \[9\] asked"):
        runs.run(runs.plan_of(sandbox, mask=(9,)), store)
    assert store_digest(store) == digest


def test_the_loser_of_a_race_leaves_the_winner_s_plan_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    store, winner = open_store(str(tmp_path / "ndvi.zarr")), runs.plan_of(sandbox)
    save_plan(store, winner)
    with pytest.raises(StoreError, match="a plan from another run meanwhile"):
        save_plan(store, runs.plan_of(sandbox, chunk=32))
    assert load_plan(store) == winner
    save_plan(store, winner)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_lost_object_is_computed_again(sandbox: Sandbox, tmp_path: Path, zarr_format: int) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path, zarr_format=zarr_format)
    digest = store_digest(store)
    region = next(region for region, record in finished(store, plan).items() if record.valid)
    (Path(store.url) / object_names(plan, region)[0]).unlink()
    assert store_digest(store) != digest
    assert runs.run(plan, store).computed == 1
    assert store_digest(store) == digest


@pytest.mark.parametrize("name", ["ndvi/notes.txt", "x/c/0.bak", "zarr.json.old"])
def test_overwrite_knows_every_name_a_run_writes(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    _, store = runs.finished_store(sandbox, tmp_path)
    (Path(store.url) / name).write_text("mine")
    with pytest.raises(StoreError, match="which no run writes"):
        output.check_ours(store)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_deleting_a_run_leaves_what_is_not_its_own(sandbox: Sandbox, tmp_path: Path, zarr_format: int) -> None:
    _, store = runs.finished_store(sandbox, tmp_path, zarr_format=zarr_format)
    output.check_ours(store)
    draft = Path(store.url) / "draft#1"  # object stores do not list such a name
    draft.write_text("mine")
    store.delete()
    assert draft.read_text() == "mine"
    assert store.data_names() == store.state_names() == []


def test_a_template_of_another_driver_is_not_wiped(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    digest = store_digest(store)
    (Path(store.url) / "ndvi" / "zarr.json").rename(tmp_path / "aside")
    create_template(store, plan)
    assert store_digest(store) == digest
