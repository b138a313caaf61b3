"""How hard a provider may be asked: connections, requests and bytes of all threads of a process together."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from ndvi_scale.sources import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ndvi_scale.readers import Traffic
    from ndvi_scale.sources import Access

_MINUTE_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.01


class Pacer:
    """Holds reads back so that together they stay within `Limits` (the numbers and their source: `sources`).

    Requests and bytes are paid for when a read is about to ask for them: the next one waits until they would have
    gone through at the allowed rate. Nothing is saved up, so there is no burst after a pause.
    """

    def __init__(self, limits: Limits, sharers: int = 1) -> None:
        self._limits = limits
        self._sharers = sharers
        self._held = 0
        self._free = threading.Condition()
        self._lock = threading.Lock()
        self._free_at = 0.0

    def share(self, sharers: int) -> None:
        """Take an equal part of the limits from now on: so many processes read at once.

        What is held stays held: a connection too many is closed when its request ends.
        """
        with self._free:
            self._sharers = sharers
            self._free.notify_all()

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Hold one of the connections."""
        with self._free:
            self._free.wait_for(self._take)
        try:
            yield
        finally:
            self._give_back()

    @asynccontextmanager
    async def connection_async(self) -> AsyncIterator[None]:
        """Hold one of the connections, in an event loop."""
        while not self._taken():  # noqa: ASYNC110 - threads hold them too
            await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            self._give_back()

    def _taken(self) -> bool:
        with self._free:
            return self._take()

    def _take(self) -> bool:
        most = self._limits.connections
        if most is not None and self._held >= max(1, most // self._sharers):
            return False
        self._held += 1
        return True

    def _give_back(self) -> None:
        with self._free:
            self._held -= 1
            self._free.notify()

    def spend(self, traffic: Traffic) -> None:
        """Wait until this much more may be asked for."""
        time.sleep(self.reserve(traffic))

    def reserve(self, traffic: Traffic) -> float:
        """Seconds to wait until this much more may be asked for; counted as asked for from now on."""
        cost = self._seconds(traffic)
        if not cost:
            return 0.0
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + cost
        return start - now

    def _seconds(self, traffic: Traffic) -> float:
        """How long this takes at the allowed rates; the slower of both counts."""
        requests, data = self._limits.requests_a_minute, self._limits.bytes_a_second
        return self._sharers * max(
            traffic.requests * _MINUTE_S / requests if requests else 0.0,
            traffic.bytes / data if data else 0.0,
        )


_FREE: Final = Pacer(Limits())
_PACERS: dict[Access, Pacer] = {}
_LOCK: Final = threading.Lock()
_shared = 0, 1
"""When the driver last said how many processes share the limits, by its clock, and how many these are."""


def pacer_of(rule: Access | None) -> Pacer:
    """The one pacer of this process for a rule; without a rule nothing is held back."""
    if rule is None:
        return _FREE
    with _LOCK:
        if rule not in _PACERS:
            _PACERS[rule] = Pacer(rule.limits, _shared[1])
        return _PACERS[rule]


def share_limits(said: int, sharers: int) -> None:
    """Have all pacers of this process take their part of the limits, `sharers` processes sharing each.

    `said`: when the driver said so, by its own clock; what it said earlier and comes later counts no more.
    """
    global _shared  # noqa: PLW0603 - one a process is the point
    with _LOCK:
        if said < _shared[0]:
            return
        _shared = said, sharers
        for pacer in _PACERS.values():
            pacer.share(sharers)
