"""What workers are given before their first region."""

from __future__ import annotations

import os

import pytest

from ndvi_scale.cluster.jobqueue import WORKER
from ndvi_scale.cluster.local import open_local
from ndvi_scale.cluster.spec import LocalSpec


def compiled() -> bool:
    from ndvi_scale.kernels import cpu

    return any(getattr(function, "signatures", None) for function in vars(cpu).values())


@pytest.mark.slow
def test_every_worker_is_ready_before_its_first_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORKER:
        monkeypatch.delenv(name, raising=False)
    with open_local(LocalSpec(workers=2, environment=(("NDVI_SCALE_TRIED", "yes"),))) as submit:
        environments = submit.client.run(lambda: dict(os.environ))
        assert len(environments) == 2
        for found in environments.values():
            assert {**WORKER, "NDVI_SCALE_TRIED": "yes"}.items() <= found.items()
        assert all(submit.client.run(compiled).values())


@pytest.mark.slow
def test_processes_come_as_there_is_work() -> None:
    with open_local(LocalSpec(adapt="0:2")) as submit:
        assert submit.capacity() == 4
        futures = [submit(os.getpid) for _ in range(4)]
        assert {future.result(60) for future in futures}
