"""`garbage`: the collector is as before afterwards, whatever happened within."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import pytest

from ndvi_scale.config import RunConfig
from ndvi_scale.errors import EmptySearchError
from ndvi_scale.garbage import NEW_OBJECTS, seldom_collected
from ndvi_scale.plan import build_plan, build_plans

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_the_collector_is_as_before_afterwards() -> None:
    gc.set_threshold(701, 11, 12)
    with seldom_collected():
        assert gc.get_threshold() == (NEW_OBJECTS, 11, 12)
    assert gc.get_threshold() == (701, 11, 12)
    with pytest.raises(ValueError, match="within"), seldom_collected():
        raise ValueError("within")
    assert gc.get_threshold() == (701, 11, 12)


@pytest.mark.parametrize("chosen", [0, 50_000])
def test_a_process_that_collects_never_or_less_often_is_left_alone(chosen: int) -> None:
    gc.set_threshold(chosen, 11, 12)
    with seldom_collected():
        assert gc.get_threshold() == (chosen, 11, 12)
    assert gc.get_threshold() == (chosen, 11, 12)


def test_nested_and_beside_each_other_the_first_puts_back_what_was() -> None:
    gc.set_threshold(701, 11, 12)
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with seldom_collected(), seldom_collected():
            entered.set()
            assert leave.wait(10)

    with seldom_collected():
        beside = threading.Thread(target=other)
        beside.start()
        assert entered.wait(10)
    leave.set()  # the other thread ends after the one that came first
    beside.join()
    assert gc.get_threshold() == (701, 11, 12)


@pytest.mark.parametrize("build", [build_plan, build_plans])
def test_items_are_taken_within(build: object) -> None:
    gc.set_threshold(701, 11, 12)
    seen = []

    def items() -> Iterator[object]:
        seen.append(gc.get_threshold()[0])
        return iter(())
        yield

    with pytest.raises(EmptySearchError):
        build(items(), RunConfig(catalog="x"))  # type: ignore[operator]
    assert seen == [NEW_OBJECTS]
    assert gc.get_threshold() == (701, 11, 12)
