"""Waiting for workers: what is told of those that do not come, and a scheduler that goes meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from distributed import Client, LocalCluster

from ndvi_scale.cluster.arrival import each_once, wait_for_workers
from ndvi_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable


def cluster_of(workers: int) -> LocalCluster:
    return LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")


def test_each_saying_comes_once() -> None:
    told = [("a", "pending"), ("b", "pulled"), ("c", "pending"), ("d", "pending")]
    assert list(each_once("pod", told)) == ["pod a and 2 more: pending", "pod b: pulled"]


def test_a_scheduler_that_goes_while_workers_are_waited_for_is_said() -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        client = Client(cluster)
        until = time.monotonic() + 30
        assert wait_for_workers(client, 1, until, list, str) == 1
        client.close()
        with pytest.raises(ClusterError, match="the scheduler is gone"):
            wait_for_workers(client, 2, until, list, str)


def test_what_is_waited_for_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("ndvi_scale.cluster.arrival.SAY_AFTER", 0.3)
    asked: list[str] = []
    said = "0 of 1 workers came; waiting for up to 60 s more: job 7: pending"
    with (
        cluster_of(0) as cluster,
        Client(cluster) as client,
    ):
        began = time.monotonic()

        def look(_alive: Iterable[str]) -> None:
            if time.monotonic() - began > 1 and not cluster.workers:
                assert caplog.text.count(said) == 1
                cluster.scale(1)

        def why() -> str:
            asked.append("why")
            return "job 7: pending"

        assert wait_for_workers(client, 1, began + 60, look, why) == 1
    assert asked == ["why"]
