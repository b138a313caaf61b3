"""Clusters of this machine: threads and processes give the same output, and a dying worker loses nothing."""

from __future__ import annotations

import os
import signal
import time
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
def test_what_fails_is_not_told_by_workers_too(capfd: pytest.CaptureFixture[str]) -> None:
    with open_local(LocalSpec(workers=1)) as submit, pytest.raises(ZeroDivisionError):
        submit(divmod, 1, 0).result()
    said = "".join(capfd.readouterr())
    assert "Compute Failed" not in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_ctrl_c_is_the_driver_s(capfd: pytest.CaptureFixture[str]) -> None:
    with open_local(LocalSpec(workers=1)) as submit:
        (worker,) = submit.client.run(os.getpid).values()
        os.kill(worker, signal.SIGINT)
        time.sleep(1)
        assert list(submit.client.run(os.getpid).values()) == [worker]
    assert "Traceback" not in capfd.readouterr().err


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
