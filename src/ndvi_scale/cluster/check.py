"""Whether the workers of a cluster are fit for a run: asked of each, said with a remedy."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from ndvi_scale.cluster.jobqueue import WORKER
from ndvi_scale.cluster.versions import HERE, PACKAGES, versions_of
from ndvi_scale.errors import ClusterError, StoreError
from ndvi_scale.region import this_process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client

    from ndvi_scale.store import Store

READING: Final = ("rasterio", "obstore")
"""Packages besides `versions.PACKAGES` of which another version may mean other pixels."""

SETTINGS: Final = (*WORKER, "GDAL_NUM_THREADS")

CLOCK_S: Final = 30.0
"""Clocks further apart than this make a lease look dead, and a signed request be refused."""

SCRATCH_BYTES: Final = 1 << 30
"""Free bytes on a worker's scratch folder below which it is named: what does not fit memory goes there."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    value: str
    """What was found."""
    remedy: str = ""


@dataclass(frozen=True)
class Checked:
    """What was found of a cluster."""

    workers: int
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.ok for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"ok": self.ok, "workers": self.workers, "findings": [asdict(one) for one in self.findings]}


def check_cluster(client: Client, store: Store | None = None) -> Checked:
    """Look at every worker that is there; with a store, write to it from each, and leave nothing behind.

    Raises ClusterError where there is no worker, StoreError where the store may not be sent to one.
    """
    if store is not None:
        store.require_sendable()
    began = time.time()
    found = cast("dict[str, dict[str, Any]]", client.run(facts))
    lasted = time.time() - began
    if not found:
        raise ClusterError("the cluster has no worker to look at: wait for one, or ask for more")
    settings = {one["place"]: one["settings"] for one in found.values()}
    findings = [
        *_alike("versions", "version of", _versions(client, found), "install the same on the workers as here"),
        *_alike("settings", "", settings, "set it alike in the environment of all workers"),
        _scratch(found),
        _clock(found, began, lasted),
        _room(client),
    ]
    if store is not None:
        findings.append(_target(client, store))
    return Checked(len(found), tuple(findings))


def facts() -> dict[str, Any]:
    """What a process says of itself."""
    return {
        "place": this_process(),
        "gdal": _gdal(),
        "settings": {name: os.environ.get(name, "not set") for name in SETTINGS},
        "scratch": _scratch_facts(),
        "time": time.time(),
    }


def _gdal() -> str:
    try:
        import rasterio
    except ImportError:
        return "absent"
    return str(rasterio.__gdal_version__)


def _scratch_facts() -> tuple[str, int, str]:
    """Path, free bytes, and why it cannot be written, if so."""
    from distributed import get_worker

    try:
        path = get_worker().local_directory
    except ValueError:  # no worker
        path = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
        return path, shutil.disk_usage(path).free, ""
    except OSError as error:
        return path, 0, str(error)


def _versions(client: Client, found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Place → what is installed there → version: of this process, and of the workers whose facts were found."""
    told = versions_of(client, (*PACKAGES, *READING))
    here = {HERE: {**told[HERE], "gdal": _gdal()}}
    return here | {one["place"]: {**told.get(place, {}), "gdal": one["gdal"]} for place, one in found.items()}


def _alike(what: str, prefix: str, told: Mapping[str, Mapping[str, str]], remedy: str) -> list[Finding]:
    """One finding for all that is the same at every place, and one for each thing that differs."""
    findings, same = [], []
    for name in next(iter(told.values())):
        values: dict[str, list[str]] = {}
        for place, said in told.items():
            values.setdefault(said.get(name, "unknown"), []).append(place)
        if len(values) == 1:
            same.append(f"{name} {next(iter(values))}")
            continue
        value = "; ".join(f"{value} on {_some(places)}" for value, places in values.items())
        findings.append(Finding(f"{prefix} {name}".strip(), ok=False, value=value, remedy=remedy))
    return [Finding(what, ok=True, value=", ".join(same)), *findings]


def _some(places: list[str]) -> str:
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")  # noqa: PLR2004


def _scratch(found: Mapping[str, Mapping[str, Any]]) -> Finding:
    scratches = {one["place"]: one["scratch"] for one in found.values()}
    bad = [f"{place}: {path} ({why})" for place, (path, _, why) in scratches.items() if why]
    if bad:
        return Finding("scratch", ok=False, value="; ".join(bad), remedy="give a folder that workers may write")
    path, free, _ = min(scratches.values(), key=lambda scratch: scratch[1])
    return Finding(
        "scratch",
        ok=free >= SCRATCH_BYTES,
        value=f"{free / 2**30:.1f} GiB free at least, at {Path(path)}",
        remedy="" if free >= SCRATCH_BYTES else "make room there, or give another folder",
    )


def _clock(found: Mapping[str, Mapping[str, Any]], began: float, lasted: float) -> Finding:
    """How far a worker's clock is from ours, at least: the question took a while."""
    offsets = {one["place"]: max(began - one["time"], one["time"] - began - lasted, 0.0) for one in found.values()}
    place = max(offsets, key=lambda name: offsets[name])
    ok = offsets[place] <= CLOCK_S
    remedy = "" if ok else "set the clocks by NTP: signed requests are refused, and a living driver looks dead"
    return Finding("clock", ok=ok, value=f"{offsets[place]:.0f} s apart at most, on {place}", remedy=remedy)


def _room(client: Client) -> Finding:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    rooms = sorted({(one["nthreads"], one["memory_limit"] or 0) for one in workers})
    value = "; ".join(f"{threads} threads, {_size(limit)}" for threads, limit in rooms)
    unlimited = any(not limit for _, limit in rooms)
    remedy = "give workers a memory limit, so that a run that does not fit is refused" if unlimited else ""
    return Finding("memory", ok=not unlimited, value=value, remedy=remedy)


def _size(limit: int) -> str:
    return f"{limit / 2**30:.1f} GiB" if limit else "no limit"


def _target(client: Client, store: Store) -> Finding:
    """Put, read and delete an object from each worker."""
    said = cast("dict[str, str]", client.run(try_store, store))
    store.state.clean()  # folders that only the trial made
    bad = [f"{worker}: {why}" for worker, why in said.items() if why]
    if not bad:
        return Finding("target", ok=True, value=f"{store.url} written, read and deleted by each worker")
    remedy = "give the workers the credentials in their environment, or a path that all of them reach"
    return Finding("target", ok=False, value=_some(bad), remedy=remedy)


def try_store(store: Store) -> str:
    """Put, read and delete an object beside the run's state; why that is not possible, or nothing."""
    name, data = f"check/{uuid.uuid4().hex}", b"ndvi-scale"
    try:
        store.put_state(name, data, create=True)
        try:
            return "" if store.get_state(name) == data else "what was written is not what is read"
        finally:
            store.delete_state([name])
    except StoreError as error:
        return str(error)
