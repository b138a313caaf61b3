"""Byte ranges of one file, one try each: over HTTP, from a bucket, from a disk.

HTTP goes through pyreqwest, which shows ``Retry-After`` and redirects, as obstore does not; buckets go through
obstore, which signs. Both receive outside of the GIL. Nothing is read beyond what was asked for.
"""

from __future__ import annotations

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

import obstore
from obstore.store import AzureStore, GCSStore, S3Store
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from ndvi_scale.access import bucket_keys, bucket_options
from ndvi_scale.hrefs import is_remote, refusal
from ndvi_scale.readers.files import GONE
from ndvi_scale.readers.patience import REDIRECTS, REQUESTS, REQUESTS_PER_HOST, RUN_BYTES, Patience

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from pyreqwest.client import Client
    from pyreqwest.response import Response

    from ndvi_scale.access import Address

_BUSY: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_NOBODY: Final = re.compile(r"[Cc]onnection refused|dns error|failed to lookup")
_URL: Final = re.compile(r"\w+://\S+")


class RangeError(Exception):
    """One try failed."""

    def __init__(
        self, text: str, *, status: int | None = None, final: bool = False, lasting: bool = False, said: float = 0.0
    ) -> None:
        super().__init__(text)
        self.status = status
        self.final = final or lasting
        """Whether trying again now is in vain."""
        self.lasting = lasting
        """Whether it is in vain tomorrow as well."""
        self.said = said
        """Seconds after which the server said to come again."""
        self.nobody = _NOBODY.search(text) is not None
        """Whether there is no server at all."""


def status_error(status: int, said: float = 0.0) -> RangeError:
    """What a status that is no success means."""
    try:
        name = f" {HTTPStatus(status).phrase}"
    except ValueError:
        name = ""
    again = status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return RangeError(
        f"HTTP status {int(status)}{name}", status=status, final=not again, lasting=status in GONE, said=said
    )


def _ends_before(start: int) -> RangeError:
    return RangeError(f"the file ends before byte {start}, where its header says that data is", lasting=True)


class RangeReader:
    """Reads ranges, in the event loop that it was made in."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._client: Client | None = None
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="ndvi-scale-ranges")

    async def get(self, address: Address, start: int, length: int) -> memoryview:
        """`length` bytes from `start`, or those up to the end of the file. Raises RangeError."""
        if address.kind == "http":
            return await self._http(address.url, start, length)
        if address.kind == "file":
            read = partial(_from_disk, Path(address.url), start, length)
        else:
            read = partial(_from_bucket, address, self._patience, start, length)
        return await asyncio.get_running_loop().run_in_executor(self._pool, read)

    async def close(self) -> None:
        """Let go of connections and threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            await self._client.close()

    async def _http(self, url: str, start: int, length: int) -> memoryview:
        for _ in range(REDIRECTS + 1):
            try:
                request = self._http_client().get(url).header("Range", f"bytes={start}-{start + length - 1}")
                async with request.build_streamed() as response:
                    if response.status not in _MOVED:
                        return await _body(response, start, length)
                    url = _next_place(url, response)
            except PyreqwestError as error:
                raise RangeError(_reason(error)) from None
        raise RangeError(f"more than {REDIRECTS} redirects, which looks like a loop", final=True)

    def _http_client(self) -> Client:
        if os.getpid() != _http_process():
            raise RangeError(
                "this process was forked from one that had read over HTTP, and shares its connections: start "
                "processes by spawn or forkserver",
                final=True,
            )
        if self._client is None:
            self._client = (
                ClientBuilder()
                .follow_redirects(enable=False)
                .referer(enable=False)
                .http1_only()  # one connection a request: over HTTP/2 all would share the window of one
                .connect_timeout(timedelta(seconds=self._patience.connect))
                .read_timeout(timedelta(seconds=self._patience.silence))
                .pool_max_idle_per_host(REQUESTS_PER_HOST)
                .build()
            )
        return self._client


# HTTP


@cache
def _http_process() -> int:
    """The process that reads over HTTP first; pyreqwest serves none that is forked from it."""
    return os.getpid()


async def _body(response: Response, start: int, length: int) -> memoryview:
    """What a range request answered, once it is the range that was asked for."""
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        expected = _partial_length(_header(response, "content-range"), start, length)
    elif response.status == HTTPStatus.OK:
        expected = _whole_length(response, start, length)
    elif response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise _ends_before(start)
    else:
        raise status_error(response.status, _retry_after(_header(response, "retry-after")))
    declared = _content_length(response)
    if declared is not None and declared != expected:
        raise RangeError(f"the origin answers {expected} bytes with a body of {declared}")
    body = memoryview(await (response.bytes() if declared is not None else _at_most(response, expected)))
    if len(body) != expected:
        raise RangeError(f"the answer was cut: {len(body)} of {expected} bytes came")
    return body


