"""What async-tiff does not tell of a TIFF's directories: values that it does not know, where they begin and end."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORMS: Final = {42: ("<H", "<I", 4, 12), 43: ("<Q", "<Q", 8, 20)}
"""Version (TIFF, BigTIFF) → how the number of entries and how offsets are written, where the first offset stands,
bytes of an entry."""
_MASKS: Final = {3: 0xFFFF, 4: 0xFFFFFFFF}
"""Type (16-bit, 32-bit number) → the bits of a value that are the number."""
_KINDS: Final = frozenset({*range(1, 14), 16, 17, 18})
_VALUES: Final = 1 << 20
"""Most values of a tag: a band of 10980² in blocks of 16² has half as many."""


@dataclass(frozen=True)
class Directory:
    """A directory of a little-endian TIFF: what is said of one of its images."""

    numbers: dict[int, int]
    """Tag → value, of the tags that hold one number of 16 or 32 bits."""
    start: int
    """Where it begins."""
    place: slice
    """Where the offset of the file's first directory stands."""
    link: slice
    """Where the offset of the next directory stands."""
    sane: bool
    """Whether each tag is there once, of a known kind, with no more values than an image needs. Of two async-tiff
    takes the last and GDAL the first; at other kinds it panics; for too many values it ends the process."""

    def alone(self, data: bytes) -> bytes:
        """The same bytes, with this directory first and without a next one: a chain may be long, or a ring."""
        found = bytearray(data)
        found[self.place] = self.start.to_bytes(self.place.stop - self.place.start, "little")
        found[self.link] = bytes(self.link.stop - self.link.start)
        return bytes(found)


def first_directory(data: bytes) -> Directory | None:
    """The directory in the bytes that a file begins with; None where they do not hold it whole."""
    return next(directories(data), None)


def directories(data: bytes) -> Iterator[Directory]:
    """The directories of a file, one after the other, as far as its first bytes hold them; each once."""
    try:
        (version,) = struct.unpack_from("<H", data, 2)
        _, offset, at, _ = _FORMS[version]
    except (struct.error, KeyError):
        return
    place = slice(at, at + struct.calcsize(offset))
    link, seen = place, {0}
    while link.stop <= len(data):
        (start,) = struct.unpack_from(offset, data, link.start)
        found = _directory(data, start, place, _FORMS[version]) if start not in seen else None
        if found is None:
            return
        yield found
        seen.add(start)
        link = found.link


def _directory(data: bytes, start: int, place: slice, form: tuple[str, str, int, int]) -> Directory | None:
    counted, offset, _, length = form
    if start > len(data):
        return None
    try:
        (count,) = struct.unpack_from(counted, data, start)
    except struct.error:
        return None
    first = start + struct.calcsize(counted)
    link = slice(first + count * length, first + count * length + struct.calcsize(offset))
    if link.stop > len(data):
        return None
    entries = [struct.unpack_from(f"<HH{offset[1]}I", data, at) for at in range(first, link.start, length)]
    return Directory(
        numbers={
            tag: value & _MASKS[kind] for tag, kind, number, value in entries if number == 1 and kind in _MASKS
        },
        start=start,
        place=place,
        link=link,
        sane=all(kind in _KINDS and number <= _VALUES for _, kind, number, _ in entries)
        and len({tag for tag, *_ in entries}) == count,
    )
