"""What the cube says of the offsets of its items."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import runs
from ndvi_scale import cf

if TYPE_CHECKING:
    from ndvi_scale.sandbox import Sandbox


def test_offsets_are_told_once_with_their_items(sandbox: Sandbox) -> None:
    plan = runs.plan_of(sandbox)
    said = cf.cube_attributes(plan)["offsets"]
    assert [(group["red"], group["nir"], group["evidence"]) for group in said] == [
        (-1000, -1000, "declared by the asset, baseline 05.00"),
        (0, 0, "baseline 03.01 is before 04.00"),
        (0, 0, "baseline 03.01 is before 04.00; only where a newer processing cannot be read"),
        (0, 0, "earthsearch:boa_offset_applied is true: it is in this COG already"),
    ]
    told = {item_id: group["red"] for group in said for item_id in group["ids"]}
    (spare,) = [spare for spares in plan.spares.values() for spare in spares]
    assert told == {granule.id: granule.red.offset for granule in (*plan.granules, spare)}
    assert [group["items"] for group in said] == [len(group["ids"]) for group in said]
    json.dumps(said)


def test_bands_that_differ_are_told_apart(sandbox: Sandbox) -> None:
    plan = runs.plan_of(sandbox)
    first = plan.granules[0]
    other = dataclasses.replace(first, nir=dataclasses.replace(first.nir, offset=-500, evidence="for a test"))
    changed = dataclasses.replace(plan, granules=(other, *plan.granules[1:]))
    (group,) = [group for group in cf.cube_attributes(changed)["offsets"] if group["nir"] == -500]
    assert (group["red"], group["ids"]) == (first.red.offset, [first.id])
    assert group["evidence"] == f"red: {first.red.evidence}; nir: for a test"


def test_of_very_many_items_some_are_named_and_all_counted(sandbox: Sandbox) -> None:
    plan = runs.plan_of(sandbox)
    many = tuple(dataclasses.replace(plan.granules[0], id=f"g{number}") for number in range(cf.MOST_IDS + 5))
    (group,) = cf.cube_attributes(dataclasses.replace(plan, granules=many, spares={}))["offsets"]
    assert (group["items"], len(group["ids"])) == (cf.MOST_IDS + 5, cf.MOST_IDS)
