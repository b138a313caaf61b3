"""Ours against every peer on the same COGs: `uv run python -m benchmarks.peers`.

Makes the COGs and the peers' environments once (kept in --work), starts the origin, runs every contender in fresh
processes, interleaved, after a round that warms up, compares their pixels, and writes docs/benchmarks.md. A run
that was broken off is taken up where it stood.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.bars import bar_rows, bars
from benchmarks.peers.blocks import needed_blocks
from benchmarks.peers.envs import OWN, interpreter
from benchmarks.peers.measure import run_process
from benchmarks.peers.pixels import compare
from benchmarks.peers.results import Results
from benchmarks.peers.table import section, write_docs
from benchmarks.peers.workloads import Contender, Spec, features_of, specs, write_workload

from ndvi_scale.bench.archive import make_archive
from ndvi_scale.bench.origin import Origin, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "benchmarks.md"
REFERENCE: Final = Contender("reference", "reference", OWN, "contender_ours.py", 2, {"reader": "rasterio"})


@dataclass(frozen=True)
class Bench:
    """Where things are, and how it is to be measured."""

    work: Path
    origin: Origin
    pythons: dict[str, Path]
    repeats: int
    seed: int
    reader: str | None
    again: bool

    def run(self, spec: Spec, contender: Contender, round_number: int, archive: Path | None) -> dict[str, Any]:
        """One run, with what it asked of the origin; its output is compared and deleted."""
        tag = f"{spec.name}-{contender.name}-{round_number}"
        folder = self.work / "runs" / tag
        shutil.rmtree(folder, ignore_errors=True)
        chosen = contender
        if contender.env == OWN and self.reader is not None and "reader" not in contender.options:
            chosen = replace(contender, options={**contender.options, "reader": self.reader})
        base = f"{self.origin.url}/{tag}"
        before = self.origin.count(tag)
        workload = write_workload(spec, chosen, folder, features_of(spec, archive, base), archive)
        record = run_process(self.pythons[contender.env], contender.script, workload, self.work / "numba")
        after = self.origin.count(tag)
        record |= {name: value - getattr(before, name) for name, value in asdict(after).items()}
        record = {"round": round_number, "contender": contender.name, **_derived(record)}
        if "error" not in record and archive is not None and contender is not REFERENCE:
            record |= self._compared(spec, folder / "out.zarr")
        if contender is not REFERENCE:
            shutil.rmtree(folder)
        return record

    def reference(self, spec: Spec) -> Path:
        """Ours, read through GDAL: what every output is compared with."""
        return self.work / "runs" / f"{spec.name}-reference-0" / "out.zarr"

    def _compared(self, spec: Spec, out: Path) -> dict[str, Any]:
        try:
            found = compare(self.reference(spec), out)
        except (ValueError, OSError) as error:
            return {"error": f"output: {error}"}
        if not found.equal:
            return {
                "error": f"pixels: {found.validity} valid in one only, codes {found.largest} apart, "
                f"{found.pixels} differ"
            }
        return {"different": found.pixels}


def _derived(record: dict[str, Any]) -> dict[str, Any]:
    """What tables want beside what was measured."""
    if "bound" in record:  # the printed bound is beside the interpreter and its libraries
        record["allowed"] = record["bound"] + record["memory_imported"]
    if "build" in record:
        record["graph"] = record["build"] - record.get("plan", 0)
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the tables."""
    asked = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # as by ^C: what was started is ended, too
    work = asked.work.expanduser().resolve()
    chosen = _chosen(specs(quick=asked.quick), asked.workloads, "workload")
    if asked.quick:
        work = work / "quick"
    _say(f"work in {work}, cores {sorted(os.sched_getaffinity(0))}")
    started = time.monotonic()
    archives = {
        name: make_archive(work / "archives", spec.recipe, _say) if spec.recipe else None
        for name, spec in chosen.items()
    }
    (work / "archives").mkdir(parents=True, exist_ok=True)
    with serve(work / "archives", work / "origin") as origin:
        for name, spec in chosen.items():
            only = _chosen({c.name: c for c in spec.contenders}, asked.only, None)
            pythons = {c.env: interpreter(c.env, work / "envs", asked.python, _say) for c in only.values()}
            pythons[OWN] = Path(sys.executable)
            bench = Bench(work, origin, pythons, asked.repeats, asked.seed, asked.reader, asked.again)
            _measure(bench, replace(spec, contenders=tuple(only.values())), archives[name])
    held = _held(work / "results")
    for bar in bar_rows(bars(held)):
        print(bar)
    if not asked.quick and not asked.no_docs:
        write_docs(PAGE, _sections(held))
        _say(f"wrote {PAGE}")
    _say(f"took {(time.monotonic() - started) / 60:.1f} minutes")


