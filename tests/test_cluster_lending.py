"""One token for all workers: asked for by the driver, renewed by it, sent to whoever comes."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import os
import pickle
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from distributed import WorkerPlugin

from ndvi_scale import open_store, run_batch, sources
from ndvi_scale.cluster.lending import is_private
from ndvi_scale.cluster.local import open_local
from ndvi_scale.cluster.spec import LocalSpec
from ndvi_scale.tokens import Loan
from test_readers_expiring import azure, codes, expected, signed_plan  # noqa: F401 - fixtures among them

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from access_services import SasService
    from ndvi_scale.cluster.submit import DaskSubmit
    from ndvi_scale.region import RegionRecord
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.sources import Access

UNREACHABLE = "http://127.0.0.9:9"


class Rules(WorkerPlugin):
    """Has workers read by the rules of the test, those that come later too."""

    name = "rules"

    def __init__(self, rules: tuple[Access, ...]) -> None:
        self.rules = rules

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        sources.ACCESS = self.rules  # type: ignore[misc]


@pytest.fixture
def workers(azure: SasService) -> Iterator[DaskSubmit]:
    with open_local(LocalSpec(workers=3)) as submit:
        submit.client.register_plugin(Rules(sources.ACCESS))
        yield submit


@pytest.fixture
def run_signed(
    azure: SasService,
    sandbox: Sandbox,
    tmp_path: Path,
    expected: np.ndarray,
    workers: DaskSubmit,
) -> Callable[[Callable[[RegionRecord], None]], float]:
    """A run on three workers that has to write the right pixels; returns how long it took."""

    def run(on_done: Callable[[RegionRecord], None]) -> float:
        plan, store = signed_plan(azure, sandbox, tmp_path), open_store(str(tmp_path / "ndvi.zarr"))
        began = time.monotonic()
        report = run_batch(plan, store, workers, on_done=on_done)
        assert not report.failed, report.failed
        np.testing.assert_array_equal(codes(store), expected)
        return time.monotonic() - began

    return run


def kept(dask_scheduler: Any) -> bytes:
    """Tasks and events of a scheduler."""
    tasks = [pickle.dumps(task.run_spec) for task in dask_scheduler.tasks.values()]
    return b"".join(tasks) + repr(dask_scheduler.get_events()).encode()


@pytest.mark.slow
def test_one_token_is_asked_for_and_is_in_no_task(
    azure: SasService,
    workers: DaskSubmit,
    run_signed: Callable[..., float],
) -> None:
    seen: list[bytes] = []
    run_signed(lambda _: seen.append(workers.client.run_on_scheduler(kept)))
    assert len(azure.asked) == 1
    assert any(b"_on_worker" in one for one in seen), "tasks were looked at"
    assert not any(b"canary" in one for one in seen)


@pytest.mark.slow
def test_it_is_renewed_and_whoever_comes_is_lent_it(
    azure: SasService,
    workers: DaskSubmit,
    run_signed: Callable[..., float],
) -> None:
    azure.lifetime = 6.0
    pids, done = list(workers.client.run(os.getpid).values()), []

    def slowly(_: RegionRecord) -> None:
        done.append(1)
        if len(done) == 3:
            os.kill(pids[0], signal.SIGKILL)
        time.sleep(0.2)

    lasted = run_signed(slowly)
    assert lasted > 1.5 * azure.lifetime
    assert 2 <= len(azure.asked) <= 2 + lasted / (0.8 * azure.lifetime)


@pytest.mark.slow
def test_where_the_driver_gets_none_workers_ask_themselves(
    azure: SasService,
    run_signed: Callable[..., float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ndvi_scale.tokens._TRIES_AGAIN", 0)
    here = [replace(rule, token_url=UNREACHABLE) if rule.signing == "sas" else rule for rule in sources.ACCESS]
    monkeypatch.setattr(sources, "ACCESS", tuple(here))
    run_signed(lambda _: None)
    assert 1 <= len(azure.asked) <= 3


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("tls://10.0.0.7:4000", True),
        ("tcp://127.0.0.1:4000", True),
        ("tcp://[::1]:4000", True),
        ("tcp://10.0.0.7:4000", False),
        ("ucx://10.0.0.7:4000", False),
    ],
)
def test_a_token_is_sent_where_nobody_else_hears_it(address: str, *, private: bool) -> None:
    assert is_private(address) is private


def test_what_is_sent_does_not_show_it() -> None:
    assert "canary" not in repr({"place": Loan("canary", 60.0)})
