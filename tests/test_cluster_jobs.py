"""Jobs of a real Slurm: they come, are lost and come back, say why they do not come, and are gone afterwards."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from ndvi_scale import open_cluster, open_store, run_batch, store_digest
from ndvi_scale.cluster import arrival, keeper
from ndvi_scale.cluster.jobqueue import KEYS, PLACE, render
from ndvi_scale.cluster.spec import SlurmSpec
from ndvi_scale.errors import ClusterError, ConfigError
from runs import plan_of, run

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox
    from services import S3Endpoint
    from slurm import Slurm


# Each starts workers, whose imports take ten seconds where a machine has other things to do.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "ASK_EVERY", 0.5)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def spec_of(logs: Path, **settings: Any) -> SlurmSpec:
    return SlurmSpec(**{"memory": "1GiB", "interface": "lo", "logs": str(logs), "wait": 50, **settings})


def until_empty(slurm: Slurm, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while slurm.jobs() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not slurm.jobs()


@pytest.mark.slow
def test_a_run_through_slurm_with_a_job_cancelled_in_the_middle(
    slurm: Slurm, sandbox: Sandbox, tmp_path: Path, logs: Path
) -> None:
    plan, here, there = plan_of(sandbox, chunk=32), open_store(str(tmp_path / "a")), open_store(str(tmp_path / "b"))
    run(plan, here)
    cancelled: list[str] = []

    def cancel_one(_: object) -> None:
        if not cancelled:
            cancelled.append(slurm.jobs()[0])
            slurm.call("scancel", *cancelled)

    with open_cluster(spec_of(logs, workers=2)) as submit:
        report = run_batch(plan, there, submit, on_done=cancel_one)
    assert cancelled
    assert not report.failed
    assert report.done == report.regions
    assert store_digest(there) == store_digest(here)
    assert until_empty(slurm)


@pytest.mark.slow
def test_a_job_that_is_lost_comes_back(slurm: Slurm, logs: Path) -> None:
    with open_cluster(spec_of(logs)) as submit:
        (first,) = slurm.jobs()
        slurm.call("scancel", first)
        deadline = time.monotonic() + 40
        while (submit.capacity(), slurm.jobs()) == (1, []) or first in slurm.jobs():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert submit(os.getenv, "SLURM_JOB_ID").result(40) == slurm.jobs()[0] != first


@pytest.mark.slow
def test_a_bucket_is_written_with_the_keys_of_the_workers_own_environment(
    slurm: Slurm,
    sandbox: Sandbox,
    seaweed_s3: S3Endpoint,
    logs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in seaweed_s3.options.items():
        monkeypatch.setenv(name.upper(), value)
    base = f"s3://{seaweed_s3.bucket}/slurm-{os.getpid()}"
    plan, here, there = plan_of(sandbox), open_store(f"{base}/a.zarr"), open_store(f"{base}/b.zarr")
    run(plan, here)
    with open_cluster(spec_of(logs, workers=2)) as submit:
        scripts = [slurm.call("scontrol", "write", "batch_script", job, "-") for job in slurm.jobs()]
        report = run_batch(plan, there, submit)
    assert not report.failed
    assert store_digest(there) == store_digest(here)
    written = [path.read_text() for path in logs.glob("*.*") if path.is_file()]
    assert len(scripts) == 2
    for text in [*scripts, *written]:
        assert seaweed_s3.secret_key not in text


@pytest.mark.slow
def test_what_is_rendered_is_submitted_and_nobody_else_gets_in(slurm: Slurm, logs: Path) -> None:
    from distributed import Client, Security

    spec = spec_of(logs)
    with pytest.raises(ZeroDivisionError), open_cluster(spec) as submit:  # noqa: PT012
        (job,) = slurm.jobs()
        script = slurm.call("scontrol", "write", "batch_script", job, "-")
        address = submit.client.scheduler.address
        (keys,) = logs.glob(".tls-*")
        expected = render(spec).replace(PLACE, address).replace(KEYS, str(keys))
        assert script.strip() == expected.replace("--name worker", "--name SLURMCluster-0").strip()
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in keys.iterdir()} == {0o600}
        strangers = ((address, Security.temporary()), (address.replace("tls://", "tcp://"), Security()))
        for place, stranger in strangers:
            with pytest.raises((OSError, TimeoutError)):
                Client(place, security=stranger, timeout=2)
        assert submit.client.cluster.scheduler.http_server.address == "127.0.0.1"
        raise ZeroDivisionError
    assert until_empty(slurm)
    assert not list(logs.glob(".tls-*"))


DRIVER = """
import os, signal, sys, time
from ndvi_scale import find_spec, open_cluster
if __name__ == "__main__":
    given = {"memory": "1GiB", "interface": "lo", "logs": sys.argv[1], "directives": sys.argv[2:]}
    with open_cluster(find_spec("slurm", {}, given)) as submit:
        future = submit(time.sleep, 600)
        print("inside", flush=True)
        future.result()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "held"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGHUP, True)],
    ids=["Ctrl-C", "Ctrl-C while pending", "terminated while pending", "hung up while pending"],
)
def test_nothing_is_left_after_a_signal(
    slurm: Slurm, tmp_path: Path, logs: Path, number: signal.Signals, *, held: bool
) -> None:
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    command = [sys.executable, str(program), str(logs), *(["--hold"] if held else [])]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if held:
            while not slurm.jobs():
                assert driver.poll() is None
                time.sleep(0.1)
        else:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "inside\n"
        driver.send_signal(number)
        assert driver.wait(20) != 0
    finally:
        driver.kill()
        driver.communicate()
    assert until_empty(slurm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"directives": ("--hold",)}, ["no worker", "5 s", "pending (JobHeldUser)"]),
        ({"memory": "100GiB"}, ["was refused", "Requested node configuration is not available"]),
        ({"prologue": ("echo there is no such module >&2; exit 3",)}, ["failed", "there is no such module"]),
        ({"queue": "nowhere"}, ["was refused", "nvalid partition"]),
    ],
    ids=["held", "too much memory", "fails", "no such queue"],
)
def test_workers_that_never_come_say_why(
    slurm: Slurm, logs: Path, settings: dict[str, Any], words: list[str]
) -> None:
    wait = 5 if "directives" in settings else 40
    with pytest.raises(ClusterError) as refused, open_cluster(spec_of(logs, **{"wait": wait, **settings})):
        pass
    for word in words:
        assert word in str(refused.value)
    assert until_empty(slurm)


@pytest.mark.slow
def test_fewer_than_asked_for_begin_and_say_why_not_more(
    slurm: Slurm, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "SETTLED", 1.0)
    with open_cluster(spec_of(logs, workers=2, memory="9GiB")) as submit:
        assert submit.note.startswith("1 of 2 workers came")
        assert "pending (Resources)" in submit.note
        assert submit(divmod, 7, 2).result(20) == (3, 1)
    assert until_empty(slurm)


@pytest.mark.slow
def test_workers_come_as_there_is_work(slurm: Slurm, sandbox: Sandbox, tmp_path: Path, logs: Path) -> None:
    with open_cluster(spec_of(logs, adapt="0:2")) as submit:
        assert not slurm.jobs()
        assert submit.capacity() == 4
        report = run_batch(plan_of(sandbox), open_store(str(tmp_path / "a")), submit)
        assert report.done == report.regions
        assert slurm.jobs()
    assert until_empty(slurm)


def test_without_the_schedulers_programs(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="no program sbatch"), open_cluster(spec_of(logs)):
        pass


def test_an_interface_that_is_not_there(slurm: Slurm, logs: Path) -> None:
    with pytest.raises(ConfigError, match="ib7"), open_cluster(spec_of(logs, interface="ib7")):
        pass
