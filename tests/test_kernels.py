"""The kernels: worked cases, the laws of NDVI, and `cpu` against `reference` against exact fractions."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndvi_scale.kernels import COUNTERS, cpu, reference
from ndvi_scale.sentinel2 import MASKS, scl_table
from strategies import EDGE_DN, Scene, scenes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FILL = -32768
REASONS = ("nodata", "saturated", "wrapped", "masked", "not_positive", "out_of_range")
VEGETATION, WATER = 4, 6

both = pytest.mark.parametrize("kernel", [reference.ndvi_codes, cpu.ndvi_codes], ids=["reference", "cpu"])


def one_pixel(
    kernel: Callable[..., Any],
    dn: tuple[int, int],
    offset: int,
    *,
    clip: bool = False,
    scl: int = VEGETATION,
    mask: str = "default",
) -> tuple[int, set[str]]:
    """Code of one pixel and the names of the counters that saw it."""
    red, nir = (np.full((1, 1), value, np.uint16) for value in dn)
    table = scl_table(MASKS[mask])
    codes, counts = kernel(red, nir, np.full((1, 1), scl, np.uint8), table, (offset, offset), clip=clip)
    assert codes.dtype == np.int16
    assert codes.shape == (1, 1)
    assert tuple(counts) == COUNTERS
    assert set(counts.values()) <= {0, 1}
    return int(codes[0, 0]), {name for name, count in counts.items() if count}


# Worked cases

WORKED = {
    "vegetation before 04.00": ((400, 3600), 0, 8000),
    "vegetation 05.11": ((1400, 4600), -1000, 8000),
    "offset in the pixels already": ((400, 3600), 0, 8000),
    "soil 05.11": ((3000, 3600), -1000, 1304),
    "water 05.11": ((1300, 1150), -1000, -3333),
    "red is zero after the offset": ((1000, 4600), -1000, 10_000),
    "nir is zero after the offset": ((1400, 1000), -1000, -10_000),
    "difference below zero in uint16": ((500, 300), 0, -2500),
    "sum above the largest int16": ((20_000, 30_000), 0, 2000),
    "the largest valid DN": ((32_767, 32_767), 0, 0),
    "the largest and the smallest": ((32_767, 1), 0, -9999),
}


@both
@pytest.mark.parametrize("clip", [False, True], ids=["mask", "clip"])
@pytest.mark.parametrize(("dn", "offset", "code"), WORKED.values(), ids=WORKED.keys())
def test_worked_case(
    kernel: Callable[..., Any], dn: tuple[int, int], offset: int, code: int, *, clip: bool
) -> None:
    found, seen = one_pixel(kernel, dn, offset, clip=clip)
    assert found == code
    assert seen - {"land_dark"} == {"valid", "land"}


WRONG_OFFSET = {
    # What an offset ignored or applied twice gives: the worked cases would not notice a kernel without offset.
    "ignored on vegetation": ((1400, 4600), 0, 5333),
    "ignored on soil": ((3000, 3600), 0, 909),
    "ignored on water": ((1300, 1150), 0, -612),
    "applied twice, 1.6 clipped": ((400, 3600), -1000, 10_000),
}


@both
@pytest.mark.parametrize(("dn", "offset", "code"), WRONG_OFFSET.values(), ids=WRONG_OFFSET.keys())
def test_the_offset_decides(kernel: Callable[..., Any], dn: tuple[int, int], offset: int, code: int) -> None:
    assert one_pixel(kernel, dn, offset, clip=True)[0] == code


@both
@pytest.mark.parametrize(
    ("dn", "offset", "limit"),
    [((980, 1500), -1000, 10_000), ((1500, 980), -1000, -10_000), ((400, 3600), -1000, 10_000)],
    ids=["red -0.002, nir 0.05", "red 0.05, nir -0.002", "offset applied twice: 1.6"],
)
def test_ratio_beyond_one_is_masked_or_clipped(
    kernel: Callable[..., Any], dn: tuple[int, int], offset: int, limit: int
) -> None:
    masked, seen = one_pixel(kernel, dn, offset)
    assert masked == FILL
    assert seen - {"land", "land_dark"} == {"out_of_range"}
    clipped, seen = one_pixel(kernel, dn, offset, clip=True)
    assert clipped == limit
    assert seen - {"land", "land_dark"} == {"out_of_range", "valid"}


@both
@pytest.mark.parametrize("clip", [False, True], ids=["mask", "clip"])
@pytest.mark.parametrize(
    ("dn", "offset", "reason"),
    [
        ((950, 1030), -1000, "not_positive"),
        ((1000, 1000), -1000, "not_positive"),
        ((400, 600), -1000, "not_positive"),
        ((0, 4600), -1000, "nodata"),
        ((4600, 0), -1000, "nodata"),
        ((0, 0), 0, "nodata"),
        ((0, 65_535), 0, "nodata"),
        ((65_535, 4600), -1000, "saturated"),
        ((4600, 65_535), 0, "saturated"),
        ((65_535, 40_000), 0, "saturated"),
        ((32_768, 4600), 0, "wrapped"),
        ((32_768, 32_768), 0, "wrapped"),
        ((4600, 65_534), -1000, "wrapped"),
        ((40_000, 30_000), 0, "wrapped"),
        ((64_536, 600), 0, "wrapped"),
    ],
)
def test_invalid_case_has_one_reason(
    kernel: Callable[..., Any], dn: tuple[int, int], offset: int, reason: str, *, clip: bool
) -> None:
    code, seen = one_pixel(kernel, dn, offset, clip=clip)
    assert code == FILL
    assert seen - {"land", "land_dark"} == {reason}


@both
def test_every_scene_class_is_used_or_masked(kernel: Callable[..., Any]) -> None:
    for scl in range(256):
        code, seen = one_pixel(kernel, (400, 3600), 0, scl=scl)
        used = scl in {2, 4, 5, 6, 7, 11}
        assert code == (8000 if used else FILL), scl
        assert seen - {"land", "land_dark"} == ({"valid"} if used else {"masked"}), scl
        assert ("land" in seen) == (scl in {4, 5}), scl
        assert one_pixel(kernel, (400, 3600), 0, scl=scl, mask="none")[0] == (8000 if scl <= 11 else FILL), scl


@both
@pytest.mark.parametrize(
    ("dn", "offset", "scl", "counters"),
    [
        ((999, 3600), -1000, 4, {"out_of_range", "land", "land_dark"}),
        ((1000, 3600), -1000, 4, {"valid", "land"}),
        ((3600, 999), -1000, 5, {"out_of_range", "land"}),
        ((999, 3600), 0, 5, {"valid", "land", "land_dark"}),
        ((999, 3600), 0, 6, {"valid"}),
        ((999, 40_000), 0, 4, {"wrapped"}),
        ((999, 3600), 0, 9, {"masked"}),
    ],
)
def test_evidence_of_the_offset_guard_is_dark_red_on_clear_land(
    kernel: Callable[..., Any], dn: tuple[int, int], offset: int, scl: int, counters: set[str]
) -> None:
    assert one_pixel(kernel, dn, offset, scl=scl)[1] == counters


# Rounding

HALVES = {
    # nir + red = 64 m and nir - red = 2 k m with k odd: 10000 * 2 k / 64 = 312.5 k, a half.
    "312.5": (31, 33, 0, 312),
    "-312.5": (33, 31, 0, -312),
    "937.5": (29, 35, 0, 938),
    "-937.5": (35, 29, 0, -938),
    "1562.5": (27, 37, 0, 1562),
    "-1562.5": (37, 27, 0, -1562),
    "9062.5 of large numbers": (3 * 501, 61 * 501, 0, 9062),
    "-9062.5 of large numbers": (61 * 501, 3 * 501, 0, -9062),
    "312.5 after the offset": (1031, 1033, -1000, 312),
    "-937.5 after the offset": (1035, 1029, -1000, -938),
    "2187.5, the next even above": (25, 39, 0, 2188),
    "0.5": (19_999, 20_001, 0, 0),
    "-0.5": (20_001, 19_999, 0, 0),
    "1.5": (19_997, 20_003, 0, 2),
    "-1.5": (20_003, 19_997, 0, -2),
}


@both
@pytest.mark.parametrize(("red", "nir", "offset", "code"), HALVES.values(), ids=HALVES.keys())
def test_halves_round_to_even(kernel: Callable[..., Any], red: int, nir: int, offset: int, code: int) -> None:
    exact = Fraction(10_000 * (nir - red), nir + red + 2 * offset)
    assert exact.denominator == 2, "the case is meant to lie on a half"
    assert one_pixel(kernel, (red, nir), offset)[0] == code


@both
@pytest.mark.parametrize(
    ("red", "nir", "code"),
    [
        (13_333, 6666, -3334),  # -3333.67: a cast to int would say -3333
        (6666, 13_333, 3334),
        (5001, 5000, -1),  # -0.99990
        (10_000, 9999, -1),  # -0.500025: just beyond the half
        (10_001, 10_000, 0),  # -0.499975: just short of it
        (9999, 10_000, 1),
        (10_000, 10_001, 0),
    ],
)
def test_codes_are_rounded_not_cut(kernel: Callable[..., Any], red: int, nir: int, code: int) -> None:
    assert one_pixel(kernel, (red, nir), 0)[0] == code


@both
def test_float32_would_be_one_code_off(kernel: Callable[..., Any]) -> None:
    """All pairs of a block of DN in which `rint(float32 ratio * 1e4)` errs, so that it could not pass."""
    nir, red = np.meshgrid(np.arange(2000, 2400, dtype=np.int64), np.arange(400, 800, dtype=np.int64))
    floats = ((nir - red).astype(np.float32) / (nir + red).astype(np.float32)) * np.float32(10_000)
    scl = np.full(red.shape, VEGETATION, np.uint8)
    codes, _ = kernel(red.astype(np.uint16), nir.astype(np.uint16), scl, scl_table(()))
    exact = [[round(Fraction(10_000 * (n - r), n + r)) for n in nir[0].tolist()] for r in red[:, 0].tolist()]
    np.testing.assert_array_equal(codes, exact)
    assert (np.rint(floats) != codes).any()


# A third oracle: exact fractions, one pixel at a time


def by_fractions(scene: Scene, *, clip: bool) -> tuple[NDArray[np.int16], Counter[str]]:
    """Codes and reasons by Python's own fractions, whose `round` is half-even; nothing of numpy but the array."""
    codes = np.empty(scene.red.shape, np.int16)
    counts: Counter[str] = Counter()
    classes = scene.classes
    for place in np.ndindex(scene.red.shape):
        pixel = int(scene.red[place]), int(scene.nir[place]), int(classes[place])
        codes[place], reason = fraction_of(*pixel, scene, clip=clip)
        counts[reason] += 1
        clipped = clip and reason == "out_of_range"
        counts["valid"] += clipped
        usable = reason in {"valid", "not_positive", "out_of_range"}
        counts["land"] += usable and pixel[2] in (4, 5)
        counts["land_dark"] += usable and pixel[2] in (4, 5) and pixel[0] < 1000
    return codes, counts


