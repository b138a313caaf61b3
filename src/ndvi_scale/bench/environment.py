"""Where rows are measured: the machine and the versions, so that rows of different ones are not compared."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from ndvi_scale.bench.rows import Environment
from ndvi_scale.estimate import own_cores

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES: Final = (
    "ndvi-scale",
    "numpy",
    "numba",
    "zarr",
    "dask",
    "distributed",
    "obstore",
    "imagecodecs",
    "rasterio",
)


def environment(price: float | None, currency: str, scripts: Mapping[str, str]) -> Environment:
    """Of this process."""
    facts = {
        "machine": machine(),
        "host": hashlib.sha256(machine_id().encode()).hexdigest()[:16],
        "cores": own_cores(),
        "memory": psutil.virtual_memory().total,
        "versions": versions(),
    }
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return Environment(id=found, date=now, price=price, currency=currency, scripts=dict(scripts), **facts)


def machine() -> str:
    """Processor, cores, memory and kernel, for a person."""
    cores = own_cores()
    memory = psutil.virtual_memory().total / 2**30
    return f"{processor()}, {cores} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def processor() -> str:
    """Name of the processor, as the kernel or Python has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_id() -> str:
    """What tells this machine from others."""
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or platform.node()
    except OSError:
        return platform.node()


def versions() -> dict[str, str]:
    """Python and packages → version; our own with its commit, where it is a checkout."""
    found = {"python": sys.version.split()[0]} | {name: _version(name) for name in PACKAGES}
    commit = _commit()
    return found | ({"ndvi-scale": f"{found['ndvi-scale']} ({commit})"} if commit else {})


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Short commit of the checkout that this module lies in; empty where it is installed."""
    folder = Path(__file__).parent
    if not any((parent / ".git").exists() for parent in folder.parents):
        return ""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
