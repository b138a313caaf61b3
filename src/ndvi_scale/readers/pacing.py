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

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections = threading.BoundedSemaphore(limits.connections) if limits.connections else None
        self._lock = threading.Lock()
        self._free_at = 0.0

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Hold one of the connections."""
        if self._connections is None:
            yield
            return
        with self._connections:
            yield

    @asynccontextmanager
    async def connection_async(self) -> AsyncIterator[None]:
        """Hold one of the connections, in an event loop."""
        if self._connections is None:
            yield
            return
        while not self._connections.acquire(blocking=False):  # noqa: ASYNC110 - threads hold them too
            await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            self._connections.release()

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
        return max(
            traffic.requests * _MINUTE_S / requests if requests else 0.0,
            traffic.bytes / data if data else 0.0,
        )


_FREE: Final = Pacer(Limits())
_PACERS: dict[Access, Pacer] = {}
_LOCK: Final = threading.Lock()


def pacer_of(rule: Access | None) -> Pacer:
    """The one pacer of this process for a rule; without a rule nothing is held back."""
    if rule is None:
        return _FREE
    with _LOCK:
        if rule not in _PACERS:
            _PACERS[rule] = Pacer(rule.limits)
        return _PACERS[rule]
