"""An origin of files that answers Range requests wrongly, as it is told: cut, slow, another range, a page, no end.

A fault is a function of one `Exchange`. It can be bound to a path, to the first so many requests, and to requests
for certain bytes, so that a header is fine and one block is not. The origin keeps what was asked, when, how much
was sent, and how many requests were open at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = b"<!DOCTYPE html><html><body>Sign in to the hotel's network to go on.</body></html>"
ENDLESS_BYTES = 1 << 30
"""Where an endless body ends after all, so that a test that fails does so in time."""
_PIECE = 1 << 16


@dataclass
class Asked:
    """One request, and what came of it."""

    path: str
    query: str
    range: str | None
    time: float
    """When it came, monotonic."""
    connection: tuple[str, int]
    open: int = 0
    """Requests that were open then, this one too."""
    status: int = 0
    sent: int = 0
    """Bytes of the body."""


@dataclass
class Exchange:
    """One request for a file, and the means to answer it in any way."""

    handler: BaseHTTPRequestHandler
    asked: Asked
    data: bytes
    """The whole file."""
    span: tuple[int, int]
    """What was asked of it."""
    closing: threading.Event

    @property
    def part(self) -> bytes:
        """The bytes that were asked for."""
        return self.data[slice(*self.span)]

    @property
    def whole(self) -> bool:
        """Whether no range was asked for."""
        return self.asked.range is None

    def head(self, status: int, length: int | None, headers: dict[str, str] | None = None) -> None:
        """Status and headers; without a length the body ends with the connection."""
        self.asked.status = int(status)
        self.handler.send_response(status)
        for name, value in (headers or {}).items():
            self.handler.send_header(name, value)
        if length is None:
            self.handler.send_header("Connection", "close")
            self.handler.close_connection = True
        else:
            self.handler.send_header("Content-Length", str(length))
        self.handler.end_headers()

    def ranged(self, span: tuple[int, int] | None = None, size: int | str | None = None) -> dict[str, str]:
        """The header that says which bytes these are."""
        start, stop = span or self.span
        return {"Content-Range": f"bytes {start}-{stop - 1}/{len(self.data) if size is None else size}"}

    def partial(self, length: int | None = None) -> None:
        """The head of the right answer, which may lie about its length."""
        length = len(self.part) if length is None else length
        status = HTTPStatus.OK if self.whole else HTTPStatus.PARTIAL_CONTENT
        self.head(status, length, {"Accept-Ranges": "bytes"} | ({} if self.whole else self.ranged()))

    def write(self, body: bytes) -> None:
        """Send bytes of the body, unless it is the head alone that was asked for."""
        if self.handler.command == "HEAD":
            return
        for at in range(0, len(body), _PIECE):
            piece = body[at : at + _PIECE]
            self.handler.wfile.write(piece)
            self.asked.sent += len(piece)

    def wait(self, seconds: float) -> bool:
        """Do nothing for a while; False once the client has hung up or the origin closes."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.closing.is_set():
            readable, _, _ = select.select([self.handler.connection], [], [], 0.02)
            if readable and not self.handler.connection.recv(1, socket.MSG_PEEK):
                return False
            if readable:
                time.sleep(0.02)
        return not self.closing.is_set()

    def hang_up(self) -> None:
        """End the connection in good order, whatever was announced."""
        self.handler.close_connection = True

    def reset(self) -> None:
        """Break the connection off, so that the client sees a reset."""
        self.handler.close_connection = True
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())


# Faults


def fine(exchange: Exchange) -> None:
    """The right answer."""
    exchange.partial()
    exchange.write(exchange.part)


def cut(after: int = 100) -> Callable[[Exchange], None]:
    """As many bytes, though all are announced; then the connection ends."""

    def fault(exchange: Exchange) -> None:
        exchange.partial()
        exchange.write(exchange.part[:after])
        exchange.hang_up()

    return fault


def short(by: int = 100) -> Callable[[Exchange], None]:
    """Fewer bytes than were asked for, in an answer that is whole by its length."""

    def fault(exchange: Exchange) -> None:
        part = exchange.part[: max(0, len(exchange.part) - by)]
        exchange.partial(len(part))
        exchange.write(part)

    return fault


def flipped(at: int, count: int = 64) -> Callable[[Exchange], None]:
    """Other bits from one place of the file on, though in the file they are right."""

    def fault(exchange: Exchange) -> None:
        start, stop = exchange.span
        part = bytearray(exchange.part)
        for place in range(max(at, start), min(at + count, stop)):
            part[place - start] ^= 0xA5
        exchange.partial()
        exchange.write(bytes(part))

    return fault


def whole_file(exchange: Exchange) -> None:
    """200 and everything, as origins do that know no ranges."""
    exchange.head(HTTPStatus.OK, len(exchange.data))
    exchange.write(exchange.data)


