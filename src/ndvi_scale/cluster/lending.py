"""A run's tokens: asked for by its driver, lent to its workers; in no task, no graph and no log.

They go over the cluster's own connections, which off this machine are encrypted; where they are not, each worker
asks for its own.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ndvi_scale.cluster.private import is_loopback
from ndvi_scale.errors import ConfigError
from ndvi_scale.tokens import TOKENS, Loan, TokenPlace

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from distributed import Client

LOG = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Seconds between looks whether a token is to be renewed."""

AGAIN_S: Final = 60.0
"""Seconds after a failure, tried several times, in which workers ask for themselves."""


class Lender:
    """Of the process that drives a run."""

    def __init__(self) -> None:
        self.lends = False
        """Whether workers are to wait for what they are lent."""
        self._busy = threading.Lock()
        self._lent: Mapping[TokenPlace, str] = {}
        self._told: frozenset[str] = frozenset()
        self._due = 0.0
        self._without_until = 0.0

    def lend(self, client: Client, workers: frozenset[str], places: Collection[TokenPlace]) -> None:
        """See to it that these workers have living tokens for these places, in a thread: a slow one delays nobody.

        To be called as often as one likes. Workers in this process have its tokens anyway.
        """
        apart = frozenset(worker for worker in workers if not worker.startswith("inproc:"))
        private = len(apart) == len(workers) and all(map(is_private, apart))
        now = time.monotonic()
        self.lends = bool(places) and private and now >= self._without_until
        if not self.lends or (apart <= self._told and now < self._due):
            return
        if self._busy.acquire(blocking=False):
            asked = client, apart, tuple(places)
            threading.Thread(target=self._work, args=asked, name="ndvi-scale-lend", daemon=True).start()

    def _work(self, client: Client, workers: frozenset[str], places: tuple[TokenPlace, ...]) -> None:
        try:
            loans = {place: TOKENS.lend(place) for place in places}
            lent = {place: loan.query for place, loan in loans.items()}
            told = workers if lent != self._lent else workers - self._told
            if told:
                client.run(accept, loans, workers=sorted(told), on_error="ignore")
            self._lent, self._told, self._due = lent, workers, time.monotonic() + LOOK_S
        except (ConnectionError, ConfigError) as error:
            self._without_until, self.lends = time.monotonic() + AGAIN_S, False
            LOG.info("workers ask for tokens themselves: %s", error)
        except (OSError, RuntimeError, TimeoutError, CancelledError) as error:
            # Not its words, which may hold what was to be sent. Who is not told asks for itself.
            LOG.debug("workers were not lent a token: %s", type(error).__name__)
        finally:
            self._busy.release()


def is_private(address: str) -> bool:
    """Whether nobody else hears what is sent to a worker."""
    parts = urlsplit(address)
    return parts.scheme == "tls" or is_loopback(parts.hostname or "")


def accept(loans: Mapping[TokenPlace, Loan]) -> None:
    """Runs on a worker."""
    TOKENS.accept(loans)
