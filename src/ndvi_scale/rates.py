"""A source's limits are those of the run: what its processes share, and how many regions may read at once."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ndvi_scale.sources import access_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Future

    from ndvi_scale.plan import Plan
    from ndvi_scale.tokens import TokenPlace


@runtime_checkable
class Sharing(Protocol):
    """A `batch.Submit` onto several processes, which share what a source allows."""

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """See `batch.Submit`."""
        ...

    def capacity(self) -> int:
        """Regions that it takes at once just now."""
        ...

    def sharers(self) -> int:
        """Processes that live just now."""
        ...

    def share(self, sharers: int) -> None:
        """Tell every process, new ones too, how many of them read at once."""
        ...

    def lend(self, places: Collection[TokenPlace]) -> None:
        """Lend every process, new ones too, the tokens of this one."""
        ...


def fewest_connections(plan: Plan) -> int | None:
    """Connections that the strictest of a plan's sources allows; None where none says anything."""
    rules = {access_of(href) for href in plan.hrefs()}
    allowed = [rule.limits.connections for rule in rules if rule and rule.limits.connections]
    return min(allowed, default=None)


def regions_at_once(capacity: int, processes: int, connections: int | None) -> int:
    """How many regions may be in flight: a process needs one connection to read at all."""
    if connections is None or connections >= processes:
        return capacity
    return min(capacity, connections)


class SharedSubmit:
    """Submits to processes that together stay within the limits of a plan's sources.

    Asked again whenever a region is finished, `capacity` also says to the processes how many of them share: those
    that may have a region just now, not those that are idle because a source allows fewer connections.
    They are lent the tokens for what is `signed`: one is asked for, not one a process.
    """

    def __init__(
        self,
        submit: Sharing,
        connections: int | None,
        most: int | None = None,
        signed: Collection[TokenPlace] = (),
    ) -> None:
        self._submit = submit
        self._signed = signed
        self._connections = connections
        self._most = most
        self._lock = Lock()
        self._running = 0

    def capacity(self) -> int:
        """See `Sharing`; at most `most`."""
        processes = self._submit.sharers()
        regions = regions_at_once(self._most or self._submit.capacity(), processes, self._connections)
        self._submit.share(min(processes, max(regions, self._running)))
        self._submit.lend(self._signed)
        return regions

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """See `Sharing`."""
        with self._lock:
            self._running += 1
        future = self._submit(function, *args)
        future.add_done_callback(self._finished)
        return future

    def _finished(self, _: Future[Any]) -> None:
        with self._lock:
            self._running -= 1
