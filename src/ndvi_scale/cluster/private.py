"""What others must not read or hear: files with a key or a password, what is sent to another machine."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def require_private(file: Path) -> None:
    """Raises ConfigError for a file that others can read, OSError for one that is not there.

    A group may, where the file is root's: so is a mounted secret, of a pod whose user is another.
    """
    known = file.stat()
    if known.st_mode & (0o037 if known.st_uid == 0 else 0o077):
        raise ConfigError(f"{file} can be read by others: chmod 600 it")


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