def other_range(by: int = 512, *, honest: bool = True) -> Callable[[Exchange], None]:
    """206 with bytes from elsewhere, whose header says so, or not."""

    def fault(exchange: Exchange) -> None:
        start, stop = exchange.span
        span = (max(0, start - by), max(0, start - by) + stop - start) if start else (by, by + stop)
        part = exchange.data[slice(*span)]
        span = span[0], span[0] + len(part)
        exchange.head(HTTPStatus.PARTIAL_CONTENT, len(part), exchange.ranged(span if honest else exchange.span))
        exchange.write(part)

    return fault


def unsaid_range(exchange: Exchange) -> None:
    """206 that does not say of which bytes."""
    exchange.head(HTTPStatus.PARTIAL_CONTENT, len(exchange.part))
    exchange.write(exchange.part)


def silent(seconds: float = 60.0) -> Callable[[Exchange], None]:
    """Nothing at all for a while, then the right answer."""

    def fault(exchange: Exchange) -> None:
        if exchange.wait(seconds):
            fine(exchange)

    return fault


def halting(after: int = 100, seconds: float = 60.0) -> Callable[[Exchange], None]:
    """A beginning, then nothing for a while."""

    def fault(exchange: Exchange) -> None:
        exchange.partial()
        exchange.write(exchange.part[:after])
        if exchange.wait(seconds):
            exchange.write(exchange.part[after:])

    return fault


def trickling(interval: float = 0.1) -> Callable[[Exchange], None]:
    """A byte at a time, for ever: each in time, all together never."""

    def fault(exchange: Exchange) -> None:
        exchange.partial()
        for place in range(len(exchange.part)):
            if not exchange.wait(interval):
                return
            exchange.write(exchange.part[place : place + 1])

    return fault


def resetting(after: int | None = None) -> Callable[[Exchange], None]:
    """A connection that breaks off: before an answer, or after so many bytes of it."""

    def fault(exchange: Exchange) -> None:
        if after is not None:
            exchange.partial()
            exchange.write(exchange.part[:after])
            time.sleep(0.02)  # a reset throws away what has not arrived
        exchange.reset()

    return fault


def moved(to: str, status: int = HTTPStatus.FOUND) -> Callable[[Exchange], None]:
    """It is elsewhere; `{path}` stands for its path."""

    def fault(exchange: Exchange) -> None:
        exchange.head(status, 0, {"Location": to.replace("{path}", exchange.asked.path)})

    return fault


def page(status: int = HTTPStatus.OK) -> Callable[[Exchange], None]:
    """A page for people where data was asked for."""

    def fault(exchange: Exchange) -> None:
        headers = {"Content-Type": "text/html"}
        if status == HTTPStatus.PARTIAL_CONTENT:
            headers |= exchange.ranged((0, len(PAGE)), len(PAGE))
        exchange.head(status, len(PAGE), headers)
        exchange.write(PAGE)

    return fault


def refusing(status: int, retry_after: str | None = None) -> Callable[[Exchange], None]:
    """A status that is an error."""

    def fault(exchange: Exchange) -> None:
        exchange.head(status, 0, {} if retry_after is None else {"Retry-After": retry_after})

    return fault


def too_much(more: int = 100_000) -> Callable[[Exchange], None]:
    """More bytes than were asked for, under the header of what was."""

    def fault(exchange: Exchange) -> None:
        exchange.partial(len(exchange.part) + more)
        exchange.write(exchange.part + bytes(more))

    return fault


def endless(exchange: Exchange) -> None:
    """What was asked for, and then zeros without end or announced length."""
    headers = {} if exchange.whole else exchange.ranged()
    exchange.head(HTTPStatus.OK if exchange.whole else HTTPStatus.PARTIAL_CONTENT, None, headers)
    exchange.write(exchange.part)
    while exchange.asked.sent < ENDLESS_BYTES and not exchange.closing.is_set():
        exchange.write(bytes(_PIECE))


def endless_head(exchange: Exchange) -> None:
    """Headers without end."""
    exchange.asked.status = HTTPStatus.PARTIAL_CONTENT
    exchange.handler.wfile.write(b"HTTP/1.1 206 Partial Content\r\n")
    line = b"X-Filler: " + b"x" * 4000 + b"\r\n"
    while exchange.asked.sent < ENDLESS_BYTES and not exchange.closing.is_set():
        exchange.handler.wfile.write(line)
        exchange.asked.sent += len(line)


def packed(size: int = ENDLESS_BYTES) -> Callable[[Exchange], None]:
    """A body that calls itself gzip and unpacks to a thousand times its size."""
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    body = b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()

    def fault(exchange: Exchange) -> None:
        headers = {"Content-Encoding": "gzip", **({} if exchange.whole else exchange.ranged())}
        exchange.head(HTTPStatus.PARTIAL_CONTENT, len(body), headers)
        exchange.write(body)

    return fault


