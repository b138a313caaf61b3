"""Clusters of a real Dask Gateway: they come, lose workers, say why they do not come, and are gone afterwards."""

from __future__ import annotations

import base64
import getpass
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import dask.config
import distributed.versions
import pytest
import requests

from ndvi_scale import open_cluster, open_store, run_batch, store_digest
from ndvi_scale.cluster import arrival, gateway_server
from ndvi_scale.cluster import gateway as gateway_module
from ndvi_scale.cluster.making import make_spec
from ndvi_scale.cluster.spec import GATEWAY_PASSWORD, GatewaySpec
from ndvi_scale.errors import ClusterError, ConfigError
from runs import plan_of, run
from services import QuietServer, free_ports, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway import RunningGateway
    from ndvi_scale.sandbox import Sandbox

pytestmark = pytest.mark.timeout(180)  # several processes, whose imports take seconds each


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "ASK_EVERY", 0.5)
    monkeypatch.setattr(gateway_server, "PATIENCE", 0.5)


def spec_of(gateway: RunningGateway, **settings: Any) -> GatewaySpec:
    given = {"address": gateway.address, "proxy_address": gateway.proxy_address, "wait": 50, **settings}
    spec = make_spec({"kind": "gateway", **given})
    assert isinstance(spec, GatewaySpec)
    return spec


def refused(spec: GatewaySpec, error: type[Exception] = ClusterError) -> str:
    with pytest.raises(error) as told, open_cluster(spec):
        pass
    return str(told.value)


@pytest.mark.slow
def test_a_run_through_a_gateway_with_a_worker_killed_in_the_middle(
    gateway: RunningGateway, sandbox: Sandbox, tmp_path: Path
) -> None:
    plan, here, there = plan_of(sandbox, chunk=32), open_store(str(tmp_path / "a")), open_store(str(tmp_path / "b"))
    run(plan, here)
    killed: list[int] = []

    def kill_one(_: object) -> None:
        if not killed:
            killed.append(gateway.kill_a_worker())

    with open_cluster(spec_of(gateway, workers=2, options={"worker_cores": 2})) as submit:
        assert submit.note.startswith("2 of 2 workers came")
        report = run_batch(plan, there, submit, on_done=kill_one)
        until = time.monotonic() + 40
        while submit.capacity() < 6 and time.monotonic() < until:
            time.sleep(0.2)
        assert submit.capacity() == 6, "the gateway starts another in its place"
    assert killed
    assert not report.failed
    assert report.done == report.regions
    assert store_digest(there) == store_digest(here)
    assert gateway.is_empty()


@pytest.mark.slow
def test_workers_come_as_there_is_work(gateway: RunningGateway, sandbox: Sandbox, tmp_path: Path) -> None:
    with open_cluster(spec_of(gateway, adapt="0:2")) as submit:
        assert submit.capacity() == 4
        assert "0:2" in submit.note
        report = run_batch(plan_of(sandbox), open_store(str(tmp_path / "a")), submit)
        assert not report.failed
        assert report.done == report.regions
    assert gateway.is_empty()


@pytest.mark.slow
def test_fewer_than_asked_for_begin_and_say_why_not_more(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "SETTLED", 100.0)
    began = time.monotonic()
    with open_cluster(spec_of(gateway, workers=5)) as submit:
        assert submit.note.startswith("3 of 5 workers came")
        assert "limit of 3 workers" in submit.note
        assert submit(divmod, 7, 2).result(20) == (3, 1)
    assert time.monotonic() - began < arrival.SETTLED, "there is nothing to wait for"
    assert gateway.is_empty()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("none", ["lets no worker be", "limit of 0 workers"]),
        ("worker", ["cannot start", "image", "administrator"]),
        ("scheduler", ["cannot start", "image", "administrator"]),
        ("slow", ["scheduler", "not started in 6 s", "pending", "wait = seconds"]),
    ],
)
def test_clusters_that_never_come_say_why(gateway: RunningGateway, broken: str, words: list[str]) -> None:
    wait = 6 if broken == "slow" else 50
    told = refused(spec_of(gateway, wait=wait, options={"broken": broken}))
    for word in words:
        assert word in told
    assert gateway.is_empty()


@pytest.mark.slow
def test_a_cluster_that_the_gateway_ends_is_said(gateway: RunningGateway) -> None:
    with (  # noqa: PT012
        pytest.raises(ClusterError, match=r"has ended cluster .*idle") as told,
        open_cluster(spec_of(gateway, workers=1)) as submit,
    ):
        assert submit(divmod, 7, 2).result(20) == (3, 1)
        stop_all(gateway)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            submit.capacity()
            time.sleep(0.2)
    assert "run the same command again" in str(told.value)


def stop_all(gateway: RunningGateway) -> None:
    """As the gateway does with clusters that are idle for long, or its administrator."""
    proof = base64.b64encode(f"{getpass.getuser()}:{gateway.password}".encode()).decode()
    headers, clusters = {"Authorization": f"Basic {proof}"}, f"{gateway.address}/api/v1/clusters/"
    names = requests.get(clusters, headers=headers, timeout=10).json()
    assert names
    for name in names:
        requests.delete(f"{clusters}{name}", headers=headers, timeout=10).raise_for_status()


