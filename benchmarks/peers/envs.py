"""A pinned environment for each peer, made by uv from the lists beside this file, and kept."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

HERE: Final = Path(__file__).parent
OWN: Final = "ours"
"""The environment that the command itself runs in: the project, as its pyproject.toml pins it."""


def interpreter(name: str, parent: Path, base: str, say: Callable[[str], None]) -> Path:
    """The Python of an environment in `parent`, made with `base` if it is not there or its list has changed."""
    if name == OWN:
        return Path(sys.executable)
    pins = HERE / f"env-{name}.txt"
    digest = hashlib.sha256(pins.read_bytes() + base.encode()).hexdigest()
    folder = parent / name
    marker = folder / "pins.sha256"
    if marker.exists() and marker.read_text(encoding="ascii") == digest:
        return folder / "bin" / "python"
    uv = shutil.which("uv")
    if uv is None:
        raise SystemExit("uv makes the peers' environments and is not on PATH: pip install uv")
    say(f"making the environment of {name}")
    parent.mkdir(parents=True, exist_ok=True)
    # In `parent`, for in the checkout uv would add the project's own constraints to the peers' pins.
    subprocess.run([uv, "venv", "-q", "--clear", "--python", base, str(folder)], cwd=parent, check=True)
    python = folder / "bin" / "python"
    install = [uv, "pip", "install", "-q", "--python", str(python), "-r", str(pins)]
    subprocess.run(install, cwd=parent, check=True)
    marker.write_text(digest, encoding="ascii")
    return python


def pinned_version(name: str, package: str) -> str:
    """The version of a package in a peer's list."""
    lines = (HERE / f"env-{name}.txt").read_text(encoding="ascii").splitlines()
    return next(line.partition("==")[2] for line in lines if line.partition("==")[0] == package)
