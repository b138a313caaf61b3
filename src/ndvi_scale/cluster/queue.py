"""What an HPC scheduler says of jobs: where they stand, and why they wait."""

from __future__ import annotations

import getpass
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ANSWER: Final = 20.0
"""Seconds that the scheduler's program has: a busy one takes several."""

_SLURM_OVER: Final = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
_PBS_STATES: Final = {
    "Q": "queued",
    "H": "held",
    "R": "running",
    "E": "ending",
    "F": "finished",
    "C": "finished",
    "X": "finished",
    "W": "waiting for its time",
    "S": "suspended",
    "T": "being moved",
    "M": "moved",
    "B": "begun",
}


@dataclass(frozen=True)
class Standing:
    """Where a job stands."""

    said: str
    """In the scheduler's own words, such as ``pending (Resources)``."""
    over: bool = False


GONE: Final = Standing("no longer known to the scheduler", over=True)


def standings(kind: str, jobs: Iterable[str]) -> dict[str, Standing] | None:
    """Job → where it stands; None where the scheduler cannot be asked, or not by us."""
    wanted = list(jobs)
    if kind not in _ASKED or not wanted:
        return None
    command, parse = _ASKED[kind]
    try:
        answer = subprocess.run(  # noqa: S603
            command(wanted), capture_output=True, text=True, timeout=ANSWER, check=False, start_new_session=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = parse(answer.stdout)
    if answer.returncode and not found and not re.search("unknown job|has finished", answer.stderr, re.IGNORECASE):
        return None
    return {job: found.get(job, GONE) for job in wanted}


def how_to_ask(kind: str) -> str:
    """The command that a person can ask with, of a kind that we do not."""
    by_kind: Mapping[str, str] = {"sge": "qstat -j JOB", "lsf": "bjobs -p JOB", "htcondor": "condor_q -better JOB"}
    return by_kind.get(kind, "squeue --me" if kind == "slurm" else "qstat -f JOB")


def _ask_slurm(_: list[str]) -> list[str]:
    # Of all states, by user: asked for a job that it has forgotten, squeue would fail for the others, too.
    return ["squeue", "--noheader", "--states=all", f"--user={getpass.getuser()}", "--format=%i|%T|%r"]


def parse_squeue(text: str) -> dict[str, Standing]:
    """Lines of job, state and reason."""
    found = {}
    for line in text.splitlines():
        job, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        told = state.lower() if reason in {"", "None"} else f"{state.lower()} ({reason})"
        found[job] = Standing(told, over=state in _SLURM_OVER)
    return found


def _ask_pbs(jobs: list[str]) -> list[str]:
    return ["qstat", "-x", "-f", *jobs]


def parse_qstat(text: str) -> dict[str, Standing]:
    """What ``qstat -f`` prints: a paragraph a job, long values continued after a tab."""
    found = {}
    for paragraph in re.split(r"^Job Id: *", re.sub(r"\n\t", "", text), flags=re.MULTILINE)[1:]:
        job = paragraph.split(maxsplit=1)[0]
        facts = dict(re.findall(r"^ +([\w.]+) = (.*)$", paragraph, flags=re.MULTILINE))
        state = facts.get("job_state", "?")
        told = _PBS_STATES.get(state, f"in state {state}")
        comment = facts.get("comment")
        standing = Standing(f"{told} ({comment})" if comment else told, over=state in {"F", "C", "X"})
        found[job] = standing
        found[job.partition(".")[0]] = standing  # dask-jobqueue knows jobs by their number alone
    return found


_ASKED: Final[dict[str, tuple[Callable[[list[str]], list[str]], Callable[[str], dict[str, Standing]]]]] = {
    "slurm": (_ask_slurm, parse_squeue),
    "pbs": (_ask_pbs, parse_qstat),
}
