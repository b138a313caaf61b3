"""Clusters of this machine: threads and processes give the same output, and a dying worker loses nothing."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from ndvi_scale import open_store
from ndvi_scale.batch import run_batch
from ndvi_scale.cluster.local import open_local
from ndvi_scale.cluster.spec import LocalSpec
from ndvi_scale.write import store_digest
from runs import plan_of

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox


@pytest.mark.slow
def test_processes_write_what_threads_write(sandbox: Sandbox, tmp_path: Path) -> None:
    digests = {}
    for name, spec in (("threads", LocalSpec(processes=False, workers=2)), ("processes", LocalSpec(workers=2))):
        store = open_store(str(tmp_path / f"{name}.zarr"))
        with open_local(spec) as submit:
            report = run_batch(plan_of(sandbox), store, submit)
        assert not report.failed
        assert report.done == report.regions
        digests[name] = store_digest(store)
    assert digests["threads"] == digests["processes"]


@pytest.mark.slow
def test_a_worker_that_dies_loses_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = plan_of(sandbox, chunk=32), open_store(str(tmp_path / "ndvi.zarr"))
    with open_local(LocalSpec(workers=2)) as submit:
        pids = list(submit.client.run(os.getpid).values())
        killed = []

        def kill_one(_: object) -> None:
            if not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        report = run_batch(plan, store, submit, on_done=kill_one)
    assert killed
    assert not report.failed
    assert report.done == report.regions
