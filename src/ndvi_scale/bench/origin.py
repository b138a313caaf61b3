"""The origin: an HTTP server of files, with latency and a rate a connection, which counts what is asked.

nginx with its lua module where that is installed (Debian: nginx-light, libnginx-mod-http-lua), else a server of our
own with the same delay and rate. Paths begin with a tag, which says whose requests they are: ``/TAG/path/in/root``.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import psutil

from ndvi_scale.errors import ConfigError, NdviScaleError

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAY: Final = 0.03
"""Seconds to the first byte, as of an object store in the same region."""
RATE: Final = 80 << 20
"""Bytes a second of one connection."""
BAD_REQUEST: Final = HTTPStatus.BAD_REQUEST
LOOPBACK: Final = "127.0.0.1"
MODULES: Final = ("ndk_http_module.so", "ngx_http_lua_module.so")
START_SECONDS: Final = 20.0
STEP: Final = 256 << 10
"""Bytes sent at a time."""
QUIET_SECONDS: Final = 0.15
"""The log is read when it has not grown for so long: nginx writes a line when a request ends."""

CONFIGURATION: Final = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{modules}
events {{ worker_connections 2048; }}
http {{
  log_format count "$request_method\\t$status\\t$body_bytes_sent\\t$http_range\\t$request_uri";
  access_log {folder}/access.log count;
  sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;
  {temporary}
  server {{
    listen {host}:{port};
    root {root};
    location / {{
      rewrite ^/[^/]+(?:/copy-\\d+)?(/.*)$ $1 break;
      access_by_lua_block {{
        local first, last = string.match(ngx.var.http_range or "", "bytes=(%d+)-(%d+)")
        ngx.sleep({delay} + (first and (last - first + 1) / {rate} or 0))
      }}
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Count:
    """What one tag asked for."""

    requests: int
    bytes: int
    """Of bodies, as sent."""
    headers: int
    """Reads that begin at byte 0 of a file, as those of headers do."""
    failed: int
    """Requests answered with 400 or more."""


@dataclass(frozen=True)
class Origin:
    """A running server."""

    kind: str
    """``nginx`` or ``asyncio``."""
    url: str
    log: Path

    def count(self, tag: str) -> Count:
        """What was asked under a tag so far."""
        self._settle()
        with self.log.open(encoding="utf-8") as lines:
            return count_lines(lines, tag)

    def _settle(self) -> None:
        size = -1
        while size != (size := self.log.stat().st_size):
            time.sleep(QUIET_SECONDS)


def count_lines(lines: Iterator[str], tag: str) -> Count:
    """Sum the log's lines of one tag: method, status, bytes, range and path, between tabs."""
    requests = sent = headers = failed = 0
    for line in lines:
        method, status, size, ranged, path = line.rstrip("\n").split("\t")
        if path.split("/")[1] != tag:
            continue
        requests += 1
        sent += int(size)
        failed += int(status) >= BAD_REQUEST
        headers += method == "GET" and first_byte(ranged) == 0
    return Count(requests, sent, headers, failed)


def first_byte(ranged: str) -> int:
    """First byte of a Range header's value; ``-`` stands for none, and is the whole file."""
    found = re.match(r"bytes=(\d+)-", ranged)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class Pace:
    """How slowly is answered."""

    rate: int = RATE
    """Bytes a second of a connection: an answer is held back as long as its range takes, then comes at once.
    (nginx's own `limit_rate` lets through what a second may have before it begins to count.)"""
    delay: float = DELAY
    """Seconds that each answer takes beside."""
    host: str = LOOPBACK
    """Address to listen at: one of this machine."""


@contextlib.contextmanager
def serve(root: Path, folder: Path, pace: Pace | None = None) -> Iterator[Origin]:
    """Serve `root` on a free port; `folder` takes logs and the like.

    Raises NdviScaleError where it does not come up.
    """
    root, folder = root.resolve(), folder.resolve()  # nginx takes a relative path for one below its own folder
    folder.mkdir(parents=True, exist_ok=True)
    _end_left_over(folder)
    (folder / "access.log").write_bytes(b"")
    pace = pace or Pace()
    port = free_port(pace.host)
    modules = _nginx_modules()
    server = _nginx(root, folder, port, modules, pace) if modules else _own(root, folder, port, pace)
    with server:
        url = f"http://{pace.host}:{port}"
        _wait(url)
        yield Origin("nginx" if modules else "asyncio", url, folder / "access.log")


