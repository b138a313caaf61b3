"""Whoever dies, and whenever: a run that is taken up again writes the same pixels. Eight of `benchmarks/chaos`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks import chaos

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = range(8)


@pytest.fixture(scope="module")
def scene(weed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[chaos.Scene]:
    with chaos.scene(tmp_path_factory.mktemp("chaos")) as made:
        yield made


def test_each_victim_dies_on_disk_and_on_s3() -> None:
    drawn = {(trial.victim, trial.place) for trial in map(chaos.Trial.drawn, SEEDS)}
    assert len(drawn) == len(chaos.VICTIMS) * len(chaos.PLACES)


@pytest.mark.timeout(240)  # beside other tests on two cores
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost(scene: chaos.Scene, seed: int) -> None:
    trial = chaos.Trial.drawn(seed)
    assert 1 <= chaos.attempt(scene, trial) <= chaos.MOST_RUNS
