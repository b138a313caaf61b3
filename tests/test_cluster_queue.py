"""What queues say, as their manuals print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ndvi_scale.cluster.queue import GONE, Standing, parse_qstat, parse_squeue, standings

if TYPE_CHECKING:
    from pathlib import Path

QSTAT = """\
Job Id: 1043.pbs-01
    Job_Name = ndvi-scale
    Job_Owner = me@login-1
    job_state = Q
    queue = workq
    comment = Not Running: Insufficient amount of resource: ncpus (R: 24 A: 8 T
\t: 128)
    Variable_List = PBS_O_HOME=/home/me,PBS_O_LANG=C
Job Id: 1044.pbs-01
    Job_Name = ndvi-scale
    job_state = F
    comment = Job run at Fri Nov 27 at 02:00 on (n1:ncpus=24) and failed
"""


def test_squeue() -> None:
    text = "12|PENDING|Resources\n13|RUNNING|None\n14|FAILED|NonZeroExitCode\n15|COMPLETING|None\n"
    assert parse_squeue(text) == {
        "12": Standing("pending (Resources)"),
        "13": Standing("running"),
        "14": Standing("failed (NonZeroExitCode)", over=True),
        "15": Standing("completing"),
    }


def test_qstat() -> None:
    found = parse_qstat(QSTAT)
    waiting = Standing("queued (Not Running: Insufficient amount of resource: ncpus (R: 24 A: 8 T: 128))")
    assert found["1043"] == found["1043.pbs-01"] == waiting
    assert found["1044"].over


@pytest.mark.parametrize("kind", ["pbs", "lsf", "htcondor"])
def test_a_queue_that_cannot_be_asked_says_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert standings(kind, ["1"]) is None


@pytest.mark.parametrize(
    ("said", "expected"), [("qstat: Unknown Job Id 1", {"1": GONE}), ("qstat: no server", None)]
)
def test_a_job_that_is_forgotten_is_over_and_a_server_that_is_away_says_nothing(
    said: str, expected: dict[str, Standing] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qstat"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 153\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert standings("pbs", ["1"]) == expected
