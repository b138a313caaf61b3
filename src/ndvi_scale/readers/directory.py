"""What async-tiff does not tell of a TIFF's first directory: values that it does not know, and where it ends."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_FORMS: Final = {42: ("<H", "<I", 4, 12), 43: ("<Q", "<Q", 8, 20)}
"""Version (TIFF, BigTIFF) → how the number of entries and how offsets are written, where the first offset stands,
bytes of an entry."""
_SHORT: Final = 3


@dataclass(frozen=True)
class Directory:
    """The first directory of a little-endian TIFF."""

    numbers: dict[int, int]
    """Tag → value, of the tags that hold one 16-bit number."""
    link: slice
    """Where the offset of the next directory stands."""

    def alone(self, data: bytes) -> bytes:
        """The same bytes, without a next directory: a chain of them may be long, or a ring."""
        return b"".join((data[: self.link.start], bytes(self.link.stop - self.link.start), data[self.link.stop :]))


def first_directory(data: bytes) -> Directory | None:
    """The directory in the bytes that a file begins with; None where they do not hold it whole."""
    try:
        (version,) = struct.unpack_from("<H", data, 2)
        counted, offset, place, length = _FORMS[version]
        (start,) = struct.unpack_from(offset, data, place)
        (count,) = struct.unpack_from(counted, data, start)
    except (struct.error, KeyError):
        return None
    first = start + struct.calcsize(counted)
    link = slice(first + count * length, first + count * length + struct.calcsize(offset))
    if link.stop > len(data):
        return None
    entries = [struct.unpack_from(f"<HH{offset[1]}H", data, at) for at in range(first, link.start, length)]
    return Directory({tag: value for tag, kind, number, value in entries if (kind, number) == (_SHORT, 1)}, link)
