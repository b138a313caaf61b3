"""The one event loop of this process that all reads of `cog` go through, in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ndvi_scale.readers.patience import REQUESTS, REQUESTS_PER_HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from concurrent.futures import Future

T = TypeVar("T")

_STOP_S: Final = 5.0


class Loop:
    """An event loop in a daemon thread, and what bounds the requests that run in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ndvi-scale-loop", daemon=True)
        self._thread.start()
        self._closing: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._hosts: dict[str, asyncio.Semaphore] = {}
        self._kept: dict[Any, Any] = {}
        self.pid = os.getpid()
        self.requests = asyncio.Semaphore(REQUESTS)
        """Of the whole process."""

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something in the loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def host(self, place: str) -> asyncio.Semaphore:
        """What bounds requests to one host or bucket."""
        return self._hosts.setdefault(place, asyncio.Semaphore(REQUESTS_PER_HOST))

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made once in this loop, such as the connections of all readers."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def at_end(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something closed before the interpreter ends: native threads must not call into what is gone."""
        self._closing.append(close)

    def stop(self) -> None:
        """Cancel what runs, close what is open, end the thread."""
        try:
            self.run(self._wind_up()).result(_STOP_S)
        except TimeoutError:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _wind_up(self) -> None:
        own = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not own]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for close in self._closing:
            await close()


_lock: Final = threading.Lock()
_here: Loop | None = None


def loop_here() -> Loop:
    """The loop of this process, started at the first call; a forked child gets its own."""
    global _here  # noqa: PLW0603 - one a process is the point
    with _lock:
        if _here is None or _here.pid != os.getpid():
            _here = Loop()
            atexit.register(_here.stop)
        return _here
