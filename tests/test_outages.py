"""A store that is away, or full: what is written stays whole, and the run goes on or says why it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import services
from ndvi_scale import open_store, store_digest
from ndvi_scale.errors import StoreError
from ndvi_scale.verify import verify
from runs import plan_of, run

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox

AWAY = 12.0
"""Seconds; and it takes as long again until it has a leader and answers."""


@pytest.mark.slow
def test_a_store_that_is_away_is_waited_for(weed: None, sandbox: Sandbox, tmp_path: Path) -> None:
    plan, whole = plan_of(sandbox, chunk=32), open_store(str(tmp_path / "whole.zarr"))
    run(plan, whole)
    with services.mortal_seaweed(tmp_path) as server:
        store = open_store(f"s3://{server.endpoint.bucket}/ndvi.zarr", server.endpoint.options)
        away = threading.Thread(target=lambda: (time.sleep(AWAY), server.start()))

        def leave(_: object) -> None:
            if not away.ident:
                server.kill()
                away.start()

        report = run(plan, store, on_done=leave)
        away.join()
        assert not report.failed
        assert report.seconds > AWAY
        assert store_digest(store) == store_digest(whole)


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_was_written_is_whole(sandbox: Sandbox, tmp_path: Path) -> None:
    """On a file system of its own, in a mount namespace of its own."""
    alone = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no mount namespaces here: unshare, of util-linux, is refused")
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    command = [sys.executable, "-m", "ndvi_scale", "run", "--items", str(sandbox.items), "--crs", "EPSG:32631"]
    script = (
        f"mount -t tmpfs -o size=300k tmpfs {small} && "
        f"{' '.join(command)} --chunk 32 --out {small}/ndvi.zarr; code=$?; cp -r {small} {kept}; exit $code"
    )
    told = subprocess.run([*alone, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert told.returncode == StoreError.exit_code
    assert "No space left" in told.stderr
    assert "Traceback" not in told.stderr
    plan, store = plan_of(sandbox, chunk=32), open_store(str(kept / "ndvi.zarr"))
    found = verify(plan, store)
    assert found.missing
    assert not found.damaged