def fraction_of(red: int, nir: int, scl: int, scene: Scene, *, clip: bool) -> tuple[int, str]:
    if 0 in (red, nir):
        return FILL, "nodata"
    if 65_535 in (red, nir):
        return FILL, "saturated"
    if red > 32_767 or nir > 32_767:
        return FILL, "wrapped"
    if scl > 11 or scl in scene.dropped:
        return FILL, "masked"
    rho_red, rho_nir = red + scene.offsets[0], nir + scene.offsets[1]
    if rho_nir + rho_red <= 0:
        return FILL, "not_positive"
    ndvi = Fraction(rho_nir - rho_red, rho_nir + rho_red)
    if -1 <= ndvi <= 1:
        return round(10_000 * ndvi), "valid"
    return ((10_000 if ndvi > 0 else -10_000) if clip else FILL), "out_of_range"


@settings(max_examples=60)
@given(scene=scenes(sides=(3, 6), factors=(1, 2)), clip=st.booleans())
def test_reference_equals_exact_fractions(scene: Scene, *, clip: bool) -> None:
    codes, counts = scene.run(reference.ndvi_codes, clip=clip)
    exact, reasons = by_fractions(scene, clip=clip)
    np.testing.assert_array_equal(codes, exact)
    assert counts == {name: reasons[name] for name in COUNTERS}