async def _at_most(response: Response, length: int) -> bytes:
    """A body of undeclared length, given up once it is longer than it should be."""
    parts, size = [], 0
    while size <= length and (part := await response.body_reader.read_chunk()) is not None:
        parts.append(bytes(part))
        size += len(parts[-1])
    return b"".join(parts)


def _partial_length(content_range: str, start: int, length: int) -> int:
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    if match is None:
        raise RangeError(
            f"the origin answers a range without saying which (Content-Range {content_range[:40]!r})", final=True
        )
    first, last = int(match[1]), int(match[2])
    ends = match[3] != "*" and last + 1 == int(match[3])
    whole = last - first + 1 == length
    if first != start or not (whole or (ends and last - first + 1 < length)):
        raise RangeError(
            f"the origin answers with bytes {first}-{last}, asked for {start}-{start + length - 1}", final=True
        )
    return last - first + 1


def _whole_length(response: Response, start: int, length: int) -> int:
    """Of a file so small that all of it was asked for; everything else would be a download without end."""
    size = _content_length(response)
    if start or size is None or size > length:
        raise RangeError(
            "the origin does not answer range requests (status 200 and the whole file): serve the files by an HTTP "
            "server that does",
            final=True,
        )
    return size


def _header(response: Response, name: str) -> str:
    """A header, empty where there is none, or none that is text."""
    try:
        return response.get_header(name) or ""
    except ValueError:
        return ""


def _content_length(response: Response) -> int | None:
    value = _header(response, "content-length")
    return int(value) if value.isdecimal() else None


def _next_place(url: str, response: Response) -> str:
    place = _header(response, "location")
    try:
        target = urljoin(url, place)
        scheme, _ = urlsplit(target).scheme, urlsplit(target).port  # a ValueError beyond 65535
    except ValueError:
        raise RangeError("the origin redirects to what is no URL", final=True) from None
    why = "" if scheme in {"http", "https"} else f"scheme {scheme!r}"
    if urlsplit(url).scheme == "https" and scheme == "http":
        why = "it would leave https"
    why = why or refusal(target, remote=is_remote(url))
    if why:
        raise RangeError(f"the origin redirects to where nothing is read from: {why}", final=True)
    return target


def _retry_after(value: str | None) -> float:
    """Seconds, from seconds or a date; 0 for what is neither."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _reason(error: PyreqwestError) -> str:
    """What lies deepest, which is what happened; never a URL."""
    details: Any = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or ()]
    return _URL.sub("", f"{error.message}: {causes[-1]}" if causes else error.message).strip()


# Buckets and files


def _from_bucket(address: Address, patience: Patience, start: int, length: int) -> memoryview:
    parts = urlsplit(address.url)
    store = _bucket(address.kind, parts.netloc, _Options(address), patience)
    try:
        return memoryview(obstore.get_range(store, parts.path.lstrip("/"), start=start, length=length))
    except FileNotFoundError:
        raise status_error(HTTPStatus.NOT_FOUND) from None
    except PermissionError:
        raise status_error(HTTPStatus.FORBIDDEN) from None
    except obstore.exceptions.BaseError as error:
        raise _bucket_error(error, start) from None


def _bucket_error(error: Exception, start: int) -> RangeError:
    first = str(error).partition("\n")[0]
    status = _STATUS.search(first)
    if status:
        code = int(status[1])
        if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _ends_before(start)
        return status_error(code)
    final = isinstance(error, obstore.exceptions.NotSupportedError)
    return RangeError(_URL.sub("", first).strip(), final=final)


class _Options:
    """What a bucket is opened with, by value: new keys make a new store."""

    def __init__(self, address: Address) -> None:
        self.config: Any = bucket_options(address)
        self.keys = bucket_keys(address)

    def _values(self) -> tuple[Any, ...]:
        return (*sorted(self.config.items()), *(self.keys or {}).values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Options) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())


@lru_cache(maxsize=64)
def _bucket(kind: str, place: str, options: _Options, patience: Patience) -> ObjectStore:
    config: Any = dict(options.config)
    common: Any = {
        "retry_config": {"max_retries": 0},
        "client_options": {
            "connect_timeout": timedelta(seconds=patience.connect),
            "timeout": timedelta(seconds=patience.longest_try(RUN_BYTES)),
            "allow_http": config.pop("allow_http", False),
        },
    }
    if kind == "gs":
        return GCSStore(place, config=config, **common)
    if kind == "az":
        return AzureStore(place, config=config, **common)
    if options.keys:
        common["credential_provider"] = partial(dict, options.keys)
    return S3Store(place, config=config, **common)


def _from_disk(path: Path, start: int, length: int) -> memoryview:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return memoryview(file.read(length))
    except FileNotFoundError as error:
        raise RangeError(str(error.strerror), status=HTTPStatus.NOT_FOUND, lasting=True) from None
    except OSError as error:
        no_file = isinstance(error, IsADirectoryError | NotADirectoryError)
        raise RangeError(str(error.strerror), final=True, lasting=no_file) from None
