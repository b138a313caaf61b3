"""One run of one contender: a fresh process, its time, processor and memory, what it asked of the origin."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE: Final = Path(__file__).parent
TIMEOUT: Final = 900.0
KEPT: Final = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
"""Of the surroundings: neither GDAL_*, AWS_* nor proxies may speed up or slow down one of them alone."""


def run_process(python: Path, script: str, workload: Path, cache: Path) -> dict[str, Any]:
    """What a contender printed of itself, and what the system says: ``process_wall``, ``process_processor``.

    A contender that fails or does not end gives ``{"error": its last lines}``. `cache`: for Numba's compiled code,
    which everybody finds there after the round that warms up.
    """
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment["NUMBA_CACHE_DIR"] = str(cache)
    out, err = workload.with_suffix(".out"), workload.with_suffix(".err")
    with out.open("wb") as stdout, err.open("wb") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(python), str(HERE / script), str(workload)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=workload.parent,
        )
        try:
            status, usage = _wait(process, started)
        finally:
            if process.returncode is None:  # we are being ended ourselves
                process.kill()
                process.wait()
    wall = time.perf_counter() - started
    if status != 0:
        tail = err.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        return {"error": f"exit {status}: " + " | ".join(tail)}
    record = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
    return {**record, "process_wall": wall, "process_processor": usage["processor"]}


def _wait(process: subprocess.Popen[bytes], started: float) -> tuple[int, Mapping[str, float]]:
    """Exit status and processor seconds of a child and of all that it waited for."""
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, {"processor": usage.ru_utime + usage.ru_stime}
        if time.perf_counter() - started > TIMEOUT:
            process.kill()
        time.sleep(0.005)