def test_every_pair_of_edges_equals_exact_fractions() -> None:
    """All pairs of DN beside a rule, under every usual offset, in one array each."""
    edges = np.array([*EDGE_DN, 500, 1400, 4600, 31_768], np.uint16)
    red, nir = np.meshgrid(edges, edges)
    scl = np.full(red.shape, VEGETATION, np.uint8)
    for offsets in ((0, 0), (-1000, -1000), (-500, -500), (-1000, 0), (200, -1000)):
        scene = Scene(red, nir, scl, MASKS["default"], offsets, 1)
        for clip in (False, True):
            exact, reasons = by_fractions(scene, clip=clip)
            for kernel in (reference.ndvi_codes, cpu.ndvi_codes):
                codes, counts = scene.run(kernel, clip=clip)
                np.testing.assert_array_equal(codes, exact)
                assert counts == {name: reasons[name] for name in COUNTERS}


# Laws


def test_cpu_equals_reference_code_for_code_and_count_for_count() -> None:
    """300 scenes of 64 to 6,084 pixels, over 100,000 in all; every counter must have been seen."""
    seen: Counter[str] = Counter()
    pixels = 0

    @settings(max_examples=300)
    @given(scene=scenes(), clip=st.booleans())
    def law(scene: Scene, *, clip: bool) -> None:
        nonlocal pixels
        fast, counted = scene.run(cpu.ndvi_codes, clip=clip)
        right, counts = scene.run(reference.ndvi_codes, clip=clip)
        assert fast.dtype == right.dtype == np.int16
        np.testing.assert_array_equal(fast, right)
        assert counted == counts
        seen.update(counts)
        pixels += right.size

    law()
    assert pixels >= 100_000
    assert all(seen[name] >= 100 for name in COUNTERS), seen


