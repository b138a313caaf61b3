"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndvi_scale.errors import ConfigError
from ndvi_scale.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4_000_000_000),
        ("4 GB", 4_000_000_000),
        ("4G", 4_000_000_000),
        ("512MiB", 512 << 20),
        (" 512 MiB ", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("100kB", 100_000),
        ("64KiB", 65_536),
        ("2TB", 2 * 10**12),
        ("1e9", 10**9),
        ("1e9B", 10**9),
        ("123456", 123_456),
    ],
)
def test_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "4 bananas", "-4GB", "0", "0GB", "1.2.3GB", "nan", "4XB", "4GBs", "1e999"]
)
def test_no_size(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size(text)
    assert all(part in str(caught.value) for part in (f"memory {text!r}", "4GB", "512MiB"))


@given(st.integers(1, 10**15))
def test_a_plain_number_is_bytes(size: int) -> None:
    assert parse_size(str(size)) == pytest.approx(size, rel=1e-12)
