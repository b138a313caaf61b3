"""Every kind has its way to open, and opening one imports what it needs and no more."""

from __future__ import annotations

from importlib import import_module

import pytest

from ndvi_scale import find_spec, open_cluster
from ndvi_scale.cluster.making import SPECS
from ndvi_scale.cluster.opening import _OPENERS
from ndvi_scale.cluster.profiles import BUILT_IN


def test_every_kind_can_be_opened() -> None:
    assert set(_OPENERS) == set(SPECS)


@pytest.mark.parametrize("place", sorted(set(_OPENERS.values())))
def test_openers_are_there(place: str) -> None:
    module, _, function = place.partition(":")
    assert callable(getattr(import_module(module), function))


def test_threads_by_name() -> None:
    with open_cluster(find_spec("threads", BUILT_IN, {"workers": 2})) as submit:
        assert submit(divmod, 7, 2).result() == (3, 1)