@pytest.mark.parametrize("clip", [False, True], ids=["mask", "clip"])
@pytest.mark.parametrize("factor", [1, 2, 3, 5, 6])
def test_cpu_equals_reference_on_rows_of_any_length(factor: int, *, clip: bool) -> None:
    """Around every power of two that a kernel could work in pieces of, and whole tiles."""
    generator = np.random.default_rng(factor)
    for about in (8, 16, 32, 64, 512, 1024, 2048, 4096, 8192, 10_980):
        for columns in (about // factor, about // factor + 1):
            shape = (2 * factor, columns * factor)
            red, nir = (generator.integers(0, 3000, shape, dtype=np.uint16) for _ in range(2))
            for band in (red, nir):
                edges = generator.choice(np.array(EDGE_DN, np.uint16), shape)
                np.copyto(band, edges, where=generator.random(shape) < 0.2)
            scl = generator.integers(0, 13, (2, columns), dtype=np.uint8)
            scene = Scene(red, nir, scl, MASKS["default"], (-1000, -1000), factor)
            fast, counted = scene.run(cpu.ndvi_codes, clip=clip)
            right, counts = scene.run(reference.ndvi_codes, clip=clip)
            np.testing.assert_array_equal(fast, right)
            assert counted == counts
            ratio, counted = scene.run(cpu.ndvi_ratio, clip=clip)
            np.testing.assert_array_equal(np.isnan(ratio), right == FILL)
            assert counted == counts


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "offsets", "clip"), [(1, (-1000, -1000), False), (2, (-1000, -500), True)])
def test_cpu_equals_reference_on_four_million_pixels(seed: int, offsets: tuple[int, int], *, clip: bool) -> None:
    generator = np.random.default_rng(seed)
    red, nir = (generator.integers(0, 6000, (2000, 2000), dtype=np.uint16) for _ in range(2))
    wild = generator.random((2000, 2000)) < 0.2
    red[wild] = generator.integers(0, 65_536, int(wild.sum()), dtype=np.uint16)
    nir[wild] = generator.choice(np.array(EDGE_DN, np.uint16), int(wild.sum()))
    scl = generator.integers(0, 14, (1000, 1000), dtype=np.uint8)
    scene = Scene(red, nir, scl, MASKS["default"], offsets, 2)
    fast, counted = scene.run(cpu.ndvi_codes, clip=clip)
    right, counts = scene.run(reference.ndvi_codes, clip=clip)
    np.testing.assert_array_equal(fast, right)
    assert counted == counts
    assert min(counts.values()) > 100


