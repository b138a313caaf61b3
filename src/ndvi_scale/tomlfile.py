"""TOML files that a person wrote."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """What a file says; `what` it is, for errors. Raises ConfigError for one that is absent or malformed."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"no such {what}: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from None
