from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crafted_tiffs import PREDICTOR, WIDTH, Tiff, pixels, write_tiff
from ndvi_scale.readers.directory import first_directory

if TYPE_CHECKING:
    from pathlib import Path

TILED: dict[str, Any] = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "predictor": 2}


@pytest.mark.parametrize("bigtiff", ["no", "yes"])
def test_single_numbers_and_the_next_directory(tmp_path: Path, bigtiff: str) -> None:
    tiff = Tiff(write_tiff(tmp_path / "a.tif", pixels((300, 500)), bigtiff=bigtiff, **TILED))
    alone = bytes(tiff.data)
    tiff.link(77)
    directory = first_directory(bytes(tiff.data))
    assert directory is not None
    assert (directory.numbers[WIDTH], directory.numbers[PREDICTOR]) == (500, 2)
    assert directory.alone(bytes(tiff.data)) == alone


@pytest.mark.parametrize("size", [0, 3, 8, 9, 60])
def test_bytes_that_do_not_hold_it(tmp_path: Path, size: int) -> None:
    data = bytes(Tiff(write_tiff(tmp_path / "a.tif", pixels((300, 500)), **TILED)).data)
    assert first_directory(data[:size]) is None


@given(st.sampled_from([b"II*\0", b"II+\0\x08\0\0\0", b""]), st.binary(max_size=400))
def test_any_bytes(start: bytes, rest: bytes) -> None:
    data = start + rest
    directory = first_directory(data)
    if directory is not None:
        assert 0 < directory.link.start < directory.link.stop <= len(data)
        assert len(directory.alone(data)) == len(data)