@settings(max_examples=60)
@given(scene=scenes(), clip=st.booleans())
def test_codes_are_fill_exactly_where_not_valid(scene: Scene, *, clip: bool) -> None:
    red, nir = (band.astype(np.int64) for band in (scene.red, scene.nir))
    total = red + nir + sum(scene.offsets)
    difference = (nir + scene.offsets[1]) - (red + scene.offsets[0])
    valid = (red >= 1) & (red <= 32_767) & (nir >= 1) & (nir <= 32_767)
    valid &= np.isin(scene.classes, sorted(set(range(12)) - scene.dropped)) & (total > 0)
    if not clip:
        valid &= np.abs(difference) <= total
    codes, counts = scene.run(cpu.ndvi_codes, clip=clip)
    np.testing.assert_array_equal(codes != FILL, valid)
    assert counts["valid"] == valid.sum()
    assert np.abs(codes[valid].astype(int)).max(initial=0) <= 10_000


@settings(max_examples=60)
@given(scene=scenes(), clip=st.booleans())
def test_counters_partition_the_pixels(scene: Scene, *, clip: bool) -> None:
    for kernel in (cpu.ndvi_codes, reference.ndvi_codes):
        _, counts = scene.run(kernel, clip=clip)
        reasons = [name for name in REASONS if not (clip and name == "out_of_range")]
        assert counts["valid"] + sum(counts[name] for name in reasons) == scene.red.size
        assert 0 <= counts["land_dark"] <= counts["land"]
        assert counts["land"] <= counts["valid"] + counts["not_positive"] + counts["out_of_range"]


@settings(max_examples=60)
@given(scene=scenes(), clip=st.booleans())
def test_swapping_bands_and_offsets_negates(scene: Scene, *, clip: bool) -> None:
    swapped = Scene(scene.nir, scene.red, scene.scl, scene.dropped, scene.offsets[::-1], scene.factor)
    codes, counts = scene.run(cpu.ndvi_codes, clip=clip)
    mirrored, mirror_counts = swapped.run(cpu.ndvi_codes, clip=clip)
    np.testing.assert_array_equal(mirrored, np.where(codes == FILL, FILL, -codes.astype(int)))
    assert {**mirror_counts, "land_dark": 0} == {**counts, "land_dark": 0}


@settings(max_examples=60)
@given(scene=scenes(max_dn=3000, offsets=st.just((0, 0))), times=st.integers(2, 10))
def test_scaling_both_bands_changes_nothing(scene: Scene, times: int) -> None:
    """The ratio is the same rational number, so its code is too: no rounding in between."""
    factor = np.uint16(times)
    scaled = Scene(scene.red * factor, scene.nir * factor, scene.scl, scene.dropped, (0, 0), scene.factor)
    np.testing.assert_array_equal(scaled.run(cpu.ndvi_codes)[0], scene.run(cpu.ndvi_codes)[0])


@settings(max_examples=60)
@given(scene=scenes(max_dn=30_000), shift=st.integers(1, 2000), clip=st.booleans())
def test_dn_and_offset_shifted_against_each_other_change_nothing(scene: Scene, shift: int, *, clip: bool) -> None:
    """Reflectance is DN + offset, nothing else: as for pixels stored with and without the offset."""
    red, nir = (np.where(band == 0, band, band + np.uint16(shift)) for band in (scene.red, scene.nir))
    offsets = scene.offsets[0] - shift, scene.offsets[1] - shift
    shifted = Scene(red, nir, scene.scl, scene.dropped, offsets, scene.factor)
    np.testing.assert_array_equal(
        shifted.run(cpu.ndvi_codes, clip=clip)[0], scene.run(cpu.ndvi_codes, clip=clip)[0]
    )


