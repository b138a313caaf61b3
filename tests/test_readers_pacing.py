"""Pacing: what threads ask for together stays within the limits, and not much below them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndvi_scale.readers import Traffic, pacing
from ndvi_scale.readers.pacing import Pacer, pacer_of
from ndvi_scale.sources import ACCESS, Access, Limits


class Clock:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@settings(max_examples=50)
@given(
    reads=st.lists(st.builds(Traffic, st.integers(0, 40), st.integers(0, 10**8)), min_size=1, max_size=8),
    requests=st.one_of(st.none(), st.integers(1, 5000)),
    data=st.one_of(st.none(), st.integers(1000, 10**9)),
)
def test_nothing_is_asked_for_sooner_than_allowed(
    reads: list[Traffic], requests: int | None, data: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(pacing, "time", clock)
        pacer = Pacer(Limits(requests_a_minute=requests, bytes_a_second=data))
        started, before, least = clock.now, Traffic(), 0.0
        for read in reads:
            pacer.spend(read)
            passed = clock.now - started
            cost = max(60 * read.requests / requests if requests else 0, read.bytes / data if data else 0)
            if cost:
                assert requests is None or before.requests <= requests * passed / 60 + 1e-3
                assert data is None or before.bytes <= data * (passed + 1e-6)
                assert passed == pytest.approx(least, abs=1e-6)  # and not later than need be
            least += cost
            before += read


def test_a_pause_saves_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    pacer = Pacer(Limits(requests_a_minute=60))
    pacer.spend(Traffic(requests=1))
    clock.now += 3600
    started = clock.now
    for _ in range(5):
        pacer.spend(Traffic(requests=1))
    assert clock.now - started == pytest.approx(4)


def test_threads_share_the_rate() -> None:
    pacer, started = Pacer(Limits(requests_a_minute=6000)), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: pacer.spend(Traffic(requests=1)), range(60)))
    assert time.monotonic() - started >= 0.59


def test_threads_share_the_connections() -> None:
    pacer, lock, held, most = Pacer(Limits(connections=3)), threading.Lock(), [0], [0]

    def read(_: int) -> None:
        with pacer.connection():
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])
            time.sleep(0.01)
            with lock:
                held[0] -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(read, range(40)))
    assert most == [3]


def test_a_connection_comes_back_after_a_failure() -> None:
    pacer = Pacer(Limits(connections=1))
    for _ in range(3):
        with pytest.raises(KeyError), pacer.connection():
            raise KeyError


def test_one_pacer_a_rule() -> None:
    rule = next(rule for rule in ACCESS if rule.name == "cdse")
    assert pacer_of(rule) is pacer_of(rule)
    assert pacer_of(rule) is not pacer_of(Access("other"))
    assert pacer_of(None) is pacer_of(None)
