"""Errors: what they know survives the way from a worker."""

from __future__ import annotations

import pickle

import pytest

from ndvi_scale.errors import (
    ConfigError,
    IncompleteRunError,
    ItemError,
    NdviScaleError,
    PlanMismatchError,
    ReadError,
)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("m"),
        ItemError("m", item_id="i", asset="a"),
        ReadError("m", item_id="i", asset="a", permanent=True),
        PlanMismatchError("m", differences=("a", "b")),
        IncompleteRunError("m", failed=1, done=2),
    ],
)
def test_an_error_comes_whole_out_of_another_process(error: NdviScaleError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.exit_code == error.exit_code
