"""Byte ranges of assets, whatever it takes: signed now, tried again, never too many at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ndvi_scale.access import locate, place_of
from ndvi_scale.readers import Traffic
from ndvi_scale.readers.files import REFUSED
from ndvi_scale.readers.pacing import pacer_of
from ndvi_scale.readers.ranges import RangeError, RangeReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ndvi_scale.access import Address, Place
    from ndvi_scale.readers.loop import Loop
    from ndvi_scale.readers.patience import Patience


class FetchError(Exception):
    """A range could not be had."""

    def __init__(self, error: RangeError, tries: int, address: Address | None) -> None:
        super().__init__(f"{error}{'' if tries == 1 else f', {tries} times'}")
        self.status = error.status
        self.lasting = error.lasting
        self.address = address


class Fetcher:
    """Fetches ranges, in one event loop."""

    def __init__(self, loop: Loop, patience: Patience) -> None:
        self._loop = loop
        self._patience = patience
        self._ranges = RangeReader(patience)
        self._quiet_until: dict[str, float] = {}
        self._absent_since: dict[str, float] = {}
        loop.at_end(self._ranges.close)

    async def get(self, href: str, start: int, length: int) -> memoryview:
        """`length` bytes of an asset, or those up to its end. Raises FetchError, and ConfigError without keys."""
        end = time.monotonic() + self._patience.deadline
        place, address = place_of(href), None
        refused, tries = "", 0
        while True:
            tries += 1
            try:
                async with self._allowed(place, length):
                    # Only now: a token could die while its request waits its turn.
                    address = await _located(href, place, refused)
                    return await self._try(address, start, length, end)
            except RangeError as failure:
                error = failure
            wait = self._patience.wait(tries, error.said)
            if address and address.token and not refused and error.status in REFUSED:
                refused = address.token  # once: another token may be accepted
            elif error.final or tries >= self._tries(place, error) or time.monotonic() + wait > end:
                if error.nobody:
                    self._absent_since[place.name] = time.monotonic()
                raise FetchError(error, tries, address)
            else:
                if error.said:
                    self._quiet_until[place.name] = time.monotonic() + wait
                await asyncio.sleep(wait)

    def _tries(self, place: Place, error: RangeError) -> int:
        """How often to try: hardly where there is no server, and for a while once only."""
        if not error.nobody:
            return self._patience.tries
        since = self._absent_since.get(place.name)
        soon = since is not None and time.monotonic() - since < self._patience.absent
        return 1 if soon else min(self._patience.tries, self._patience.tries_where_nobody_is)

    async def _try(self, address: Address, start: int, length: int, end: float) -> memoryview:
        longest = min(self._patience.longest_try(length), max(0.1, end - time.monotonic()))
        try:
            async with asyncio.timeout(longest):
                return await self._ranges.get(address, start, length)
        except TimeoutError:
            raise RangeError(f"{length} bytes did not come within {longest:.0f} s") from None

    @asynccontextmanager
    async def _allowed(self, place: Place, length: int) -> AsyncIterator[None]:
        """Wait until a request may go out: by our own limits, by the provider's, and by what its server said."""
        pacer = pacer_of(place.rule)
        async with self._loop.host(place.name), self._loop.requests, pacer.connection_async():
            await asyncio.sleep(pacer.reserve(Traffic(1, length)))
            while (quiet := self._quiet_until.get(place.name, 0.0) - time.monotonic()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(quiet)
            yield


async def _located(href: str, place: Place, refused: str) -> Address:
    try:
        if place.may_wait:
            return await asyncio.to_thread(locate, href, refused)
        return locate(href, refused)
    except OSError as error:
        raise RangeError(str(error)) from None
