"""What a run makes of scene classes: presets, filters as they are written, and what is refused."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from ndvi_scale.errors import ConfigError
from ndvi_scale.kernels import ADDED, CLOUD, REMOVED, USE
from ndvi_scale.kernels.morphology import filter_classes
from ndvi_scale.masks import MAX_MARGIN, SceneMask, parse_filters, scene_mask
from ndvi_scale.sentinel2 import CLOUD_CLASSES, MASKS, PRESET_FILTERS, parse_mask, scl_table

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("opening", "closing", "dilation", "erosion")


@pytest.mark.parametrize(
    "given",
    [
        "opening:2,dilation:5",
        " Opening : 02 , dilation:5",
        ["opening:2", "dilation:5"],
        [("opening", 2), ["dilation", 5]],
    ],
)
def test_filters_have_one_form(given: Any) -> None:
    assert parse_filters(given) == ("opening:2", "dilation:5")


@pytest.mark.parametrize("given", ["none", [], ()])
def test_no_filters(given: Any) -> None:
    assert parse_filters(given) == ()


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 10**8)), max_size=4))
def test_the_form_is_read_as_itself(pairs: list[tuple[str, int]]) -> None:
    once = parse_filters(pairs)
    assert parse_filters(once) == once
    assert not once or parse_filters(",".join(once)) == once


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("dilate:5", ["'dilate:5'", "did you mean 'dilation'", "opening, closing, dilation, erosion"]),
        ("blur:5", ["'blur:5'", "is unknown", "such as opening:2,dilation:5"]),
        ("", ["''", "is unknown"]),
        ("dilation", ["'dilation'", "needs a radius", "from 1 on"]),
        ("dilation:0", ["'dilation:0'", "needs a radius", "from 1 on"]),
        ("dilation:-1", ["'dilation:-1'", "from 1 on"]),
        ("dilation:2.5", ["'dilation:2.5'", "whole number"]),
        ("dilation:5:6", ["'dilation:5:6'", "whole number"]),
        ("dilation:٣", ["whole number"]),
        ([("dilation", 2.0)], ["'dilation:2.0'", "whole number"]),
        ([5], ["'5'", "is unknown"]),
        (5, ["5", "wrong type", "opening:2,dilation:5"]),
    ],
)
def test_a_wrong_filter(given: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_filters(given)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    ("filters", "margin"),
    [
        ("dilation:5", 5),
        ("erosion:5", 5),
        ("opening:5", 10),
        ("closing:5", 10),
        ("opening:2,dilation:5", 9),
        ("closing:50", MAX_MARGIN),
    ],
)
def test_the_margin_is_how_far_filters_reach(filters: str, margin: int) -> None:
    assert scene_mask("default", filters).margin == margin


@pytest.mark.parametrize("filters", ["dilation:101", "closing:51", "dilation:60,erosion:41", "dilation:999999999"])
def test_filters_that_reach_beyond_the_margin(filters: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scene_mask("default", filters)
    message = str(caught.value)
    assert f"mask filters {', '.join(filters.split(','))} reach" in message
    assert "margin of 100 (2 km)" in message
    assert "give smaller ones" in message


@pytest.mark.parametrize("mask", ["none", "0,1", [2, 6]])
def test_filters_without_cloud_to_act_on(mask: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        scene_mask(mask, "dilation:5")
    assert "dilation:5 have nothing to act on" in str(caught.value)
    assert "11 snow_or_ice" in str(caught.value)
    assert "leave the filters out" in str(caught.value)


def test_a_preset_brings_its_filters_unless_others_are_given() -> None:
    assert set(PRESET_FILTERS) <= set(MASKS)
    assert scene_mask("openeo").filters == PRESET_FILTERS["openeo"] == ("erosion:1", "dilation:21")
    assert scene_mask("openeo", "dilation:3").filters == ("dilation:3",)
    assert scene_mask("openeo", "none").filters == scene_mask("openeo", []).filters == ()
    assert scene_mask(sorted(MASKS["openeo"])).filters == ()
    assert all(scene_mask(name).filters == () for name in MASKS if name != "openeo")


@pytest.mark.slow
def test_the_preset_openeo_is_near_openeo_s_rule_on_real_classes(real_data: Path) -> None:
    """Both ways, as a share of what has data: see docs/decisions/0015-mask-filters.md, there of the whole tile."""
    folder = real_data / "rasters" / "t29unu_20221005_N0400"
    with rasterio.open(next(folder.rglob("*_SCL_20m.jp2"))) as file:
        scl = file.read(1, window=((0, 2400), (0, 2400)))
    mask = scene_mask("openeo")
    ours = (mask.table[filter_classes(scl, mask.table, mask.steps)] & USE) == 0
    theirs = smoothed(~np.isin(scl, [2, 4, 5, 6, 7]), 17) > 0.057
    theirs |= smoothed(np.isin(scl, [3, 8, 9, 10, 11]), 77) > 0.025
    inner = np.s_[77:-77, 77:-77]
    data = (scl > 0)[inner]
    assert data.mean() > 0.5
    assert 0.2 < theirs[inner][data].mean() < 0.95
    assert (ours & ~theirs)[inner][data].mean() < 0.02
    assert (theirs & ~ours)[inner][data].mean() < 0.01


def smoothed(cloud: np.ndarray, size: int) -> np.ndarray:
    """Cloud eroded by a disk of 3 pixels and smoothed with a Gaussian window, as openEO does it."""
    cross = ndimage.generate_binary_structure(2, 1)
    eroded = ndimage.binary_erosion(cloud, cross, border_value=1).astype(float)
    window = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * (size / 6) ** 2))
    for axis in (0, 1):
        eroded = ndimage.convolve1d(eroded, window / window.sum(), axis=axis, mode="constant")
    return eroded


def test_errors_of_a_mask_are_those_of_its_classes() -> None:
    with pytest.raises(ConfigError, match="did you mean 'openeo'"):
        scene_mask("openoe")


@given(dropped=st.frozensets(st.integers(0, 11)))
def test_without_filters_the_table_is_that_of_the_classes(dropped: frozenset[int]) -> None:
    """A value in a file that looks as if a filter had marked it is no class, and not used."""
    np.testing.assert_array_equal(SceneMask(dropped).table, scl_table(dropped))
    assert not (SceneMask(dropped).table[12:] & USE).any()


@given(dropped=st.frozensets(st.integers(0, 11)), first=st.sampled_from(sorted(CLOUD_CLASSES)))
def test_with_filters_the_table_knows_their_marks(dropped: frozenset[int], first: int) -> None:
    mask = SceneMask(dropped | {first}, ("dilation:1",))
    classes = np.arange(12)
    np.testing.assert_array_equal(mask.table[:12] & ~np.uint8(CLOUD), scl_table(mask.dropped)[:12])
    assert set(np.flatnonzero(mask.table & CLOUD).tolist()) == CLOUD_CLASSES & mask.dropped
    assert (mask.table[classes | REMOVED] & USE).all()
    assert not (mask.table[classes | ADDED] & USE).any()
    others = np.setdiff1d(np.arange(256), np.concatenate([classes, classes | REMOVED]))
    assert not mask.table[others].any()


def test_a_mask_is_a_value() -> None:
    one, other = scene_mask("openeo"), scene_mask("openeo")
    assert one.table is one.table
    assert (one, hash(one)) == (other, hash(other))
    copy = pickle.loads(pickle.dumps(one))  # noqa: S301 - our own
    assert copy == one
    np.testing.assert_array_equal(copy.table, one.table)
    assert parse_mask("openeo") == one.dropped