@pytest.mark.slow
def test_other_versions_are_said(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    real = distributed.versions._version_cached
    monkeypatch.setattr(
        "distributed.versions._version_cached", lambda name: "0.1" if name == "numba" else real(name)
    )
    told = refused(spec_of(gateway, workers=1))
    assert "has numba" in told
    assert "this process has 0.1" in told
    assert gateway.is_empty()


@pytest.mark.slow
def test_another_address_of_the_schedulers(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "CONNECT", 3.0)
    (port,) = free_ports(1)
    told = refused(spec_of(gateway, proxy_address=str(port)))
    assert f"127.0.0.1:{port}" in told
    assert "give proxy_address" in told
    assert gateway.is_empty()
    with open_cluster(
        spec_of(gateway, proxy_address=gateway.proxy_address.rpartition(":")[2], workers=1)
    ) as submit:
        assert submit(divmod, 7, 2).result(20) == (3, 1)


DRIVER = """
import json, sys, time
from ndvi_scale import find_spec, open_cluster
if __name__ == "__main__":
    with open_cluster(find_spec("gateway", {}, json.loads(sys.argv[1]))) as submit:
        future = submit(time.sleep, 600)
        print("inside", flush=True)
        future.result()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "broken"),
    [(signal.SIGINT, "no"), (signal.SIGTERM, "no"), (signal.SIGINT, "slow"), (signal.SIGTERM, "slow")],
    ids=["Ctrl-C", "terminated", "Ctrl-C while pending", "terminated while pending"],
)
def test_nothing_is_left_after_a_signal(
    gateway: RunningGateway, tmp_path: Path, number: signal.Signals, broken: str
) -> None:
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    settings = {"address": gateway.address, "proxy_address": gateway.proxy_address, "options": {"broken": broken}}
    command = [sys.executable, str(program), json.dumps(settings)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if broken == "no":
            assert driver.stdout is not None
            assert driver.stdout.readline() == "inside\n"
        while not gateway.processes():
            assert driver.poll() is None
            time.sleep(0.1)
        driver.send_signal(number)
        assert driver.wait(30) != 0
    finally:
        driver.kill()
        driver.communicate()
    assert gateway.is_empty()


def test_a_submission_that_is_cut_short_is_stopped_as_well(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer comes when the run has ended already."""
    from dask_gateway import Gateway

    real = Gateway._submit

    async def interrupted(self: Any, *args: Any, **options: Any) -> str:
        name = await real(self, *args, **options)
        os.kill(os.getpid(), signal.SIGINT)
        await gateway_server.asyncio.sleep(1)
        return name

    monkeypatch.setattr(Gateway, "_submit", interrupted)
    with pytest.raises(KeyboardInterrupt), open_cluster(spec_of(gateway, options={"broken": "slow"})):
        pass
    assert gateway.is_empty()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"options": {"worker_core": 2}}, ConfigError, ["'worker_core'", "did you mean 'worker_cores'", "image"]),
        ({"options": {"worker_cores": 9}}, ConfigError, ["worker_cores", "<= 4", "got 9"]),
        ({"options": {"worker_cores": "two"}}, ConfigError, ["worker_cores", "integer", "'two'"]),
        ({"options": {"image": "forbidden"}}, ConfigError, ["refuses", "this image is not for you"]),
        ({"username": "somebody"}, ClusterError, ["user somebody", "password", "password_file", GATEWAY_PASSWORD]),
    ],
    ids=str,
)
def test_what_the_gateway_does_not_take(
    gateway: RunningGateway,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    error: type[Exception],
    words: list[str],
) -> None:
    if error is ClusterError:
        monkeypatch.setenv(GATEWAY_PASSWORD, "wrong-password")
    told = refused(spec_of(gateway, **settings), error)
    for word in words:
        assert word in told
    assert "wrong-password" not in told
    assert not gateway.processes()


