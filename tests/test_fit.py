"""Memory of workers: what does not fit is refused before the first region, with what would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ndvi_scale.errors import ConfigError
from ndvi_scale.estimate import READER_BYTES, region_memory
from ndvi_scale.fit import Room, check_fits
from ndvi_scale.sizes import INTERPRETER_BYTES
from runs import plan_of

if TYPE_CHECKING:
    from ndvi_scale.sandbox import Sandbox


class Workers:
    """Workers with that much room."""

    def __init__(self, *rooms: Room) -> None:
        self.rooms = list(rooms)

    def memory(self) -> list[Room]:
        return self.rooms


@pytest.mark.parametrize("threads", [1, 3])
def test_each_thread_needs_a_region_s_memory(sandbox: Sandbox, threads: int) -> None:
    plan = plan_of(sandbox, chunk=256)
    least = INTERPRETER_BYTES + READER_BYTES + threads * region_memory(plan)
    check_fits(plan, Workers(Room(threads, least), Room(8, 0)), "cog")  # 0: nothing limits it
    with pytest.raises(ConfigError, match="MiB"):
        check_fits(plan, Workers(Room(threads, least), Room(threads, least - 1)), "cog")


def test_too_many_threads_are_said(sandbox: Sandbox) -> None:
    plan = plan_of(sandbox, chunk=256)
    limit = INTERPRETER_BYTES + READER_BYTES + region_memory(plan)
    with pytest.raises(ConfigError, match=r"2 threads computes 2 regions at once, and 1 of .* fit: give 1 threads"):
        check_fits(plan, Workers(Room(2, limit)), "cog")


def test_a_worker_without_room_for_python_is_said(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigError, match="a worker has 1 MiB, and takes 400 MiB before its first region"):
        check_fits(plan_of(sandbox), Workers(Room(1, 1 << 20)), "cog")