def sized(size: int | str) -> Callable[[Exchange], None]:
    """The right bytes of a file that is said to have another size."""

    def fault(exchange: Exchange) -> None:
        exchange.head(HTTPStatus.PARTIAL_CONTENT, len(exchange.part), exchange.ranged(size=size))
        exchange.write(exchange.part)

    return fault


def slow(seconds: float) -> Callable[[Exchange], None]:
    """The right answer, a little later."""

    def fault(exchange: Exchange) -> None:
        if exchange.wait(seconds):
            fine(exchange)

    return fault


# The origin


@dataclass
class Rule:
    """When a fault occurs."""

    path: str
    fault: Callable[[Exchange], None]
    left: float
    """How often still."""
    touching: tuple[int, int] | None

    def applies(self, exchange: Exchange) -> bool:
        """Whether it does to a request."""
        start, stop = exchange.span
        hit = self.touching is None or (start < self.touching[1] and stop > self.touching[0])
        return self.left > 0 and hit and self.path in {"", exchange.asked.path}


@dataclass
class Origin:
    """A server over a folder, what it was told to do wrong, and what it was asked."""

    url: str
    directory: Path
    asked: list[Asked] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    open: int = 0
    _files: dict[Path, tuple[int, bytes]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def misbehave(
        self,
        fault: Callable[[Exchange], None],
        path: str = "",
        *,
        times: float = float("inf"),
        touching: tuple[int, int] | None = None,
    ) -> None:
        """Answer requests for a path ("/a.tif", any if empty) so; only the first `times`; only some bytes' ones.

        Where several rules apply the first that was given does, while it lasts.
        """
        self.rules.append(Rule(path, fault, times, touching))

    def behave(self) -> None:
        """Forget faults and requests."""
        with self._lock:
            self.rules.clear()
            self.asked.clear()

    def count(self, path: str = "") -> int:
        """How many requests came."""
        return len(self.of(path))

    def sent(self, path: str = "") -> int:
        """Bytes of all bodies."""
        return sum(asked.sent for asked in self.of(path))

    def gaps(self, path: str = "") -> list[float]:
        """Seconds from each request to the next."""
        times = [asked.time for asked in self.of(path)]
        return [after - before for before, after in itertools.pairwise(times)]

    @property
    def most_open(self) -> int:
        """The most requests that were open at once."""
        return max((asked.open for asked in self.asked), default=0)

    def of(self, path: str = "") -> list[Asked]:
        """Requests for a path, or all."""
        with self._lock:
            return [asked for asked in self.asked if path in {"", asked.path}]

    def content(self, path: str) -> bytes | None:
        """A file as it is now; None if there is none."""
        file = self.directory / path.lstrip("/")
        if not file.is_file():
            return None
        written = file.stat().st_mtime_ns
        known, data = self._files.get(file, (0, b""))
        if known != written:
            data = file.read_bytes()
            self._files[file] = written, data
        return data

    def begin(self, asked: Asked) -> None:
        """Note a request (called by the server's threads)."""
        with self._lock:
            self.open += 1
            asked.open = self.open
            self.asked.append(asked)

    def end(self) -> None:
        """Note that one is over."""
        with self._lock:
            self.open -= 1

    def fault_of(self, exchange: Exchange) -> Callable[[Exchange], None]:
        """What happens to a request."""
        with self._lock:
            for rule in self.rules:
                if rule.applies(exchange):
                    rule.left -= 1
                    return rule.fault
        return fine


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    origin: Origin
    closing: threading.Event

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        asked = Asked(path, parts.query, self.headers.get("Range"), time.monotonic(), self.client_address)
        self.origin.begin(asked)
        try:
            self._answer(asked, self.origin.content(path))
        finally:
            self.origin.end()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
        """Keep the tests' output clean."""

    def _answer(self, asked: Asked, found: bytes | None) -> None:
        data = found or b""
        span = (0, len(data)) if asked.range is None else services._span(asked.range, len(data))
        exchange = Exchange(self, asked, data, span or (0, 0), self.closing)
        fault = self.origin.fault_of(exchange)
        if fault is not fine:
            fault(exchange)
        elif found is None:
            refusing(HTTPStatus.NOT_FOUND)(exchange)
        elif span is None:
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            exchange.head(status, 0, {"Content-Range": f"bytes */{len(data)}"})
        else:
            fine(exchange)


@contextlib.contextmanager
def hostile_origin(directory: Path, address: str = "127.0.0.1") -> Iterator[Origin]:
    """Serve a folder on a free loopback port, one thread a connection."""
    closing = threading.Event()
    handler = type("Handler", (_Handler,), {"closing": closing})
    with services.QuietServer((address, 0), handler) as server:
        # So that what was sent is nearly what the client took.
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        origin = Origin(f"http://{address}:{server.server_address[1]}", directory)
        handler.origin = origin  # type: ignore[attr-defined]
        try:
            yield origin
        finally:
            closing.set()
            server.shutdown()
            thread.join()
