"""Who drives a run: one lease at a time, beside the ledger.

Leases are numbered objects, each created only if absent, so that of two drivers that want the next one gets it, on
any store. The holder overwrites its own now and then, which says that it lives. A lease counts for nothing when it
was given back, when its process is gone (where that can be seen), or when it has been silent for `SILENT`.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
import logging
import os
import socket
import threading
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

import psutil

from ndvi_scale.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ndvi_scale.store import Store

logger = logging.getLogger(__name__)

FOLDER: Final = "lease/"
BEAT: Final = 20.0
"""Seconds between signs of life."""
SILENT: Final = dt.timedelta(minutes=5)
"""After so long a silence a driver counts as dead: clocks of two machines may differ, and a store may be away for a
while."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as it is stored."""

    id: str
    user: str
    host: str
    pid: int
    born: float
    """When the process was created (seconds of its machine's clock): a number may be given to another one later."""
    beat: str
    """Last sign of life, ISO, UTC."""
    released: bool = False

    def __str__(self) -> str:
        """For people."""
        return f"{self.user} on {self.host}, process {self.pid}, last seen {self.beat}"

    def counts(self, now: dt.datetime) -> bool:
        """Whether it still keeps others out."""
        if self.released or now - dt.datetime.fromisoformat(self.beat) > SILENT:
            return False
        return self.host != socket.gethostname() or _lives(self.pid, self.born)


@contextmanager
def hold(store: Store) -> Iterator[Lease]:
    """The lease of a run, given back at the end. Raises StoreError where another driver has it, and says whose."""
    lease = _take(store)
    stop = threading.Event()
    beating = threading.Thread(target=lease.keep, args=(stop,), name="lease", daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        stop.set()
        beating.join()
        lease.give_back()


def require_free(store: Store) -> list[str]:
    """Names of the leases that there were. Raises StoreError where another driver has the last.

    Asked before what would be in vain, or would end another's work.
    """
    names = store.state_names(FOLDER)
    if before := _who_counts(store, names):
        raise StoreError(
            f"{store.url} is being written by {before}: wait for it or stop it; if it is dead, --break-lock takes "
            "over"
        )
    return names


def take_over(store: Store) -> Holder | None:
    """Put an end to whoever's lease it is: that driver stops before it notes anything more. Returns who it was.

    None where nobody had it.
    """
    names = store.state_names(FOLDER)
    before = _who_counts(store, names)
    if before is not None:
        _create(store, number_of(names[-1]) + 1, replace(_myself(), released=True))
    return before


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds."""

    store: Store
    number: int
    holder: Holder

    def check(self) -> None:
        """Make sure that no later lease was taken, and that this one is there. Raises StoreError."""
        names = self.store.state_names(FOLDER)
        own = _read(self.store, _name(self.number))
        if own is None or own.id != self.holder.id:
            raise StoreError(f"{self.store.url} was deleted or begun anew by another driver: this one stops")
        if number_of(names[-1]) > self.number:
            raise StoreError(
                f"another driver has taken over {self.store.url} ({_read(self.store, names[-1])}): this one stops; "
                "what it noted is kept"
            )

    def keep(self, stop: threading.Event) -> None:
        """Say that it lives until it is told to stop; a store that is away for a while is asked again."""
        while not stop.wait(BEAT):
            try:
                self._write(replace(self.holder, beat=_now().isoformat(timespec="seconds")))
            except StoreError as error:
                logger.warning("the lease cannot be renewed: %s", error)

    def give_back(self) -> None:
        """So that the next need not wait; where that fails, `SILENT` passes."""
        try:
            self._write(replace(self.holder, released=True))
        except StoreError as error:
            logger.warning("the lease cannot be given back: %s", error)

    def _write(self, holder: Holder) -> None:
        self.store.put_state(_name(self.number), json.dumps(asdict(holder)).encode())


def _take(store: Store) -> Lease:
    names = require_free(store)
    lease = Lease(store, number_of(names[-1]) + 1 if names else 0, _myself())
    if not _create(store, lease.number, lease.holder):
        return _take(store)  # another one was faster, and is told of
    return lease


def _create(store: Store, number: int, holder: Holder) -> bool:
    return store.put_state(_name(number), json.dumps(asdict(holder)).encode(), create=True)


def _myself() -> Holder:
    return Holder(
        id=uuid.uuid4().hex,
        user=getpass.getuser(),
        host=socket.gethostname(),
        pid=os.getpid(),
        born=psutil.Process().create_time(),
        beat=_now().isoformat(timespec="seconds"),
    )


def _who_counts(store: Store, names: list[str]) -> Holder | None:
    """The holder of the last of these leases, where it still keeps others out."""
    last = _read(store, names[-1]) if names else None
    return last if last is not None and last.counts(_now()) else None


def _read(store: Store, name: str) -> Holder | None:
    """The holder of a lease; None where it cannot be read, which keeps nobody out."""
    try:
        return Holder(**json.loads(store.get_state(name) or b""))
    except (ValueError, TypeError):
        return None


def _lives(pid: int, born: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - born) < 1
    except psutil.Error:
        return False


def _name(number: int) -> str:
    return f"{FOLDER}{number:08}.json"


def number_of(name: str) -> int:
    """The number of a numbered object of a run's state, such as a lease or a segment of the ledger."""
    return int(name.rpartition("/")[2].partition(".")[0])


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
