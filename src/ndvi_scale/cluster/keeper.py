"""Watches over the jobs of a run: how many workers came, why not more, and which jobs have to be sent again."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.arrival import each_once, note_of, note_with_reasons, wait_for_workers
from ndvi_scale.cluster.jobqueue import log_folder
from ndvi_scale.cluster.queue import how_to_ask, standings
from ndvi_scale.errors import ClusterError
from ndvi_scale.outside import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distributed import Client

    from ndvi_scale.cluster.queue import Standing
    from ndvi_scale.cluster.spec import JobSpec

STILLBORN: Final = 3
"""Jobs that may end without a worker ever coming of them; no more are sent in their place then."""

ASK_EVERY: Final = 5.0
"""Seconds between questions to the queue: its controller serves the whole site."""

SHOWN: Final = 5
"""Lines of a job's log that are shown."""

LOG = logging.getLogger(__name__)


@dataclass
class Keeper:
    """Called by the thread that runs the run; talks to the cluster through its own loop alone."""

    spec: JobSpec
    cluster: Any
    stillborn: dict[str, str] = field(default_factory=dict)
    """Job → why no worker came of it."""
    _alive_at: float = field(default_factory=time.monotonic)
    _asked_at: float = 0.0
    _came: set[str] = field(default_factory=set)

    def wait(self, client: Client, wanted: int) -> str:
        """Wait until that many workers are there, or some and no more come; returns how many, and why not more.

        Raises ClusterError when none comes within `spec.wait`, or none can.
        """
        began = time.monotonic()
        count = wait_for_workers(client, wanted, began + self.spec.wait, self.look, self._reasons)
        note = note_of(self.spec, count, wanted, began)
        return note if count >= wanted else note_with_reasons(note, self._reasons)

    def look(self, alive: Iterable[str]) -> None:
        """See to it that jobs which ended come back. Raises ClusterError where nothing is left to wait for."""
        names, now = set(alive), time.monotonic()
        self._came |= names
        if names:
            self._alive_at = now
        if now - self._asked_at < ASK_EVERY:
            return
        self._asked_at = now
        dead = self._dead(names)
        if dead:
            self.cluster.sync(self._forget, dead)
            # Their names are given again to those that are sent in their place.
            self._came = {worker for worker in self._came if not any(_has([worker], name) for name in dead)}
        if names:
            return
        if len(self.stillborn) >= STILLBORN:
            raise ClusterError(
                f"{len(self.stillborn)} jobs of the {self.spec.kind} cluster ended before a worker came of them, "
                f"the last one, {self._last()}"
            )
        if now - self._alive_at > self.spec.wait:
            raise ClusterError(
                f"no worker of the {self.spec.kind} cluster came in {self.spec.wait:g} s: {self._reasons()}. What "
                "is written is whole; wait longer (wait = seconds), or ask for less"
            )

    def _jobs(self) -> dict[str, tuple[str | None, str | None]]:
        """Name → identifier and refusal of each job that is asked for."""

        async def listed() -> dict[str, tuple[str | None, str | None]]:
            return {
                str(name): (job.job_id, getattr(job, "refused", None)) for name, job in self.cluster.workers.items()
            }

        return self.cluster.sync(listed)

    def _dead(self, alive: set[str]) -> list[str]:
        """Names of jobs that have ended and whose workers are not there; those of which none came are noted."""
        jobs = self._jobs()
        where = standings(self.spec.kind, [job for job, _ in jobs.values() if job]) or {}
        dead = []
        for name, (job, refused) in jobs.items():
            over = refused is not None or (job in where and where[job].over)
            if not over or _has(alive, name):
                continue
            if not _has(self._came, name):
                if len(self.stillborn) >= STILLBORN:
                    continue
                self.stillborn[job or f"{len(self.stillborn) + 1}"] = self._why(job, refused, where)
                LOG.warning("%s", self._last())
            dead.append(name)
        return dead

    async def _forget(self, names: list[str]) -> None:
        """Take jobs that ended out of what the cluster has: the adaptation misses them then, and sends others."""
        for name in [name for name in self.cluster.workers if str(name) in names]:
            await self.cluster.workers.pop(name).close()
            self.cluster.worker_spec.pop(name, None)

    def _why(self, job: str | None, refused: str | None, where: dict[str, Standing]) -> str:
        if job is None:
            return f"was refused: {printable(refused or 'without a word')}"
        told = where[job].said if job in where else "ended"
        tail = " | ".join(self._log_tail(job))
        return f"{printable(told)}; its log ends: {tail}" if tail else f"{printable(told)}, without a log"

    def _last(self) -> str:
        job, why = list(self.stillborn.items())[-1]
        return f"job {job}: {why}"

    def _log_tail(self, job: str) -> list[str]:
        """Last lines that a job wrote."""
        number = job.partition(".")[0]
        try:
            found = sorted(Path(log_folder(self.spec)).glob(f"*{number}*"), key=lambda path: path.stat().st_mtime)
            lines = [line for path in found for line in path.read_text(errors="replace").splitlines()]
        except OSError:
            return []
        return [printable(line.strip()) for line in lines if line.strip()][-SHOWN:]

    def _reasons(self) -> str:
        """Why there are no more workers, each reason once."""
        jobs = self._jobs()
        where = standings(self.spec.kind, [job for job, _ in jobs.values() if job])
        told = list(each_once("job", self._told(jobs, where or {})))
        if self.stillborn:
            told.append(self._last())
        if where is None:
            told.append(f"`{how_to_ask(self.spec.kind)}` says why")
        return "; ".join(told) or "no job was asked for"

    def _told(
        self, jobs: dict[str, tuple[str | None, str | None]], where: dict[str, Standing]
    ) -> Iterator[tuple[str, str]]:
        for name, (job, refused) in jobs.items():
            if refused is not None:
                yield name, f"refused: {printable(refused)}"
            elif job in where and not _has(self._came, name):
                yield str(job), printable(where[job].said)


def _has(workers: Iterable[str], job: str) -> bool:
    """Whether a job's worker, or one of its several, is among these."""
    return any(worker == job or worker.startswith(f"{job}-") for worker in workers)
