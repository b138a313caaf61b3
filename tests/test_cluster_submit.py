"""What becomes of a region that a cluster was given."""

from __future__ import annotations

from typing import Any

import pytest

from ndvi_scale.cluster.submit import DaskSubmit, _Task
from ndvi_scale.errors import ClusterError


class Client:
    """Says what state it is in, from one question to the next."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)

    @property
    def status(self) -> str:
        return self.states.pop(0)


class Done:
    """A future whose value does not come in time, at first."""

    def __init__(self, status: str, *values: Any) -> None:
        self.status, self.values = status, list(values)
        self.limits: list[float] = []

    def result(self, timeout: float | None = None) -> Any:
        assert timeout, "with no limit it would be waited for for ever where the loop has stopped"
        self.limits.append(timeout)
        value = self.values.pop(0)
        if isinstance(value, BaseException):
            raise value
        return value


def finished(done: Done, *states: str) -> _Task:
    task = _Task(DaskSubmit(Client(*states)), print, ())  # type: ignore[arg-type]
    task.finish(done)  # type: ignore[arg-type]
    return task


def test_a_value_that_was_on_its_way_when_the_client_was_closed_is_lost() -> None:
    task = finished(Done("finished", TimeoutError(), TimeoutError()), "running", "closed")
    with pytest.raises(ClusterError, match="the scheduler is gone"):
        task.outcome.result(0)


def test_a_slow_value_is_asked_for_with_more_patience() -> None:
    done = Done("finished", TimeoutError(), TimeoutError(), 7)
    assert finished(done, "running", "connecting").outcome.result(0) == 7
    assert done.limits == sorted(set(done.limits))


def test_a_time_out_of_the_region_itself_is_its_error() -> None:
    task = finished(Done("error", TimeoutError("of its own")), "running")
    with pytest.raises(TimeoutError, match="of its own"):
        task.outcome.result(0)
