"""Outputs with a group a zone: begun, taken up, refused, replaced; and what they hold."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
import zarr

import oracle
import runs
from ndvi_scale import RunConfig, build_plans, open_store, parse_bbox, search_items, store_digest
from ndvi_scale.cli import cli
from ndvi_scale.errors import ConfigError, PlanMismatchError, StoreError
from ndvi_scale.ledger import save_plan
from ndvi_scale.output import ZONES, begin, begin_zones, check_ours, freeze_zones, zones_of

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox

pytestmark = pytest.mark.slow  # whole runs, a zone after the other

ZONE_NAMES = ["EPSG_32630", "EPSG_32631"]


def command(sandbox: Sandbox, out: Path, *more: str) -> list[str]:
    bbox = ",".join(f"{degrees:.5f}" for degrees in sandbox.bbox)
    place = ["--catalog", str(sandbox.catalog), "--bbox", bbox, "--grid", "per-zone", "--chunk", "128"]
    return ["run", *place, "--out", str(out), *more]


@pytest.fixture(scope="module")
def finished(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a group a zone, and its pictures; not to be changed."""
    folder = tmp_path_factory.mktemp("zones")
    cli(command(sandbox, folder / "ndvi.zarr", "--png", str(folder / "ndvi.png")), standalone_mode=False)
    return folder / "ndvi.zarr"


def test_every_zone_has_its_native_pixels(sandbox: Sandbox, finished: Path) -> None:
    """Each group equals the oracle on its zone's granules alone."""
    aoi = parse_bbox(",".join(f"{degrees:.5f}" for degrees in sandbox.bbox))
    items = search_items(sandbox.items, aoi=aoi)
    plans = build_plans(items, RunConfig(aoi=aoi, grid="per-zone", chunk=128))
    assert list(plans) == ZONE_NAMES
    for name, plan in plans.items():
        geobox = plan.lattice.geobox
        grid = oracle.Grid(geobox.affine.c, geobox.affine.f, 10, *geobox.shape, epsg=int(name[5:]))
        truth = oracle.cube(items, grid, list(plan.days), aoi.geometry, oracle.Rules())
        assert (truth != oracle.FILL).any()
        np.testing.assert_array_equal(zarr.open_array(finished / name, path="ndvi", mode="r")[:], truth)


def test_a_tree_opens_whole(finished: Path) -> None:
    with xr.open_datatree(finished, engine="zarr", consolidated=False) as tree:
        assert sorted(tree.children) == ZONE_NAMES
        assert all("ndvi" in tree[name] for name in ZONE_NAMES)
    assert sorted(path.name for path in finished.iterdir()) == [*ZONE_NAMES, "zarr.json"]
    assert {path.name for path in finished.parent.glob("*.png")} == {f"ndvi-{name}.png" for name in ZONE_NAMES}


def test_status_and_info_tell_of_every_zone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["status", str(finished), "--json"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert sorted(facts) == ZONE_NAMES
    assert all(fact["complete"] for fact in facts.values())
    cli(["info", str(finished), "--json", "--digest"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert {fact["crs"] for fact in facts.values()} == {"EPSG:32630", "EPSG:32631"}
    for name in ZONE_NAMES:
        assert facts[name]["store_digest"] == store_digest(open_store(finished, group=name))
    cli(["status", str(finished)], standalone_mode=False)
    said = capsys.readouterr().err
    assert said.count("complete") == 2
    assert all(name in said for name in ZONE_NAMES)


def test_one_zone_can_be_looked_at(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["status", str(finished / "EPSG_32631"), "--json"], standalone_mode=False)
    assert list(json.loads(capsys.readouterr().out)) == ["EPSG_32631"]


def test_a_crs_and_zones_contradict(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every zone has its own CRS"):
        cli(command(sandbox, tmp_path / "ndvi.zarr", "--crs", "EPSG:2154"), standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_running_again_resumes_and_other_parameters_are_refused(
    sandbox: Sandbox, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(command(sandbox, finished), standalone_mode=False)
    assert capsys.readouterr().err.count("Resuming") == 2
    with pytest.raises(PlanMismatchError, match="mask"):
        cli(command(sandbox, finished, "--mask", "land"), standalone_mode=False)
    config = RunConfig()
    with pytest.raises(PlanMismatchError, match='grid: "per-zone" there, "single" asked'):
        begin(open_store(finished), config)


def test_one_grid_and_zones_do_not_mix(sandbox: Sandbox, tmp_path: Path) -> None:
    _, store = runs.finished_store(sandbox, tmp_path)
    with pytest.raises(PlanMismatchError, match='grid: "single" there, "per-zone" asked'):
        cli(command(sandbox, tmp_path / "ndvi.zarr"), standalone_mode=False)
    cli(command(sandbox, tmp_path / "ndvi.zarr", "--overwrite"), standalone_mode=False)
    assert zones_of(store) == ZONE_NAMES
    check_ours(store)
    (tmp_path / "ndvi.zarr" / "EPSG_32630" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"EPSG_32630/notes\.txt"):
        cli(command(sandbox, tmp_path / "ndvi.zarr", "--overwrite"), standalone_mode=False)


def test_zones_count_when_all_are_planned(sandbox: Sandbox, tmp_path: Path) -> None:
    """A driver that dies between two plans has begun nothing: the next one searches again."""
    config = RunConfig(aoi=parse_bbox(sandbox.bbox), grid="per-zone")
    plans = build_plans(search_items(sandbox.items), config)
    root, group = open_store(tmp_path / "ndvi.zarr"), partial(_group, tmp_path)
    assert begin_zones(root, config, group) == {}
    save_plan(group(ZONE_NAMES[0]), plans[ZONE_NAMES[0]])
    assert begin_zones(root, config, group) == {}
    freeze_zones(root, plans, group)
    assert begin_zones(root, config, group) == plans


def _group(folder: Path, name: str):
    return open_store(folder / "ndvi.zarr", group=name)


def test_a_damaged_list_of_zones_is_told(tmp_path: Path) -> None:
    root = open_store(tmp_path / "ndvi.zarr")
    root.put_state(ZONES, b"{")
    with pytest.raises(StoreError, match=r"list of zones.*--overwrite"):
        zones_of(root)
    root.put_state(ZONES, json.dumps(ZONE_NAMES).encode())
    with pytest.raises(StoreError, match=r"the plan of .*EPSG_32630 is gone"):
        begin_zones(root, RunConfig(grid="per-zone"), partial(_group, tmp_path))


def test_what_is_foreign_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "ndvi.zarr").mkdir()
    (tmp_path / "ndvi.zarr" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="holds no run of ndvi-scale"):
        begin_zones(open_store(tmp_path / "ndvi.zarr"), RunConfig(grid="per-zone"), partial(_group, tmp_path))


def test_a_plan_of_zones_can_be_shown_and_saved(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", *command(sandbox, tmp_path / "ndvi.zarr")[1:]]
    cli([*words, "--json"], standalone_mode=False)
    assert sorted(json.loads(capsys.readouterr().out)) == ZONE_NAMES
    cli([*words, "--save"], standalone_mode=False)
    assert zones_of(open_store(tmp_path / "ndvi.zarr")) == ZONE_NAMES
    cli(command(sandbox, tmp_path / "ndvi.zarr"), standalone_mode=False)
    assert capsys.readouterr().err.count("Resuming") == 2
