"""Sizes in bytes as people write them, and what a worker takes of them before its first region."""

from __future__ import annotations

import math
import re
from typing import Final

from ndvi_scale.errors import ConfigError

INTERPRETER_BYTES: Final = 400 << 20
"""What a worker takes before its first region: Python, the libraries, compiled kernels. 243 MiB measured on Python
3.13 (Linux); the rest is for what allocators keep."""


def parse_size(text: str) -> int:
    """``"4GB"``, ``"512 MiB"`` or ``"1e9"`` in bytes. Raises ConfigError."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or not 0 < number < math.inf:
        raise ConfigError(f"memory {text!r} is not a size: give a number and a unit, such as 4GB or 512MiB")
    return int(number * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))
