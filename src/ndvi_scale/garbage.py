"""How often Python looks for garbage while a plan is made of many items, or read."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW_OBJECTS: Final = 10_000
"""Objects that are made before Python looks among them for garbage; its own number is 2000 (700 before 3.13).

An item of pystac is a circle, which only this search frees. With 2000, a plan of 105,480 items spent 10.2 s of 63
in it, half of them in looking through all granules 14 times; with 10,000, 5.6 s, and the peak of memory was the
same. To read that plan back took 11 s, then 8 s (`benchmarks/plan_size.py`).
"""

_changed = threading.Lock()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Within, the collector looks at `NEW_OBJECTS` at once, in the whole process; then as often as before.

    Where it does already, nested or in another thread, nothing changes: who came first puts back what was.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < NEW_OBJECTS or not _changed.acquire(blocking=False):
        yield
        return
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        _changed.release()
