"""A source's limits hold for a run as a whole: over processes that come, go, and are many or few."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

import hostile_origin
from ndvi_scale import RunConfig, build_plan, open_store, rates, run_batch, search_items, sources
from ndvi_scale.cluster.local import open_local
from ndvi_scale.cluster.spec import LocalSpec
from ndvi_scale.sources import Access, Limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hostile_origin import Origin
    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox


@pytest.mark.parametrize(
    ("capacity", "processes", "connections", "regions"),
    [
        (40, 20, None, 40),  # nothing is said
        (4, 2, 4, 4),
        (8, 4, 4, 8),  # each has one; what waits with a worker reads nothing yet
        (10, 5, 4, 4),
        (200, 100, 4, 4),
        (1, 1, 1, 1),
        (4, 2, 1, 1),
    ],
)
def test_no_more_regions_than_may_read(
    capacity: int, processes: int, connections: int | None, regions: int
) -> None:
    assert rates.regions_at_once(capacity, processes, connections) == regions


class Workers:
    """A submit that only counts: what it holds, and what it is told."""

    def __init__(self) -> None:
        self.live = 1
        self.running: list[Future[Any]] = []
        self.told: list[int] = []

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:  # noqa: ARG002
        self.running.append(Future())
        return self.running[-1]

    def capacity(self) -> int:
        return 2 * self.live

    def sharers(self) -> int:
        return self.live

    def share(self, sharers: int) -> None:
        self.told.append(sharers)

    def lend(self, places: object) -> None:
        pass


def test_only_processes_that_may_have_a_region_share() -> None:
    workers = Workers()
    submit = rates.SharedSubmit(workers, connections=4)
    assert (submit.capacity(), workers.told[-1]) == (2, 1)
    workers.live = 100
    assert (submit.capacity(), workers.told[-1]) == (
        4,
        4,
    )  # the others are idle: each has a fourth, not a hundredth
    workers.live = 3
    for _ in range(submit.capacity()):
        submit(print)
    workers.live = 100
    assert (submit.capacity(), workers.told[-1]) == (4, 6)  # those six may have spread by now
    for future in workers.running[:5]:
        future.set_result(None)
    assert (submit.capacity(), workers.told[-1]) == (4, 4)


def test_a_given_number_of_regions_counts_as_the_capacity() -> None:
    workers = Workers()
    workers.live = 8
    submit = rates.SharedSubmit(workers, connections=None, most=3)
    assert (submit.capacity(), workers.told[-1]) == (3, 3)


# Real processes


def limited_plan(origin: Origin, sandbox: Sandbox, **settings: Any) -> Plan:
    """A plan whose assets are read over HTTP."""
    items = search_items(sandbox.items)
    root = sandbox.items.parent.as_uri()
    for item in items:
        for asset in item.assets.values():
            asset.href = asset.href.replace(root, origin.url).replace(str(sandbox.items.parent), origin.url)
    return build_plan(items, RunConfig(crs="EPSG:32631", **settings))


def set_rules(rule: Access) -> None:
    """Have a process read by one rule alone."""
    sources.ACCESS = (rule,)  # type: ignore[misc]


def most_in(times: list[float], seconds: float) -> int:
    """The most requests in any span of so many seconds."""
    return max(sum(start <= time < start + seconds for time in times) for start in times)


@pytest.mark.timeout(240)  # beside other tests on two cores
@pytest.mark.slow
def test_two_workers_stay_within_the_limits_of_one_and_the_last_has_them_whole(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_second = 3
    rule = Access("test", hosts=("127.0.0.1",), limits=Limits(connections=2, requests_a_minute=60 * a_second))
    monkeypatch.setattr(sources, "ACCESS", (rule,))
    shutil.copytree(sandbox.items.parent, tmp_path / "archive")
    with hostile_origin.hostile_origin(tmp_path / "archive") as origin:
        plan = limited_plan(origin, sandbox, chunk=32)
        origin.behave()
        origin.misbehave(hostile_origin.slow(0.05))  # so that connections are held for a while
        with open_local(LocalSpec(workers=2, threads=2)) as submit:
            submit.client.run(set_rules, rule)
            killed: list[float] = []

            def retire_one() -> None:
                while len(origin.of()) < 25:  # both are at work, and know it of each other
                    time.sleep(0.1)
                killed.append(time.monotonic())
                submit.client.retire_workers([next(iter(submit.client.scheduler_info()["workers"]))])

            threading.Thread(target=retire_one, daemon=True).start()
            report = run_batch(plan, open_store(str(tmp_path / "ndvi.zarr")), submit)
        assert not report.failed
        times = [asked.time for asked in origin.of()]
    assert origin.most_open <= 2
    assert most_in(times, 6.0) <= 1.4 * 6 * a_second  # what nobody shares is twice as much; a busy machine bunches
    # Half the limits would be half of it: what a worker has that counts another one which is idle, or gone.
    assert most_in([at for at in times if at < killed[0]], 3.0) >= 0.6 * 3 * a_second
    assert most_in([at for at in times if at > killed[0] + 3.0], 3.0) >= 0.6 * 3 * a_second