def free_port(host: str) -> int:
    """One that nobody listens at. Raises ConfigError where the address is none of this machine."""
    with socket.socket() as held:
        try:
            held.bind((host, 0))
        except OSError as error:
            raise ConfigError(
                f"host {host!r} of the origin: {error.strerror}; give an address of this machine that workers reach"
            ) from None
        return int(held.getsockname()[1])


def _nginx_modules() -> list[Path]:
    """The modules that the delay takes, in the order of their loading; none where nginx cannot be used."""
    program = shutil.which("nginx")
    if program is None:
        return []
    told = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)  # noqa: S603
    built = told.stderr
    found = re.search(r"--modules-path=(\S+)", built)
    paths = [Path(found[1], name) for name in MODULES] if found else []
    return paths if all(path.exists() for path in paths) else []


def _end_left_over(folder: Path) -> None:
    """End the nginx of a run that was killed, which could not do so itself."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int((folder / "nginx.pid").read_text()))
        if str(folder / "nginx.conf") in " ".join(process.cmdline()):
            process.terminate()
            process.wait(START_SECONDS)


@contextlib.contextmanager
def _nginx(root: Path, folder: Path, port: int, modules: list[Path], pace: Pace) -> Iterator[None]:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    configuration = CONFIGURATION.format(
        folder=folder,
        root=root,
        port=port,
        delay=pace.delay,
        rate=pace.rate,
        host=pace.host,
        user="user root;" if os.geteuid() == 0 else "",  # else its workers may not read our folders
        modules="\n".join(f"load_module {path};" for path in modules),
        temporary=" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
    )
    (folder / "nginx.conf").write_text(configuration, encoding="utf-8")
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _own(root: Path, folder: Path, port: int, pace: Pace) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(
        target=run_own, args=(root, folder, port, pace), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def run_own(root: Path, folder: Path, port: int, pace: Pace) -> None:
    """Our own server, until the process is ended."""
    asyncio.run(_serve_own(root, folder / "access.log", port, pace))


async def _serve_own(root: Path, log: Path, port: int, pace: Pace) -> None:
    with log.open("a", encoding="utf-8", buffering=1) as lines:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                    lines.write(await _answer(head, root, writer, pace))
            writer.close()

        server = await asyncio.start_server(answer, pace.host, port)
        async with server:
            await server.serve_forever()


async def _answer(head: str, root: Path, writer: asyncio.StreamWriter, pace: Pace) -> str:
    """Answer one request, and return its line for the log."""
    method, target = head.split(" ", 2)[:2]
    found = re.search(r"^range: *(\S+)", head, re.IGNORECASE | re.MULTILINE)
    ranged = found[1] if found else "-"
    path = root / re.sub(r"^/[^/]+(?:/copy-\d+)?/", "", target)
    if ".." in path.parts or not path.is_file():
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return f"{method}\t404\t0\t{ranged}\t{target}\n"
    size = path.stat().st_size
    start, end = _span(ranged, size)
    await asyncio.sleep(pace.delay + ((end - start) / pace.rate if found else 0))
    status = "206 Partial Content" if found else "200 OK"
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {end - start}", "Accept-Ranges: bytes"]
    lines += [f"Content-Range: bytes {start}-{end - 1}/{size}"] if found else []
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    if method != "HEAD":
        await _send(path, (start, end), writer)
    return f"{method}\t{status[:3]}\t{0 if method == 'HEAD' else end - start}\t{ranged}\t{target}\n"


def _span(ranged: str, size: int) -> tuple[int, int]:
    found = re.match(r"bytes=(\d*)-(\d*)$", ranged)
    if found is None:
        return 0, size
    if not found[1]:
        return max(0, size - int(found[2])), size
    return int(found[1]), min(size, int(found[2]) + 1) if found[2] else size


async def _send(path: Path, span: tuple[int, int], writer: asyncio.StreamWriter) -> None:
    start, end = span
    with path.open("rb") as file:
        file.seek(start)
        for sent in range(0, end - start, STEP):
            writer.write(file.read(min(STEP, end - start - sent)))
            await writer.drain()


def _wait(url: str) -> None:
    """Wait until the server answers anything."""
    opener = build_opener(ProxyHandler({}))  # a proxy of the surroundings has no way to our loopback
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            opener.open(f"{url}/ready/none", timeout=5)
        except HTTPError:
            return
        except (URLError, OSError):
            time.sleep(0.05)
    raise NdviScaleError(f"the origin at {url} did not answer within {START_SECONDS:g} s: see its error.log")
