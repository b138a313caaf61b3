"""Ports of pods on this machine, through a real Kubernetes API."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ndvi_scale.cluster import kube_api
from ndvi_scale.cluster.making import make_spec
from ndvi_scale.cluster.spec import KubernetesSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube import Kube

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

ECHO = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        while piece := self.rfile.read1(65536):
            self.wfile.write(piece)
socketserver.ThreadingTCPServer(("0.0.0.0", 7007), Echo).serve_forever()
"""


@pytest.fixture
def api(kube: Kube) -> Iterator[kube_api.KubeApi]:
    spec = make_spec({"kind": "kubernetes", "image": "ndvi-scale", "memory": "1GiB"})
    assert isinstance(spec, KubernetesSpec)
    with kube_api.open_api(spec) as found:
        yield found


@pytest.fixture
def pod(kube: Kube) -> Iterator[dict[str, Any]]:
    """One that sends back whatever it is sent."""
    name = "ndvi-scale-echo"
    container = {"name": "echo", "image": kube.image, "command": ["python", "-c", ECHO]}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}
    kube.call("apply", "--filename=-", given=json.dumps(made))
    kube.call("wait", "--for=condition=ready", "pod", name, "--timeout=50s")
    yield next(one for one in kube.items("pods") if one["metadata"]["name"] == name)
    kube.call("delete", "pod", name, "--grace-period=0", "--force")


def sent_back(port: int, content: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(content)
        found = b""
        while len(found) < len(content) and (piece := connection.recv(1 << 16)):
            found += piece
        return found


def test_what_is_sent_arrives_and_comes_back(api: kube_api.KubeApi, pod: dict[str, Any]) -> None:
    content = bytes(range(256)) * 4096  # more than a websocket takes at once
    with api.forwarded(pod, 7007) as port:
        for _ in range(20):  # the pod is ready before it listens
            with contextlib.suppress(OSError):
                if sent_back(port, b"there?") == b"there?":
                    break
        assert sent_back(port, content) == content
        with socket.create_connection(("127.0.0.1", port)) as first, api.forwarded(pod, 7007) as other:
            assert sent_back(port, b"beside an idle one") == b"beside an idle one"
            assert sent_back(other, b"by another port") == b"by another port"
            first.sendall(b"still there")
            assert first.recv(100) == b"still there"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("name", ["ndvi-scale-echo", "nobody"])
def test_where_nobody_listens_a_connection_ends(api: kube_api.KubeApi, pod: dict[str, Any], name: str) -> None:
    """At a port of a pod, and of a pod that is gone: then the API is not asked again and again."""
    elsewhere = {"metadata": pod["metadata"] | {"name": name}}
    with (
        api.forwarded(elsewhere, 7) as port,
        socket.create_connection(("127.0.0.1", port), 20) as connection,
        contextlib.suppress(ConnectionResetError),
    ):
        assert connection.recv(1) == b""


def test_a_connection_in_the_middle_ends_with_its_forward(api: kube_api.KubeApi, pod: dict[str, Any]) -> None:
    with api.forwarded(pod, 7007) as port:
        connection = socket.create_connection(("127.0.0.1", port), 20)
    with connection, contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
