"""What a process has used so far; runs on workers and on the scheduler, by name."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ndvi_scale.estimate import own_cores

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Used:
    """Of one process."""

    cpu: float
    """Processor seconds, user and system, all threads."""
    peak: int
    """Bytes, the most since `forget_peak`, or since it began."""
    spilled: int = 0
    transferred: int = 0
    """Bytes that came from other workers."""


def used(dask_worker: Any = None) -> Used:
    """Of this process."""
    incoming = getattr(dask_worker, "transfer_incoming_log", None) or ()
    spilled = getattr(getattr(dask_worker, "data", None), "spilled_total", None)
    return Used(
        own_cpu(),
        peak_memory(),
        getattr(spilled, "disk", 0),
        sum(int(one.get("total", 0)) for one in incoming),
    )


@dataclass(frozen=True)
class Machine:
    """Where a process runs."""

    boot: str
    """Tells machines apart, containers of one machine not: what the kernel calls this time that it runs."""
    cores: int
    """That the process may use."""


def machine_here() -> Machine:
    """Of this process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = platform.node()
    return Machine(boot, own_cores())


def crowded(machines: Mapping[str, Machine], threads: Mapping[str, int]) -> bool:
    """Whether workers on some machine have more threads than that has cores; both by worker."""
    taken: Counter[str] = Counter()
    for worker, machine in machines.items():
        taken[machine.boot] += threads.get(worker, 0)
    return any(taken[machine.boot] > machine.cores for machine in machines.values())


def own_cpu() -> float:
    """Processor seconds of this process, user and system, all threads."""
    times = psutil.Process().cpu_times()
    return times.user + times.system


def peak_memory() -> int:
    """Bytes that the kernel says this process had at most (VmHWM); where it does not say, what it has now."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return psutil.Process().memory_info().rss


def forget_peak() -> None:
    """Have the kernel begin anew with the peak of this process, where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
