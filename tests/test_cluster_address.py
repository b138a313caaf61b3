"""A scheduler that is there already: real `dask scheduler` and `dask worker` processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import distributed.versions
import pytest
from dask import config as dask_config

from ndvi_scale import open_cluster, open_store, run_batch, store_digest
from ndvi_scale.cluster import versions
from ndvi_scale.cluster.address import open_address, read_address
from ndvi_scale.cluster.spec import AddressSpec
from ndvi_scale.errors import ClusterError, ConfigError
from runs import plan_of, run
from services import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox

pytestmark = pytest.mark.timeout(180)  # several processes, whose imports take seconds each


@contextlib.contextmanager
def dask(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments], stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a worker has children
        process.wait()


@contextlib.contextmanager
def cluster(
    folder: Path, *flags: str, scheme: str = "tcp", wait: bool = True
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and a worker of two threads; its address, and the scheduler's process."""
    (port,) = free_ports(1)
    address, log = f"{scheme}://127.0.0.1:{port}", folder / "dask.log"
    listen = ["--host", f"{scheme}://127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    work = [address, "--host", "127.0.0.1", "--nthreads", "2", "--dashboard-address", "127.0.0.1:0"]
    scratch = ["--local-directory", str(folder)]
    with (
        dask("scheduler", *listen, *flags, log=log) as scheduler,
        dask("worker", *work, *scratch, *flags, log=log),
    ):
        if wait:
            until_it_listens(port)
        yield address, scheduler


def until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 50
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    make_keys(folder)
    return folder


def spec_of(address: str, **settings: Any) -> AddressSpec:
    return AddressSpec(**{"scheduler": address, "wait": 50, **settings})


@pytest.mark.slow
def test_a_scheduler_killed_in_the_middle_is_said_and_another_takes_the_run_up(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    plan, here, there = plan_of(sandbox, chunk=32), open_store(str(tmp_path / "a")), open_store(str(tmp_path / "b"))
    run(plan, here)
    records = []
    with cluster(tmp_path) as (address, scheduler):

        def kill(record: object) -> None:
            records.append(record)
            if len(records) == 3:
                scheduler.kill()

        with (
            pytest.raises(ClusterError, match="run the same command again"),
            open_cluster(spec_of(address)) as submit,
        ):
            run_batch(plan, there, submit, on_done=kill)
    with cluster(tmp_path) as (address, scheduler):
        with open_cluster(spec_of(address)) as submit:
            report = run_batch(plan, there, submit)
            assert not report.failed
            assert report.done == report.regions
            assert report.computed <= report.regions - 3
        assert scheduler.poll() is None, "the scheduler is somebody else's: it has to live on"
        with open_cluster(spec_of(address)) as submit:
            assert submit(divmod, 7, 2).result(20) == (3, 1)
    assert store_digest(there) == store_digest(here)


@pytest.mark.slow
def test_with_a_certificate_by_a_scheduler_file(tmp_path: Path, keys: Path) -> None:
    file = tmp_path / "scheduler.json"
    flags = [f"--tls-{flag}={keys / name}" for flag, name in TLS_FLAGS.items()]
    with cluster(tmp_path, *flags, scheme="tls") as (address, _):
        file.write_text(json.dumps({"address": address}))
        with open_cluster(spec_of(str(file), certificate=str(keys))) as submit:
            assert submit(divmod, 7, 2).result(20) == (3, 1)
            assert "1 workers are at" in submit.note
        foreign = tmp_path / "foreign"
        make_keys(foreign)
        with (
            pytest.raises(ClusterError, match="the certificate the one"),
            open_address(spec_of(address, certificate=str(foreign), wait=3)),
        ):
            pass


TLS_FLAGS = {"ca-file": "ca.pem", "cert": "client.pem", "key": "client-key.pem"}


def make_keys(folder: Path) -> None:
    from distributed import Security

    folder.mkdir()
    made = Security.temporary().get_tls_config_for_role("client")
    for name, part in (("ca.pem", "ca_file"), ("client.pem", "cert"), ("client-key.pem", "key")):
        (folder / name).touch(0o600)
        (folder / name).write_text(str(made[part]))


@pytest.mark.slow
def test_other_versions_and_no_workers_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    listen = ["--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    with dask("scheduler", *listen, log=tmp_path / "dask.log"):
        until_it_listens(port)
        with (
            pytest.raises(ClusterError, match="has no worker, and none came in 3 s"),
            open_address(spec_of(address, wait=3)),
        ):
            pass
        assert f"the scheduler at {address} has 0 of 1 workers: waiting for up to" in caplog.text
        with dask("worker", address, "--nworkers", "1", log=tmp_path / "dask.log"):
            with open_address(spec_of(address)):
                pass
            real = distributed.versions._version_cached
            monkeypatch.setattr(
                "distributed.versions._version_cached", lambda name: "0.1" if name == "numba" else real(name)
            )
            with pytest.raises(ClusterError) as refused, open_address(spec_of(address)):
                pass
    assert "has numba" in str(refused.value)
    assert "this process has 0.1" in str(refused.value)
    assert "tcp://" in str(refused.value) or "scheduler" in str(refused.value)


@pytest.mark.parametrize("wait", [1, 600])
def test_nobody_there(wait: int, caplog: pytest.LogCaptureFixture) -> None:
    (port,) = free_ports(1)
    nobody = f"no scheduler answers at tcp://127.0.0.1:{port}: nobody listens there"
    with pytest.raises(ClusterError, match=nobody), open_address(spec_of(f"tcp://127.0.0.1:{port}", wait=wait)):
        pass
    told = rf"waiting for a scheduler at tcp://127.0.0.1:{port} for up to [1-8] s: nobody listens there yet"
    assert bool(re.search(told, caplog.text)) == (wait > 2), "said after the first try, and not of 600 s"


@pytest.mark.slow
def test_a_scheduler_that_is_still_starting_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndvi_scale.cluster.address.REFUSED", 50.0)  # a busy machine is slow to start one
    with (
        cluster(tmp_path, wait=False) as (address, _),
        open_cluster(spec_of(address)) as submit,
    ):
        assert submit(divmod, 7, 2).result(20) == (3, 1)


def test_who_does_not_answer_is_waited_for_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match=f"no scheduler answers at {address} within 4 s"),
            open_address(spec_of(address, wait=4)),
        ):
            pass
    assert "for up to 2 s: no answer yet" in caplog.text


@pytest.mark.parametrize(
    ("scheduler", "settings", "words"),
    [
        ("tcp://10.0.0.1:8786", {}, ["10.0.0.1", "not encrypted", "--tls-ca-file"]),
        ("tcp://example.org:8786", {}, ["not encrypted"]),
        ("tcp://127.0.0.1", {}, ["has no port", "tcp://127.0.0.1:8786"]),
        ("tls://10.0.0.1:99999", {}, ["has no port", "tls://10.0.0.1:8786"]),
        ("ws://127.0.0.1:8786", {}, ["scheme ws", "tls://host:port"]),
        ("tls://10.0.0.1:8786", {}, ["needs a certificate", "client-key.pem"]),
        ("tls://10.0.0.1:8786", {"certificate": "/nowhere"}, ["/nowhere has no ca.pem"]),
        ("", {}, ["scheduler's address", "DASK_SCHEDULER_ADDRESS"]),
        ("nowhere.json", {}, ["'nowhere.json'", "no scheduler file", "tls://10.0.0.1:8786"]),
    ],
)
def test_addresses_that_are_refused(scheduler: str, settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused, open_address(spec_of(scheduler, **settings)):
        pass
    for word in words:
        assert word in str(refused.value)


def test_a_key_that_others_can_read_is_refused(keys: Path) -> None:
    (keys / "client-key.pem").chmod(0o644)
    with (
        pytest.raises(ConfigError, match="chmod 600"),
        open_address(spec_of("tls://10.0.0.1:1", certificate=str(keys))),
    ):
        pass


@pytest.mark.slow
def test_dasks_own_settings_name_scheduler_and_certificate(tmp_path: Path, keys: Path) -> None:
    flags = [f"--tls-{flag}={keys / name}" for flag, name in TLS_FLAGS.items()]
    files = {"ca-file": "ca.pem", "client.cert": "client.pem", "client.key": "client-key.pem"}
    named = {f"distributed.comm.tls.{name}": str(keys / file) for name, file in files.items()}
    with cluster(tmp_path, *flags, scheme="tls") as (scheduler, _):
        with (
            dask_config.set({"scheduler-address": scheduler, **named}),
            open_cluster(AddressSpec(wait=50)) as submit,
        ):
            assert submit(divmod, 7, 2).result(20) == (3, 1)
            assert scheduler in submit.note
        absent = {**named, "distributed.comm.tls.client.key": "/nowhere/tls.key"}
        with (
            dask_config.set({"scheduler-address": scheduler, **absent}),
            pytest.raises(ConfigError, match=r"/nowhere/tls\.key.*client\.key.*mount it"),
            open_cluster(AddressSpec()),
        ):
            pass


def test_a_scheduler_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text("[]")
    with pytest.raises(ConfigError, match="no scheduler file"):
        read_address(str(file))


def test_python_is_compared_by_its_first_two_numbers() -> None:
    assert versions._version("python", "3.13.1.final.0") == versions._version("python", "3.13.9.final.0") == "3.13"
    assert versions._version("numpy", "2.4.1") == "2.4.1"
