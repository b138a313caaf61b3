"""What a run needs of a Dask cluster: futures of regions that workers compute.

A worker is told where the run is and which plan it has, never the plan itself: it reads that once from the run's
own state. So a task is a few hundred bytes whatever the size of the run, no worker depends on another one's memory,
and a task of an older plan finds out that it is late.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.lending import Lender
from ndvi_scale.errors import ClusterError, NdviScaleError, ReadError
from ndvi_scale.fit import Room
from ndvi_scale.readers.pacing import share_limits
from ndvi_scale.tokens import TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from distributed import Client
    from distributed import Future as DaskFuture

    from ndvi_scale.tokens import TokenPlace

logger = logging.getLogger(__name__)

LOST_WORKERS: Final = 3
"""Workers that may die over one region before it is set aside: one that kills each takes no more of them along."""

SETTINGS: Final = {
    "distributed.scheduler.allowed-failures": LOST_WORKERS - 1,
    "distributed.worker.profile.enabled": False,  # it looks at all threads a hundred times a second
}
"""Dask's settings, for a scheduler of ours and workers of this machine."""

TRIES: Final = 3
"""Workers that a region is tried on when an asset cannot be read and another try may help: a node's own network may
be the cause."""

GONE: Final = (
    "the scheduler is gone, and with it what its workers had in work: what is written is whole; run the same "
    "command again, on this cluster or another"
)

VALUE_S: Final = 5.0
"""Seconds for the few kilobytes that a worker gives, before it is looked whether the scheduler is still there."""

FRESH: Final = 1.0
"""Seconds for which the list of workers is taken for true: asking costs a message of a kilobyte a worker."""


def workers_of(client: Client) -> dict[str, Any]:
    """What the scheduler says of the workers that live, by address. Raises ClusterError where it is gone."""
    try:
        return client.scheduler_info(n_workers=-1)["workers"]
    except (OSError, TimeoutError, KeyError):  # the last: what a client knows of one that it has given up
        raise ClusterError(GONE) from None


class _Seen:
    """The workers as the scheduler told of them last; asked again when that is `FRESH` seconds old."""

    def __init__(self) -> None:
        self._workers: dict[str, Any] = {}
        self._until = 0.0

    def workers(self, client: Client) -> dict[str, Any]:
        if time.monotonic() >= self._until:
            self._workers = workers_of(client)
            self._until = time.monotonic() + FRESH
        return self._workers


class _Shared:
    """What the workers were told last of how many share the limits."""

    def __init__(self) -> None:
        self.said = 0, 1
        """When (ns), and how many: see `share_limits`."""
        self._told: frozenset[str] = frozenset()
        self.retried = 0
        """Regions that were tried again after an asset could not be read."""

    def tell(self, client: Client, sharers: int, workers: frozenset[str]) -> None:
        if sharers == self.said[1] and workers <= self._told:
            return
        self.said, self._told = (time.time_ns(), sharers), workers
        # In a thread: a worker that does not answer must not keep the run waiting.
        told = partial(client.run, share_limits, *self.said, workers=list(workers), on_error="ignore")
        threading.Thread(target=_without_loss, args=(told,), name="ndvi-scale-share", daemon=True).start()


def _without_loss(action: Callable[[], Any]) -> None:
    """Do what only hastens: each task says it as well."""
    try:
        action()
    except (OSError, RuntimeError, TimeoutError, CancelledError) as error:
        logger.debug("workers were not told their share: %s", error)


def _process(address: str) -> str:
    """What a worker shares with others of its process: ``inproc://`` addresses end in a number within it."""
    return address.rpartition("/")[0] if address.startswith("inproc://") else address


