"""Layers reduced along time, against rational arithmetic, numpy, and another program's composite."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ndvi_scale.kernels import CODE_SCALE, FILL_CODE, reduce

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Stack = np.ndarray[Any, Any]
    Results = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

JUNK = 12345
"""What results hold before: a kernel that adds to it, or leaves it, is caught."""

FLOATS = (np.float32, np.float64)
NAN = float("nan")
PERCENTS = st.one_of(st.sampled_from([0, 50, 50, 100]), st.integers(0, 100))


@st.composite
def code_stacks(draw: st.DrawFn, most: int = 12) -> Stack:
    """Codes of every kind: ties, halves, edges of the range and of int16, fill from none to all."""
    shape = draw(st.tuples(st.integers(1, most), st.integers(1, 3), st.integers(1, 5)))
    few = st.sampled_from([-10_000, -3, -2, -1, 0, 1, 2, 3, 9_999, 10_000])
    some = st.integers(-10_000, 10_000)
    every = st.one_of(st.integers(FILL_CODE + 1, 32_767), st.sampled_from([FILL_CODE + 1, 32_767]))
    values = draw(st.sampled_from([few, some, every]))
    stack = draw(npst.arrays(np.int16, shape, elements=values))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    stack[random.random(shape) < draw(st.sampled_from([0, 0.1, 0.5, 0.9, 1]))] = FILL_CODE
    return stack


def random_codes(shape: tuple[int, ...], share: float = 0.4, seed: int = 0) -> Stack:
    random = np.random.default_rng(seed)
    stack = random.integers(-10_000, 10_001, shape, dtype=np.int16)
    stack[random.random(shape) < share] = FILL_CODE
    return stack


def decoded(stack: Stack, dtype: Any) -> Stack:
    """NDVI of codes, NaN for fill."""
    return np.where(stack == FILL_CODE, np.nan, stack / CODE_SCALE).astype(dtype)


def planes(stack: Stack, dtype: Any) -> Results:
    """An out of that dtype and a count, full of junk."""
    return np.full(stack.shape[1:], JUNK, dtype), np.full(stack.shape[1:], JUNK, np.uint16)


def percentile(stack: Stack, percent: int, dtype: Any = None) -> Results:
    results = planes(stack, dtype or stack.dtype)
    reduce.percentile(stack, percent, *results)
    return results


def mean(stack: Stack, dtype: Any = None) -> Results:
    results = planes(stack, dtype or stack.dtype)
    reduce.mean(stack, *results)
    return results


def extreme(stack: Stack, dtype: Any = None, *, largest: bool = True) -> tuple[Stack, Stack, Stack]:
    out, count = planes(stack, dtype or stack.dtype)
    where = np.full(out.shape, JUNK, np.int16)
    reduce.extreme(stack, largest, out, where, count)
    return out, where, count


def valid_of(column: Stack) -> list[Any]:
    """The values of one pixel that are NDVI, in the order of the layers, as Python numbers."""
    return [v for v in column.tolist() if v != FILL_CODE and v == v]  # noqa: PLR0124


def fraction_at(values: list[int], percent: int) -> Fraction:
    """The percentile of whole numbers, exactly."""
    ranked = sorted(values)
    k, rest = divmod((len(ranked) - 1) * percent, 100)
    return Fraction((100 - rest) * ranked[k] + rest * ranked[k + (rest > 0)], 100)


def as_code(exact: Fraction | None) -> int:
    return FILL_CODE if exact is None else round(exact)  # Python rounds fractions half to even


def as_ndvi(exact: Fraction | None) -> np.float32:
    return np.float32(NAN if exact is None else float(exact / CODE_SCALE))


def by_pixel(stack: Stack, rule: Callable[[list[Any]], Any], dtype: Any) -> Stack:
    """A rule for the values of one pixel, applied to all."""
    out = np.empty(stack.shape[1:], dtype)
    for y, x in product(*map(range, out.shape)):
        out[y, x] = rule(valid_of(stack[:, y, x]))
    return out


def counts_of(stack: Stack) -> Stack:
    return by_pixel(stack, len, np.uint16)


# Codes, against rational arithmetic


@pytest.mark.slow
@given(stack=code_stacks(), percent=PERCENTS)
def test_percentiles_of_codes_are_exact(stack: Stack, percent: int) -> None:
    def exact(values: list[int]) -> Fraction | None:
        return fraction_at(values, percent) if values else None

    for dtype, rule in ((np.int16, as_code), (np.float32, as_ndvi)):
        out, count = percentile(stack, percent, dtype)
        np.testing.assert_array_equal(out, by_pixel(stack, lambda v, rule=rule: rule(exact(v)), dtype))
        np.testing.assert_array_equal(count, counts_of(stack))


@pytest.mark.slow
@given(stack=code_stacks())
def test_means_of_codes_are_exact(stack: Stack) -> None:
    def exact(values: list[int]) -> Fraction | None:
        return Fraction(sum(values), len(values)) if values else None

    for dtype, rule in ((np.int16, as_code), (np.float32, as_ndvi)):
        out, count = mean(stack, dtype)
        np.testing.assert_array_equal(out, by_pixel(stack, lambda v, rule=rule: rule(exact(v)), dtype))
        np.testing.assert_array_equal(count, counts_of(stack))


@given(stack=code_stacks(), largest=st.booleans())
def test_extremes_of_codes_and_the_first_layer_that_has_them(stack: Stack, largest: bool) -> None:  # noqa: FBT001
    choose = max if largest else min
    best = by_pixel(stack, lambda v: choose(v, default=FILL_CODE), np.int16)
    first = np.where((stack != FILL_CODE).any(axis=0), (stack == best).argmax(axis=0), -1)
    for dtype, wanted in ((np.int16, best), (np.float32, decoded(best, np.float32))):
        out, where, count = extreme(stack, dtype, largest=largest)
        np.testing.assert_array_equal(out, wanted)
        np.testing.assert_array_equal(where, first)
        np.testing.assert_array_equal(count, counts_of(stack))


@given(stack=code_stacks(), data=st.data())
def test_the_order_of_layers_does_not_matter(stack: Stack, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(stack))))
    shuffled = np.ascontiguousarray(stack[order])
    for reducer in (lambda s: percentile(s, 50), lambda s: percentile(s, 31), mean):
        for one, other in zip(reducer(stack), reducer(shuffled), strict=True):
            np.testing.assert_array_equal(one, other)
    for largest in (True, False):
        np.testing.assert_array_equal(extreme(stack, largest=largest)[0], extreme(shuffled, largest=largest)[0])


@pytest.mark.parametrize(
    ("values", "percent", "code"),
    [
        ([1, 2], 50, 2),
        ([2, 3], 50, 2),
        ([-1, -2], 50, -2),
        ([-3, -2], 50, -2),
        ([-1, 0], 50, 0),
        ([10_000, 9_999], 50, 10_000),
        ([0, 100], 1, 1),
        ([0, 50], 1, 0),
        ([0, 150], 1, 2),
        ([3, FILL_CODE, 1, FILL_CODE, 2], 50, 2),
        ([5, 1, 4, 2, 3], 25, 2),
        ([5, 1, 4, 2, 3], 100, 5),
        ([5, 1, 4, 2, 3], 0, 1),
        ([FILL_CODE, 7], 90, 7),
    ],
)
def test_halves_go_to_the_even_code(values: list[int], percent: int, code: int) -> None:
    stack = np.array(values, np.int16)[:, None, None]
    assert percentile(stack, percent)[0].item() == code


@pytest.mark.parametrize(
    ("values", "code"), [([0, 1], 0), ([1, 2], 2), ([-1, 0], 0), ([-2, -1], -2), ([1, 1, 2], 1)]
)
def test_means_that_are_halves_go_to_the_even_code(values: list[int], code: int) -> None:
    assert mean(np.array(values, np.int16)[:, None, None])[0].item() == code


# Spans, many layers


@pytest.mark.parametrize("border", [reduce.LANES, reduce.SORTED, reduce.SPAN, 2 * reduce.SPAN])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
def test_borders_of_spans(border: int, n: int) -> None:
    for size in (border - 1, border, border + 1):
        stack = random_codes((n, 1, size), seed=size * n)
        values = np.where(stack == FILL_CODE, np.nan, stack.astype(np.float64))
        seen = (stack != FILL_CODE).sum(axis=0)
        some = seen > 0
        ranked = np.sort(np.where(stack == FILL_CODE, 32_767, stack), axis=0).astype(np.int64)
        below, above = ((m // 2).clip(0)[None] for m in (seen - 1, seen))
        doubled = np.take_along_axis(ranked, below, 0)[0] + np.take_along_axis(ranked, above.clip(0, n - 1), 0)[0]
        even = doubled // 2 + ((doubled % 2 == 1) & (doubled // 2 % 2 == 1))
        for (out, count), wanted in (
            (percentile(stack, 50), even),
            (mean(stack), np.rint(np.nansum(values, axis=0) / np.maximum(seen, 1))),
            (extreme(stack)[::2], np.where(stack == FILL_CODE, -20_000, stack).max(axis=0)),
        ):
            np.testing.assert_array_equal(out, np.where(some, wanted, FILL_CODE))
            np.testing.assert_array_equal(count, seen)


@pytest.mark.parametrize("n", range(1, 13))
def test_networks_bring_two_ranks_into_their_rows(n: int) -> None:
    """Whoever sorts all zeros and ones sorts everything (Knuth's 0-1 principle; so with any rank of it)."""
    every = (np.arange(2**n) >> np.arange(n)[:, None] & 1).astype(np.int8)
    ranked = np.sort(every, axis=0)
    for rank in range(n):
        rows = every.copy()
        for i, j in reduce._network(n, rank).tolist():
            rows[i], rows[j] = np.minimum(rows[i], rows[j]), np.maximum(rows[i], rows[j])
        np.testing.assert_array_equal(rows[rank : rank + 2], ranked[rank : rank + 2])


def test_networks_are_no_larger_than_they_have_to_be() -> None:
    assert [len(reduce._network(n, (n - 1) // 2)) for n in (1, 2, 5, 30, 146)] == [0, 1, 9, 150, 1533]
    assert len(reduce._network(16, 0)) < len(reduce._network(16, 7)) < 63, "the whole of Batcher's has 63"


@pytest.mark.parametrize("n", [16, 17, 31, 33, 64, 100, 146, 365, 1000])
def test_many_layers(n: int) -> None:
    stack = random_codes((n, 2, 40), share=0.3, seed=n)
    stack[:, 0, :10] = FILL_CODE
    stack[: n // 2, 1, 30:] = FILL_CODE
    for percent in (0, 1, 25, 50, 90, 99, 100):
        wanted = by_pixel(stack, lambda v, p=percent: as_code(fraction_at(v, p) if v else None), np.int16)
        np.testing.assert_array_equal(percentile(stack, percent)[0], wanted)
    sums = by_pixel(stack, lambda v: as_code(Fraction(sum(v), len(v)) if v else None), np.int16)
    np.testing.assert_array_equal(mean(stack)[0], sums)


def test_as_many_layers_as_can_be_counted() -> None:
    n = reduce.MAX_LAYERS
    stack = np.full((n, 1, 3), 32_767, np.int16)
    stack[:, 0, 1] = FILL_CODE + 1
    stack[:, 0, 2] = np.arange(n)[::-1] - n // 2
    assert mean(stack)[0].tolist() == [[32_767, FILL_CODE + 1, 0]]
    assert percentile(stack, 50)[0].tolist() == [[32_767, FILL_CODE + 1, 0]]
    out, where, count = extreme(stack, largest=False)
    assert out.tolist() == [[32_767, FILL_CODE + 1, -(n // 2)]]
    assert where.tolist() == [[0, 0, n - 1]]
    assert count.tolist() == [[n, n, n]]


# Floats


def assert_same_bits(made: Stack, wanted: Stack) -> None:
    """Equal, NaN where NaN, and no two zeros for one."""
    np.testing.assert_array_equal(made, wanted)
    np.testing.assert_array_equal(np.signbit(made[made == 0]), np.signbit(wanted[wanted == 0]))


def float_stacks() -> st.SearchStrategy[Stack]:
    """NDVI that no code has, with zeros of both signs and NaN of both signs."""

    def made(drawn: tuple[Stack, int, bool]) -> Stack:
        codes, seed, double = drawn
        random = np.random.default_rng(seed)
        stack = decoded(codes, np.float64) + random.uniform(-5e-5, 5e-5, codes.shape) * (codes % 3)
        stack[codes == 0] = -0.0
        stack[codes == FILL_CODE] *= random.choice([-1, 1])
        return stack.astype(np.float64 if double else np.float32)

    return st.tuples(code_stacks(), st.integers(0, 1000), st.booleans()).map(made)


@given(stack=float_stacks(), percent=PERCENTS)
def test_percentiles_of_floats_are_rounded_once(stack: Stack, percent: int) -> None:
    def rule(values: list[float]) -> float:
        if not values:
            return NAN
        ranked = sorted(values)
        k, rest = divmod((len(ranked) - 1) * percent, 100)
        return ((100 - rest) * ranked[k] + rest * ranked[k + 1]) / 100 + 0.0 if rest else ranked[k] + 0.0

    out, count = percentile(stack, percent)
    assert_same_bits(out, by_pixel(stack, rule, stack.dtype))
    np.testing.assert_array_equal(count, counts_of(stack))


@given(stack=float_stacks())
def test_means_of_floats_are_summed_in_double_in_order(stack: Stack) -> None:
    def rule(values: list[float]) -> float:
        total = 0.0
        for value in values:  # not sum(), which compensates
            total += value
        return total / len(values) if values else NAN

    out, count = mean(stack)
    assert_same_bits(out, by_pixel(stack, rule, stack.dtype))
    np.testing.assert_array_equal(count, counts_of(stack))


@given(stack=float_stacks(), largest=st.booleans())
def test_extremes_of_floats(stack: Stack, largest: bool) -> None:  # noqa: FBT001
    choose = max if largest else min
    out, where, count = extreme(stack, largest=largest)
    assert_same_bits(out, by_pixel(stack, lambda v: choose(v, default=NAN), stack.dtype))
    firsts = np.where(count > 0, (stack == out).argmax(axis=0), -1)
    np.testing.assert_array_equal(where, firsts)
    np.testing.assert_array_equal(count, counts_of(stack))


@pytest.mark.filterwarnings("ignore:(All-NaN slice|Mean of empty slice|All-NaN axis)")  # what no layer has is NaN
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_numpy_says_the_same(dtype: Any, n: int) -> None:
    codes = random_codes((n, 10, 30), share=0.5, seed=n)
    stack = decoded(codes, dtype)
    exact = stack.astype(np.float64)
    close = {"rtol": 4 * np.finfo(dtype).eps, "atol": 2 * np.finfo(dtype).eps}
    for percent in (0, 10, 33, 50, 75, 100):
        theirs = np.nanpercentile(exact, percent, axis=0, method="linear")
        np.testing.assert_allclose(percentile(stack, percent)[0], theirs, **close)
        np.testing.assert_allclose(percentile(codes, percent, np.float32)[0], theirs, rtol=3e-7, atol=3e-7)
    np.testing.assert_allclose(percentile(stack, 50)[0], np.nanmedian(exact, axis=0), **close)
    np.testing.assert_allclose(mean(stack)[0], np.nanmean(exact, axis=0), **close)
    np.testing.assert_array_equal(extreme(stack)[0], np.nanmax(stack, axis=0))
    np.testing.assert_array_equal(extreme(stack, largest=False)[0], np.nanmin(stack, axis=0))


def test_floats_may_be_anything_but_nan() -> None:
    """Infinities, the value of the code of fill, zeros of both signs, the largest double, NaN with a payload."""
    nan = np.array([0x7FF8_0000_0000_0001, 0xFFF8_0000_0000_1234], np.uint64).view(np.float64)
    largest = np.finfo(np.float64).max
    columns = [
        [-np.inf, nan[0], nan[1]],
        [np.inf, 1.0, -np.inf],
        [float(FILL_CODE), NAN, NAN],
        [-0.0, 0.0, -0.0],
        [largest, NAN, NAN],
        [nan[1], nan[0], nan[1]],
    ]
    stack = np.array(columns).T[:, None, :].copy()
    out, count = percentile(stack, 50)
    assert_same_bits(out, np.array([[-np.inf, 1.0, FILL_CODE, 0.0, largest, NAN]]))
    assert count.tolist() == [[1, 3, 1, 3, 1, 0]]
    best, where, _ = extreme(stack)
    assert_same_bits(best, np.array([[-np.inf, np.inf, FILL_CODE, -0.0, largest, NAN]]))
    assert where.tolist() == [[0, 0, 0, 0, 0, -1]]
    least, where, _ = extreme(stack, largest=False)
    assert_same_bits(least, np.array([[-np.inf, -np.inf, FILL_CODE, -0.0, largest, NAN]]))
    assert where.tolist() == [[0, 2, 0, 0, 0, -1]]
    assert mean(np.array([[[np.inf]], [[1.0]]]))[0].item() == np.inf


@pytest.mark.parametrize("percent", [0, 25, 50, 75, 100])
def test_zeros_show_nothing_of_the_order_of_layers(percent: int) -> None:
    columns = np.array(list(product([-0.0, 0.0], repeat=3))).T[:, None, :].copy()
    assert_same_bits(percentile(columns, percent)[0], np.zeros((1, 8)))


# A layer at a time


def layer_by_layer(stack: Stack, dtypes: tuple[Any, ...]) -> tuple[list[Results], Results, list[tuple[Any, ...]]]:
    """Means in each of the dtypes, count, and both extremes, as they are made when no two layers are in memory."""
    shape = stack.shape[1:]
    total = np.zeros(shape, np.int32 if stack.dtype == np.int16 else np.float64)
    summed, seen = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
    fill = FILL_CODE if stack.dtype == np.int16 else NAN
    kept = [
        (np.full(shape, fill, stack.dtype), np.full(shape, -1, np.int16), np.zeros(shape, np.uint16)) for _ in "ab"
    ]
    for index, layer in enumerate(stack):
        reduce.add_to_sum(layer, total, summed)
        reduce.add_to_count(layer, seen)
        for largest, planes_ in zip((True, False), kept, strict=True):
            reduce.keep_extreme(layer, index, largest, *planes_)
    means = [np.full(shape, JUNK, dtype) for dtype in dtypes]
    for out in means:
        reduce.mean_of_sum(total, summed, out)
    return [(out, summed) for out in means], (seen, seen), kept


@given(stack=st.one_of(code_stacks(), float_stacks()))
def test_layer_by_layer_is_as_all_at_once(stack: Stack) -> None:
    dtypes = (np.int16, np.float32) if stack.dtype == np.int16 else (stack.dtype,)
    means, (seen, _), kept = layer_by_layer(stack, dtypes)
    counted = np.full(seen.shape, JUNK, np.uint16)
    reduce.count_valid(stack, counted)
    np.testing.assert_array_equal(seen, counted)
    np.testing.assert_array_equal(counted, counts_of(stack))
    for dtype, made in zip(dtypes, means, strict=True):
        for one, other in zip(made, mean(stack, dtype), strict=True):
            np.testing.assert_array_equal(one, other)
    for largest, made in zip((True, False), kept, strict=True):
        for one, other in zip(made, extreme(stack, largest=largest), strict=True):
            np.testing.assert_array_equal(one, other)


# What does not fit


@settings(max_examples=20)
@given(shape=st.sampled_from([(0, 5), (5, 0), (0, 0)]), n=st.integers(1, 4))
def test_nothing_of_nothing(shape: tuple[int, int], n: int) -> None:
    stack = np.empty((n, *shape), np.int16)
    for made in (*percentile(stack, 50), *mean(stack), *extreme(stack)):
        assert made.shape == shape


def test_layers_that_may_not_be_written_can_be_read() -> None:
    stack = random_codes((5, 3, 4))
    wanted = percentile(stack, 50)[0]
    stack.flags.writeable = False
    np.testing.assert_array_equal(percentile(stack, 50)[0], wanted)


def zeros(dtype: Any, *shape: int) -> Stack:
    return np.zeros(shape, dtype)


STACK = zeros(np.int16, 3, 2, 4)
OUT, COUNT, WHERE = zeros(np.int16, 2, 4), zeros(np.uint16, 2, 4), zeros(np.int16, 2, 4)


@pytest.mark.parametrize("percent", [-1, 101, 50.0, True, "50", None, NAN])
def test_percent_is_a_whole_number_to_100(percent: Any) -> None:
    with pytest.raises(ValueError, match=r"percent .* give a whole number from 0 to 100"):
        reduce.percentile(STACK, percent, OUT, COUNT)


def test_numpy_integers_are_whole_numbers() -> None:
    stack = random_codes((4, 2, 4))
    np.testing.assert_array_equal(percentile(stack, np.uint8(60))[0], percentile(stack, 60)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stack",
    [zeros(np.int16, 0, 2, 4), zeros(np.int16, 2, 4), zeros(np.int16, 1, 3, 2, 4), zeros(np.int16, 32_768, 0, 0)],
)
def test_a_stack_has_one_to_32767_layers(stack: Stack) -> None:
    with pytest.raises(ValueError, match="with n from 1 to 32767"):
        reduce.mean(stack, OUT, COUNT)


@pytest.mark.parametrize("dtype", ["u2", "i4", ">i2", "f2", "?"])
def test_layers_are_codes_or_floats(dtype: str) -> None:
    with pytest.raises(ValueError, match=r"stack is .*; give int16 codes, or float32 or float64"):
        reduce.count_valid(zeros(dtype, 3, 2, 4), COUNT)
    with pytest.raises(ValueError, match=r"layer is .*; give int16 codes, or float32 or float64"):
        reduce.add_to_count(zeros(dtype, 2, 4), COUNT)


@pytest.mark.parametrize(
    ("layers", "out"), [("i2", "f8"), ("i2", "u2"), ("f4", "f8"), ("f8", "f4"), ("f4", "i2"), ("f8", "i2")]
)
def test_out_fits_the_layers(layers: str, out: str) -> None:
    stack, made = zeros(layers, 3, 2, 4), zeros(out, 2, 4)
    for call in (
        lambda: reduce.percentile(stack, 50, made, COUNT),
        lambda: reduce.mean(stack, made, COUNT),
        lambda: reduce.extreme(stack, True, made, WHERE, COUNT),  # noqa: FBT003
    ):
        with pytest.raises(ValueError, match=r"out is .* but the layers are .*; give an out of"):
            call()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("out", lambda: reduce.percentile(STACK, 50, zeros(np.int16, 4, 2), COUNT)),
        ("count", lambda: reduce.percentile(STACK, 50, OUT, zeros(np.int16, 2, 4))),
        ("out", lambda: reduce.mean(STACK, zeros(np.int16, 8), COUNT)),
        ("count", lambda: reduce.mean(STACK, OUT, zeros(np.uint16, 2, 5))),
        ("out", lambda: reduce.extreme(STACK, True, zeros(np.int16, 2, 5), WHERE, COUNT)),  # noqa: FBT003
        ("out", lambda: reduce.extreme(STACK, True, zeros(np.float32, 2, 5), WHERE, COUNT)),  # noqa: FBT003
        ("where", lambda: reduce.extreme(STACK, True, OUT, zeros(np.int32, 2, 4), COUNT)),  # noqa: FBT003
        ("count", lambda: reduce.extreme(STACK, True, OUT, WHERE, zeros(np.uint16, 3, 4))),  # noqa: FBT003
        ("count", lambda: reduce.count_valid(STACK, zeros(np.uint8, 2, 4))),
        ("total", lambda: reduce.add_to_sum(OUT, zeros(np.float64, 2, 4), COUNT)),
        ("total", lambda: reduce.add_to_sum(zeros(np.float32, 2, 4), zeros(np.int32, 2, 4), COUNT)),
        ("count", lambda: reduce.add_to_sum(OUT, zeros(np.int32, 2, 4), zeros(np.uint16, 8))),
        ("total", lambda: reduce.mean_of_sum(zeros(np.int64, 2, 4), COUNT, OUT)),
        ("count", lambda: reduce.mean_of_sum(zeros(np.int32, 2, 4), zeros(np.uint16, 4), OUT)),
        ("out", lambda: reduce.mean_of_sum(zeros(np.float64, 2, 4), COUNT, OUT)),
        ("best", lambda: reduce.keep_extreme(OUT, 0, True, zeros(np.float32, 2, 4), WHERE, COUNT)),  # noqa: FBT003
        ("layer 32767", lambda: reduce.keep_extreme(OUT, 32_767, True, OUT, WHERE, COUNT)),  # noqa: FBT003
        ("layer -1", lambda: reduce.keep_extreme(OUT, -1, True, OUT, WHERE, COUNT)),  # noqa: FBT003
        ("count", lambda: reduce.add_to_count(OUT, zeros(np.uint16, 4, 2))),
        ("stack", lambda: reduce.mean(zeros(np.int16, 3, 4, 2).transpose(0, 2, 1), OUT, COUNT)),
        ("out", lambda: reduce.mean(STACK, zeros(np.int16, 4, 2).T, COUNT)),
        ("layer", lambda: reduce.add_to_count(zeros(np.int16, 4, 2).T, COUNT)),
    ],
)
def test_what_does_not_fit_is_named(name: str, call: Callable[[], None]) -> None:
    with pytest.raises(ValueError, match=rf"^{name} "):
        call()


def test_a_refusal_changes_nothing() -> None:
    out, count = planes(STACK, np.int16)
    with pytest.raises(ValueError, match="where"):
        reduce.extreme(STACK, True, out, zeros(np.int32, 2, 4), count)  # noqa: FBT003
    assert np.all(out == JUNK)
    assert np.all(count == JUNK)


# Another program's composite


def test_the_maximum_and_the_count_of_eolearn(real_data: Path) -> None:
    """68 dates of 101 x 100 pixels: the maximum over all of them, and how many of them are valid."""
    folder = real_data / "reference" / "eolearn_ndvi_ts"
    ndvi, valid, best, count = (
        np.load(folder / f"{name}.npy") for name in ("NDVI", "IS_VALID", "MAX_NDVI", "VALID_COUNT")
    )
    out, where, seen = extreme(np.ascontiguousarray(ndvi[..., 0]))
    np.testing.assert_array_equal(out, best[..., 0])
    np.testing.assert_array_equal(np.take_along_axis(ndvi[..., 0], where[None].astype(np.intp), 0)[0], out)
    assert seen.min() == seen.max() == 68
    masked = np.where(valid[..., 0], ndvi[..., 0], np.float32(NAN))
    np.testing.assert_array_equal(mean(masked)[1], count[..., 0])
