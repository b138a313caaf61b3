"""What was measured, one line of JSON a run, so that a run that was broken off is taken up."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.peers.stats import Interval, median_interval, ratios

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Results:
    """The runs of one workload, kept in a file."""

    path: Path
    header: dict[str, Any]
    """What the runs have in common: state of the code, machine, what was needed of the COGs."""
    runs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, header: dict[str, Any], *, again: bool = False) -> Results:
        """Take up the results at `path` if they are of the same header but for its date, else begin anew.

        Runs that failed are forgotten, and so tried again.
        """
        held = cls.load(path) if path.exists() and not again else None
        taken = held if held is not None and _undated(held.header) == _undated(header) else cls(path, header)
        runs = [run for run in taken.runs if "error" not in run]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in (taken.header, *runs)), encoding="utf-8")
        return cls(path, taken.header, runs)

    @classmethod
    def load(cls, path: Path) -> Results:
        """The results at `path`."""
        header, *runs = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return cls(path, header, runs)

    def has(self, round_number: int, contender: str) -> bool:
        """Whether a run is there already."""
        return any(run["round"] == round_number and run["contender"] == contender for run in self.runs)

    def add(self, run: dict[str, Any]) -> None:
        """Keep a run."""
        self.runs.append(run)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")

    def of(self, contender: str) -> list[dict[str, Any]]:
        """The measured runs of a contender by round; round 0 warmed up, and is left out."""
        found = [run for run in self.runs if run["contender"] == contender and run["round"] > 0]
        return sorted(found, key=lambda run: run["round"])

    def failure(self, contender: str) -> str | None:
        """Why a contender's runs are none: it ended with an error, or its pixels differ."""
        for run in self.runs:
            if run["contender"] == contender and "error" in run:
                return str(run["error"])
        return None

    def interval(self, contender: str, metric: str) -> Interval | None:
        """Median of a metric; None where it was not measured."""
        values = [run[metric] for run in self.of(contender) if run.get(metric) is not None]
        return median_interval(values) if values and self.failure(contender) is None else None

    def ratio(self, above: str, below: str, metric: str = "wall") -> Interval | None:
        """Median of the quotients of two contenders' values in the same rounds."""
        if self.failure(above) is not None or self.failure(below) is not None:
            return None
        held = {run["round"]: run[metric] for run in self.of(below)}
        pairs = [(run[metric], held[run["round"]]) for run in self.of(above) if run["round"] in held]
        return median_interval(ratios(*zip(*pairs, strict=True))) if pairs else None


def _undated(header: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name != "date"}