@dataclass(frozen=True)
class DaskSubmit:
    """Submits to the workers of a client."""

    client: Client
    expected: int = 0
    """Regions to hold ready even where no worker is: those of workers that are to come."""
    look_after: Callable[[Iterable[str]], None] | None = None
    """Told the names of the workers that live, each time that they are counted; raises ClusterError to end it."""
    note: str = ""
    """How the cluster came, for a person: such as ``7 of 8 workers came in 31 s; …``."""
    seen: _Seen = field(default_factory=_Seen, repr=False, compare=False)
    shared: _Shared = field(default_factory=_Shared, repr=False, compare=False)
    lender: Lender = field(default_factory=Lender, repr=False, compare=False)

    def capacity(self) -> int:
        """Threads of the workers that live, and one region more for each, so that none waits for this process."""
        workers = self._workers()
        if self.look_after is not None:
            self.look_after([str(worker["name"]) for worker in workers.values()])
        threads = sum(worker["nthreads"] for worker in workers.values())
        return max(threads + len(workers), self.expected, 1)

    def sharers(self) -> int:
        """Processes that read from the sources at once."""
        return max(1, len({_process(address) for address in self._workers()}))

    def memory(self) -> list[Room]:
        """Threads and memory of each worker that lives."""
        return [Room(worker["nthreads"], worker["memory_limit"] or 0) for worker in self._workers().values()]

    def share(self, sharers: int) -> None:
        """Tell the workers that live how many processes share the limits of sources, unless they were told.

        Those in the middle of a region too; and each task says it again, so that a worker that came since knows.
        """
        self.shared.tell(self.client, sharers, frozenset(self._workers()))

    def lend(self, places: Collection[TokenPlace]) -> None:
        """Lend the workers that live the tokens for these places, renewed where it is time."""
        self.lender.lend(self.client, frozenset(self._workers()), places)

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run a function on some worker.

        What is lost with its worker runs again on another, and so does, on one that has not tried it yet, what
        could not read an asset where another try may help. The error that remains names every cause.
        """
        task = _Task(self, function, args)
        task.start()
        return task.outcome

    def _workers(self) -> dict[str, Any]:
        return self.seen.workers(self.client)


@dataclass(frozen=True)
class _Task:
    """A region's work and the tries at it so far."""

    submit: DaskSubmit
    function: Callable[..., Any]
    args: tuple[Any, ...]
    outcome: Future[Any] = field(default_factory=Future)
    causes: dict[str, str] = field(default_factory=dict)
    """Worker → what went wrong there."""

    def start(self) -> None:
        """Try it, on a worker that has not tried it if there is one."""
        others = [worker for worker in self.submit._workers() if worker not in self.causes]  # noqa: SLF001
        elsewhere = {"workers": others, "allow_other_workers": True} if self.causes and others else {}
        given = self.submit.shared.said, self.submit.lender.lends, self.function, *self.args
        try:
            running = self.submit.client.submit(_on_worker, *given, pure=False, **elsewhere)
        except (OSError, RuntimeError):  # the client has given the scheduler up
            raise ClusterError(GONE) from None
        running.add_done_callback(self.finish)

    def finish(self, done: DaskFuture) -> None:
        """Hand on what became of it, in words of ours where the cluster is to blame, or try again."""
        try:
            value = self._value(done)
        except ReadError as error:
            worker = getattr(error, "worker", "a worker")
            self.causes[worker] = str(error)
            if error.permanent or len(self.causes) >= TRIES:
                self.outcome.set_exception(self._with_causes(error))
            else:
                self._again()
        except BaseException as error:  # noqa: BLE001 - whatever it is, whoever waits has to see it
            self.outcome.set_exception(_told(error))
        else:
            self.outcome.set_result(value)

    def _value(self, done: DaskFuture) -> Any:
        """What a worker gave. Raises what it raised, and ClusterError where it is lost with the scheduler.

        Asked for with a limit, again and again: what was on its way when the client was closed never comes, and the
        interpreter waits for this thread at its end.
        """
        patience = VALUE_S
        while True:
            try:
                return done.result(timeout=patience)
            except TimeoutError:
                if done.status == "error":  # the region's own
                    raise
                if self.submit.client.status in {"closing", "closed"}:
                    raise ClusterError(GONE) from None
                patience *= 2

    def _again(self) -> None:
        self.submit.shared.retried += 1
        try:
            self.start()
        except ClusterError as error:
            self.outcome.set_exception(error)

    def _with_causes(self, error: ReadError) -> ReadError:
        if len(self.causes) == 1:
            return error
        tried = "; ".join(f"{worker}: {why}" for worker, why in self.causes.items())
        return ReadError(
            f"tried on {len(self.causes)} workers: {tried}",
            item_id=error.item_id,
            asset=error.asset,
            permanent=error.permanent,
        )


def _on_worker(said: tuple[int, int], borrows: bool, function: Callable[..., Any], *args: Any) -> Any:  # noqa: FBT001
    """Runs on a worker; an error says which one it was."""
    from distributed import get_worker

    share_limits(*said)
    TOKENS.borrow(borrows=borrows)
    try:
        return function(*args)
    except ReadError as error:
        error.worker = get_worker().address  # pyright: ignore[reportAttributeAccessIssue]
        raise


def _told(error: BaseException) -> BaseException:
    """An error of the cluster in words of ours; any other as it is."""
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    if isinstance(error, KilledWorker):
        last = error.last_worker.address if error.last_worker else "unknown"
        return NdviScaleError(
            f"{LOST_WORKERS} workers died over it, the last {last} (too little memory, or the job's end): it is "
            "set aside; run again with fewer threads a worker, or a smaller chunk"
        )
    if isinstance(error, CancelledError | CommClosedError):  # the second while a result was on its way
        return ClusterError(GONE)
    return error