@settings(max_examples=60)
@given(scene=scenes(), clip=st.booleans(), data=st.data())
def test_any_window_of_whole_scene_classes_is_the_crop_of_the_whole(
    scene: Scene, *, clip: bool, data: st.DataObject
) -> None:
    def span(size: int) -> slice:
        start = data.draw(st.integers(0, size - 1))
        return slice(start, data.draw(st.integers(start + 1, size)))

    rows, columns = span(scene.scl.shape[0]), span(scene.scl.shape[1])
    fine = tuple(slice(s.start * scene.factor, s.stop * scene.factor) for s in (rows, columns))
    whole, _ = scene.run(cpu.ndvi_codes, clip=clip)
    part, _ = scene.crop(rows, columns).run(cpu.ndvi_codes, clip=clip)
    np.testing.assert_array_equal(part, whole[fine])


@settings(max_examples=60)
@given(scene=scenes(), clip=st.booleans(), side=st.integers(1, 9))
def test_chunked_equals_whole(scene: Scene, *, clip: bool, side: int) -> None:
    whole, counts = scene.run(cpu.ndvi_codes, clip=clip)
    height, width = scene.scl.shape
    summed: Counter[str] = Counter()
    lines = []
    for top in range(0, height, side):
        pieces = []
        for left in range(0, width, side):
            part = scene.crop(slice(top, min(top + side, height)), slice(left, min(left + side, width)))
            codes, counted = part.run(cpu.ndvi_codes, clip=clip)
            pieces.append(codes)
            summed.update(counted)
        lines.append(np.hstack(pieces))
    assert np.vstack(lines).tobytes() == whole.tobytes()
    assert {name: summed[name] for name in COUNTERS} == counts


# NDVI as float32


@settings(max_examples=100)
@given(scene=scenes(), clip=st.booleans())
def test_ratio_is_the_double_quotient_and_nan_exactly_where_codes_are_fill(scene: Scene, *, clip: bool) -> None:
    codes, counts = scene.run(reference.ndvi_codes, clip=clip)
    ratio, counted = scene.run(cpu.ndvi_ratio, clip=clip)
    assert ratio.dtype == np.float32
    assert counted == counts
    valid = codes != FILL
    np.testing.assert_array_equal(np.isnan(ratio), ~valid)
    red = scene.red[valid].astype(np.float64) + scene.offsets[0]
    nir = scene.nir[valid].astype(np.float64) + scene.offsets[1]
    exact = np.clip((nir - red) / (nir + red), -1, 1)
    assert np.abs(ratio[valid] - exact).max(initial=0) <= 1e-6
    # and rounded once, as the docstring says
    np.testing.assert_array_equal(ratio[valid], exact.astype(np.float32))
    # 5e-5 of quantisation, 6e-8 of float32
    assert np.abs(ratio[valid].astype(np.float64) * 10_000 - codes[valid]).max(initial=0) <= 0.5 + 1e-3


# Arrays as they come