def test_a_password_by_a_file_that_only_its_owner_reads(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(GATEWAY_PASSWORD)
    file = tmp_path / "password"
    spec = spec_of(gateway, password_file=str(file))
    with pytest.raises(ConfigError, match="cannot be read: FileNotFoundError"):
        gateway_module.render(spec)
    file.write_text(f"{gateway.password}\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        gateway_module.render(spec)
    file.chmod(0o600)
    assert json.loads(gateway_module.render(spec))["options"]["worker_cores"] == 1


def test_a_password_of_dasks_own_settings(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GATEWAY_PASSWORD)
    import dask_gateway  # noqa: F401 - sets its defaults when it is imported first

    with dask.config.set({"gateway.auth.kwargs": {"password": gateway.password}}):
        for settings in ({}, {"username": "somebody"}, {"auth": "basic"}):
            assert "worker_cores" in gateway_module.render(spec_of(gateway, **settings))


def ndvi_scale(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ndvi_scale", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=120,
    )


@pytest.mark.slow
def test_from_the_command_line_with_nothing_but_the_environment(gateway: RunningGateway, tmp_path: Path) -> None:
    """As in a DaskHub, but for the kind of proof."""
    variables = {"DASK_GATEWAY__ADDRESS": gateway.address, "DASK_GATEWAY__PROXY_ADDRESS": gateway.proxy_address}
    rendered = ndvi_scale("cluster", "render", "gateway", **variables)
    assert json.loads(rendered.stdout) == {
        "gateway": gateway.address,
        "workers": gateway_server.WORKERS,
        "options": {"worker_cores": 1, "worker_memory": 1.0, "image": "ndvi-scale:latest", "broken": "no"},
    }
    checked = ndvi_scale("cluster", "check", "gateway", "--out", str(tmp_path / "a.zarr"), "--json", **variables)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["workers"] == gateway_server.WORKERS
    assert gateway.password not in rendered.stdout + rendered.stderr + checked.stdout + checked.stderr
    assert gateway.is_empty()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"address": "http://hub.example.org/services/dask-gateway"}, ["not encrypted", "https://"]),
        ({"address": "https://me:hunter2@hub.example.org"}, ["hub.example.org", "password_file"]),
        ({"address": "hub.example.org"}, ["'hub.example.org'", "is no URL"]),
        ({"address": "tls://10.0.0.1:8786"}, ["is no URL", "https://"]),
        ({}, ["needs the gateway's address", "DASK_GATEWAY__ADDRESS"]),
        ({"address": "https://127.0.0.1:1", "auth": "jupyterhub"}, ["JUPYTERHUB_API_TOKEN is not set", "Token"]),
        ({"address": "https://127.0.0.1:1", "auth": "kerberos"}, ["module kerberos", "kinit"]),
    ],
    ids=str,
)
def test_what_may_not_be_sent(settings: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
    monkeypatch.setitem(sys.modules, "kerberos", None)
    told = refused(GatewaySpec(**settings), ConfigError)
    for word in words:
        assert word in told
    assert "hunter2" not in told


def test_http_is_taken_where_the_hub_itself_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a DaskHub the gateway is reached by the hub's own proxy, within the Kubernetes cluster."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "a-token")
    import dask_gateway  # noqa: F401 - sets its defaults when it is imported first

    address = "http://nobody.invalid/services/dask-gateway"
    with dask.config.set({"gateway.address": address, "gateway.auth.type": "jupyterhub"}):
        assert "not encrypted" in refused(GatewaySpec(), ConfigError)
        monkeypatch.setenv("JUPYTERHUB_API_URL", "http://hub:8081/hub/api")
        assert f"no gateway answers at {address}" in refused(GatewaySpec())
        assert "not encrypted" in refused(GatewaySpec(address=address), ConfigError)


def test_without_dask_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_gateway", None)
    assert "pip install 'ndvi-scale[gateway]'" in refused(GatewaySpec(address="https://127.0.0.1:1"), ConfigError)


def test_nobody_there_is_said_soon() -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    told = refused(GatewaySpec(address=f"http://127.0.0.1:{port}"))
    assert f"no gateway answers at http://127.0.0.1:{port}" in told
    assert time.monotonic() - began < 10


class Busy(BaseHTTPRequestHandler):
    """Answers as a proxy whose gateway is starting, then as the gateway."""

    left = 2

    def do_GET(self) -> None:
        type(self).left -= 1
        self.send_response(503 if self.left >= 0 else 200)
        body = json.dumps({"cluster_options": []}).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_gateway_that_is_started_anew_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_server, "PATIENCE", 10.0)
    with serving(Busy) as address:
        assert json.loads(gateway_module.render(GatewaySpec(address=address)))["options"] == {}


class Another(BaseHTTPRequestHandler):
    """Some other server: its answers are pages."""

    status = 200
    body = b"<html><body>Welcome\x1b[2J</body></html>"
    kind = "text/html"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({}, "does not answer as a Dask Gateway"),
        ({"status": 404}, "does not answer as a Dask Gateway"),
        ({"kind": "application/json"}, "does not answer as a Dask Gateway"),
        ({"kind": "application/json", "body": b"[]"}, "does not answer as a Dask Gateway"),
        ({"status": 403}, "answers 403"),
        ({"status": 500}, "says: "),
    ],
    ids=str,
)
def test_what_is_no_gateway(answer: dict[str, Any], words: str) -> None:
    with serving(type("Other", (Another,), answer)) as address:
        told = refused(GatewaySpec(address=address))
    assert words in told
    assert address in told
    assert told.isprintable(), "a page may not steer the terminal"


@pytest.fixture
def own_authority(tmp_path: Path) -> Iterator[str]:
    """A server whose certificate no authority known here has signed."""
    made = distributed.Security.temporary().get_tls_config_for_role("client")
    file = tmp_path / "key-and-certificate.pem"
    file.write_text(f"{made['key']}\n{made['cert']}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    with QuietServer(("127.0.0.1", 0), Another) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_certificate_of_an_authority_that_is_not_known(own_authority: str) -> None:
    told = refused(GatewaySpec(address=own_authority))
    assert "cannot be trusted" in told
    assert "SSL_CERT_FILE" in told