def _measure(bench: Bench, spec: Spec, archive: Path | None) -> None:
    """All rounds of one workload."""
    results = Results.open(
        bench.work / "results" / f"{spec.name}.jsonl", _header(bench, spec, archive), again=bench.again
    )
    if archive is not None:
        _say(f"{spec.name}: the reference")
        made = bench.run(spec, REFERENCE, 0, archive)
        if "error" in made:
            raise SystemExit(f"the reference of {spec.name} failed: {made['error']}")
    rounds = min(bench.repeats, spec.rounds or bench.repeats)
    for number in range(rounds + 1):  # round 0 warms up
        order = [c for c in spec.contenders if not c.once or number == 1]
        random.Random(f"{bench.seed} {spec.name} {number}").shuffle(order)  # noqa: S311
        for contender in order:
            if not results.has(number, contender.name):
                record = bench.run(spec, contender, number, archive)
                results.add(record)
                told = record.get("error") or f"{record['wall']:.2f} s, {record['requests']} requests"
                _say(f"{spec.name}, round {number} of {rounds}, {contender.name}: {told}")
    print("\n" + section(results, spec.contenders) + "\n", flush=True)


def _header(bench: Bench, spec: Spec, archive: Path | None) -> dict[str, Any]:
    files = sorted(archive.glob("sentinel-2-l2a/*/*.tif")) if archive is not None else []
    if archive is not None:
        used = {feature["id"] for feature in features_of(replace(spec, copies=1), archive, "")}
        files = [path for path in files if path.parent.name in used]
    needed = asdict(needed_blocks(files, spec.bounds)) if files else None
    return {
        "workload": spec.name,
        "title": spec.title,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "machine": _machine(),
        "origin": bench.origin.kind,
        "reader": bench.reader or "default",
        "seed": bench.seed,
        "needed": needed and {name: value * spec.copies for name, value in needed.items()},
    }


def _commit() -> str:
    """The commit, and a digest of what is changed beside it."""
    git = shutil.which("git") or "git"
    try:
        head = subprocess.run(
            [git, "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [git, "diff", "HEAD", "--", "src", "benchmarks"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    more = f" + {sha256(changed.stdout).hexdigest()[:8]}" if changed.stdout else ""
    return head.stdout.strip() + more


def _machine() -> str:
    """Processor, cores that may be used, system."""
    name = platform.processor() or platform.machine()
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{len(os.sched_getaffinity(0))} cores of {name}, Python {platform.python_version()}"


def _held(folder: Path) -> dict[str, Results]:
    return {path.stem: Results.load(path) for path in sorted(folder.glob("*.jsonl"))}


def _sections(held: dict[str, Results]) -> dict[str, str]:
    known = specs()
    found = {name: section(results, known[name].contenders) for name, results in held.items() if name in known}
    return {"aims": "\n".join(bar_rows(bars(held))), **found}


def _chosen(held: dict[str, Any], wanted: str | None, what: str | None) -> dict[str, Any]:
    """Those of some named things that are asked for; unknown names are an error where `what` they are is said."""
    if wanted is None:
        return held
    names = wanted.split(",")
    unknown = [name for name in names if name not in held]
    if unknown and what is not None:
        raise SystemExit(f"unknown {what} {unknown[0]!r}: give some of {', '.join(held)}, with commas")
    return {name: value for name, value in held.items() if name in names}


def _parser() -> argparse.ArgumentParser:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "ndvi-scale-peers")
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=cache, help="COGs (2 GB), environments and results are kept here"
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter of the peers' environments")
    parser.add_argument("--workloads", help=f"some of {','.join(specs())}")
    parser.add_argument("--only", help="contenders by name, with commas")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the one that warms up")
    parser.add_argument("--seed", type=int, default=0, help="of the order within a round")
    parser.add_argument("--reader", help="reader of ours, by name")
    parser.add_argument("--again", action="store_true", help="begin anew, also where results are there")
    parser.add_argument("--quick", action="store_true", help="a small tile, to see that all works; writes no page")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md as it is")
    return parser


def _say(*parts: object) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}]", *parts, flush=True)


if __name__ == "__main__":
    main()
