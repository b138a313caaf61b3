"""Whether a plan's regions fit the memory of workers: told before the first, with the chunk that would."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from ndvi_scale.errors import ConfigError
from ndvi_scale.estimate import READER_BYTES, region_memory, regions_in_flight
from ndvi_scale.sizes import INTERPRETER_BYTES

if TYPE_CHECKING:
    from ndvi_scale.plan import Plan


class Room(NamedTuple):
    """What a worker has."""

    threads: int
    limit: int
    """Bytes of its memory; 0 where nothing limits it."""


@runtime_checkable
class Roomy(Protocol):
    """A `batch.Submit` that knows its workers' memory."""

    def memory(self) -> list[Room]:
        """One for each worker that lives just now."""
        ...


def check_fits(plan: Plan, submit: Roomy, reader: str) -> None:
    """Make sure that each worker holds a region for each of its threads.

    Raises ConfigError that names the chunk, or the threads, that would fit.
    """
    for room in {room for room in submit.memory() if room.limit}:
        free = room.limit - INTERPRETER_BYTES
        if free <= 0:
            raise ConfigError(
                f"a worker has {room.limit / 2**20:.0f} MiB, and takes {INTERPRETER_BYTES >> 20} MiB before its "
                "first region: give each 1 GiB or more"
            )
        share = READER_BYTES + max(0, free - READER_BYTES) // room.threads
        fitting = regions_in_flight(plan, room.threads, free, reader)  # refuses where not even one fits
        if fitting < room.threads:
            try:
                regions_in_flight(plan, 1, share, reader)
            except ConfigError as error:
                raise ConfigError(
                    f"a worker of {room.limit / 2**20:.0f} MiB and {room.threads} threads computes {room.threads} "
                    f"regions at once, and {fitting} of {region_memory(plan, reader) / 2**20:.0f} MiB fit: give "
                    f"{fitting} threads a worker; or, for a share of each thread: {error}"
                ) from None
