"""Waiting for workers that were asked for, whatever they are: until they are there, or some and no more come."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ndvi_scale.cluster.submit import workers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from distributed import Client

    from ndvi_scale.cluster.spec import ClusterSpec

SETTLED: Final = 30.0
"""Seconds after the last worker came in which the run is not begun yet: more may be about to come. What comes
later joins."""

LOOK_AGAIN: Final = 0.1
"""Seconds between counts."""

SAY_AFTER: Final = 15.0
"""Seconds of waiting after which a person is told what for."""

LOG = logging.getLogger(__name__)


@dataclass
class Waiting:
    """Says once, when it has lasted for `SAY_AFTER`, what is waited for and why it has not come."""

    until: float
    """Monotonic."""
    _began: float = field(default_factory=time.monotonic)
    _said: bool = False

    def say(self, what: str, why: Callable[[], str]) -> None:
        """To be called as often as one likes; `why` may ask a server, and is called once at most."""
        now = time.monotonic()
        if not self._said and now - self._began >= SAY_AFTER:
            self._said = True
            LOG.warning("%s; waiting for up to %.0f s more: %s", what, max(0.0, self.until - now), why())


def wait_for_workers(
    client: Client,
    wanted: int,
    until: float,
    look_after: Callable[[Iterable[str]], None],
    why: Callable[[], str],
) -> int:
    """How many came: as many as wanted; or fewer, where no more come for `SETTLED`, or by `until` (monotonic).

    `look_after` is told the names of those that live, each time that they are counted; what it raises ends the
    waiting, as of none. `why` says what the others wait for. Raises ClusterError where the scheduler is gone.
    """
    changed, count, waiting = time.monotonic(), 0, Waiting(until)
    while count < wanted:
        names = [str(worker["name"]) for worker in workers_of(client).values()]
        now = time.monotonic()
        if len(names) != count:
            count, changed = len(names), now
        look_after(names)
        if names and (now - changed > SETTLED or now > until):
            break
        waiting.say(f"{count} of {wanted} workers came", why)
        time.sleep(LOOK_AGAIN)
    return count


def note_of(spec: ClusterSpec, count: int, wanted: int, began: float) -> str:
    """What a person is told of it; `began` (monotonic) is when they were asked for."""
    if not wanted:
        return f"workers come as there is work for them, {spec.adapt} of them"
    return f"{count} of {wanted} workers came in {time.monotonic() - began:.0f} s"


def note_with_reasons(note: str, why: Callable[[], str]) -> str:
    """The same of workers that did not all come, and why not, which is told at once."""
    note = f"{note}; the others join when they come: {why()}"
    LOG.warning(note)
    return note


def each_once(what: str, told: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Of pairs (name, what is said of it) each saying once: ``pod a and 2 more: pending``."""
    groups: dict[str, list[str]] = {}
    for name, said in told:
        groups.setdefault(said, []).append(name)
    for said, names in groups.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{what} {names[0]}{more}: {said}"