@both
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((0, 0), id="0x0"),
        pytest.param((0, 4), id="no rows"),
        pytest.param((4, 0), id="no columns"),
    ],
)
def test_empty_arrays_give_empty_codes_and_no_counts(kernel: Callable[..., Any], shape: tuple[int, int]) -> None:
    band = np.zeros(shape, np.uint16)
    scl = np.zeros((shape[0] // 2, shape[1] // 2), np.uint8)
    codes, counts = kernel(band, band, scl, scl_table(()), (-1000, -1000))
    assert codes.shape == shape
    assert codes.dtype == np.int16
    assert counts == dict.fromkeys(COUNTERS, 0)


@pytest.mark.slow
@both
@pytest.mark.parametrize("how", ["strided", "reversed", "fortran", "read-only"])
def test_layout_in_memory_does_not_matter(kernel: Callable[..., Any], how: str) -> None:
    generator = np.random.default_rng(5)
    red, nir = (generator.integers(1, 6000, (12, 20), dtype=np.uint16) for _ in range(2))
    scl = generator.integers(0, 12, (6, 10), dtype=np.uint8)
    table = scl_table(MASKS["default"])
    plain, counts = kernel(red, nir, scl, table, (-1000, -1000))

    def laid(band: NDArray[Any]) -> NDArray[Any]:
        if how == "fortran":
            return np.asfortranarray(band)
        if how == "read-only":
            band = band.copy()
            band.setflags(write=False)
            return band
        if how == "reversed":
            return band[::-1, ::-1].copy()[::-1, ::-1]
        spread = np.zeros((band.shape[0] * 2, band.shape[1] * 3), band.dtype)
        spread[::2, ::3] = band
        return spread[::2, ::3]

    given_bands = [laid(band) for band in (red, nir, scl)]
    codes, counted = kernel(*given_bands, table, (-1000, -1000))
    np.testing.assert_array_equal(codes, plain)
    assert counted == counts


@both
def test_inputs_are_left_as_they_are(kernel: Callable[..., Any]) -> None:
    red, nir = np.array([[980, 0], [1400, 65_535]], np.uint16), np.array([[1500, 3], [4600, 7]], np.uint16)
    scl, table = np.array([[4, 9], [5, 200]], np.uint8), scl_table(MASKS["default"])
    copies = [array.copy() for array in (red, nir, scl, table)]
    kernel(red, nir, scl, table, (-1000, -1000), clip=True)
    for array, copy in zip((red, nir, scl, table), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@both
@pytest.mark.parametrize(
    ("nir", "scl"),
    [((2, 4), (2, 2)), ((4, 3), (2, 2)), ((4, 4), (2, 3)), ((4, 4), (2, 1)), ((4, 4), (3, 2)), ((4, 4), (3, 3))],
)
def test_shapes_that_do_not_fit_are_refused(
    kernel: Callable[..., Any], nir: tuple[int, int], scl: tuple[int, int]
) -> None:
    """Numba checks no bounds: it would read, or write, past the end of what it was given."""
    table = scl_table(())
    with pytest.raises(ValueError, match="shape"):
        kernel(np.ones((4, 4), np.uint16), np.ones(nir, np.uint16), np.ones(scl, np.uint8), table)


# Threads


def large_scene(side: int) -> Scene:
    generator = np.random.default_rng(11)
    small = [generator.integers(1, 6000, (256, 256), dtype=np.uint16) for _ in range(2)]
    red, nir = (np.tile(band, (side // 256, side // 256)) for band in small)
    scl = np.tile(generator.integers(0, 12, (128, 128), dtype=np.uint8), (side // 256, side // 256))
    return Scene(red, nir, scl, MASKS["default"], (-1000, -1000), 2)


def test_same_bytes_from_one_and_from_four_threads() -> None:
    scene = large_scene(1024)
    parts = [scene.crop(slice(top, top + 64), slice(0, 512)) for top in range(0, 512, 64)]
    alone = [part.run(cpu.ndvi_codes) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = list(pool.map(lambda part: part.run(cpu.ndvi_codes), parts))
            assert [codes.tobytes() for codes, _ in together] == [codes.tobytes() for codes, _ in alone]
            assert [counts for _, counts in together] == [counts for _, counts in alone]


def test_python_runs_on_while_the_kernel_computes() -> None:
    """A kernel that held the GIL would silence every other thread for the whole of its time, in every run.

    On a busy machine this thread may be silent for other reasons, so one good run of twenty is enough.
    """
    scene = large_scene(4096)
    durations = []
    for _ in range(4):
        start = time.perf_counter()
        scene.run(cpu.ndvi_codes)
        durations.append(time.perf_counter() - start)
    shortest = min(durations)
    silence = np.inf
    for _ in range(20):
        thread = threading.Thread(target=scene.run, args=(cpu.ndvi_codes,))
        ticks = [time.perf_counter()]
        thread.start()
        while thread.is_alive():
            ticks.append(time.perf_counter())
        thread.join()
        silence = min(silence, np.diff(ticks).max())
        if silence < shortest / 2:
            break
    assert silence < shortest / 2
