"""HTTP as catalogs need it: one session with time-outs, retries that end, and errors that tell no secret."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError
from requests.exceptions import ConnectionError as RequestsConnectionError
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

from ndvi_scale.errors import SearchError
from ndvi_scale.hrefs import bare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pystac_client.stac_api_io import StacApiIO
    from requests import PreparedRequest, Response
    from urllib3 import BaseHTTPResponse

TIMEOUT_S = (10.0, 60.0)  # to connect, to the next byte: a page of 100 items takes seconds to compute
ANSWER_BYTES: Final = 256 << 20
"""Most of one answer that is read, unpacked: a page has some 6 MB, a catalog or its Parquet some 10."""

_PIECE_BYTES = 1 << 16
_RETRIES = 5  # 0, 2, 4, 8 and 16 s apart, plus jitter: half a minute, in which a gateway restarts
_BACKOFF_S = 1.0
_RETRY_AFTER_MAX_S = 60  # a server may say "in a day"; a search that fails can be taken up again
_BUSY = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


@lru_cache(maxsize=1024)  # asked of one address for every href that was read from there
def is_url(href: str) -> bool:
    """Whether it is read over http(s)."""
    try:
        scheme = urlsplit(href).scheme
    except ValueError:  # http://[::1/
        scheme = href.partition(":")[0]
    return scheme.lower() in {"http", "https"}


def shown(href: str) -> str:
    """Strip what may be secret from a URL: user, password, query; a path stays."""
    if "://" not in href:
        return href
    try:
        parts = urlsplit(href)
    except ValueError:
        return bare(href)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextmanager
def web_session(limit: int = ANSWER_BYTES) -> Iterator[StacApiIO]:
    """One HTTP session with time-outs, retries and a limit in bytes to answers; threads may share it.

    It is closed at the end.
    """
    from pystac_client.stac_api_io import StacApiIO

    web = StacApiIO(timeout=TIMEOUT_S, max_retries=None)
    for scheme in ("http://", "https://"):
        web.session.mount(scheme, _WholeAnswers(limit, max_retries=_patience()))
    filters = [(logging.getLogger(name), told) for name, told in _TOLD.items()]
    for logger, told in filters:
        logger.addFilter(told)
    try:
        yield web
    finally:
        for logger, told in filters:
            logger.removeFilter(told)
        web.session.close()


class _Patience(Retry):
    """The rule of urllib3, to which a `Retry-After` that says nothing is none at all."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Seconds, or None."""
        try:
            return super().get_retry_after(response)
        except InvalidHeader:
            return None


def _patience() -> Retry:
    return _Patience(
        total=_RETRIES,
        backoff_factor=_BACKOFF_S,
        backoff_jitter=_BACKOFF_S,  # several months of a search must not come back in step
        retry_after_max=_RETRY_AFTER_MAX_S,
        status_forcelist=_BUSY,
        allowed_methods=None,  # a search is a POST that changes nothing
        raise_on_status=False,
    )


class _WholeAnswers(HTTPAdapter):
    """Asks again when an answer breaks off or stalls in its body, which urllib3 leaves to its caller.

    An answer of more than `limit` bytes is given up, whatever it says of its length.
    """

    def __init__(self, limit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        """Send, and read the body whole, up to the limit."""
        retry = self.max_retries
        while True:
            response = super().send(request, *args, **kwargs)
            try:
                _read_whole(response, self.limit)
            except (ChunkedEncodingError, RequestsConnectionError):
                response.close()
                if not retry.total:
                    raise
                retry = retry.increment(request.method, request.url, error=None)
                retry.sleep()
            else:
                return response


class _TooLargeError(OSError):
    """An answer goes on beyond the limit."""


def _read_whole(response: Response, limit: int) -> None:
    """Read the body as `response.content` does, but no more of it than the limit, unpacked."""
    if "," in response.headers.get("Content-Encoding", ""):
        # Packed twice, a thousand times a thousand: the first piece alone could fill the memory.
        response.close()
        raise _TooLargeError("packed more than once")
    pieces, size = [], 0
    for piece in response.iter_content(_PIECE_BYTES):
        size += len(piece)
        if size > limit:
            response.close()
            raise _TooLargeError(f"more than {limit:,} bytes")
        pieces.append(piece)
    # Else the library would hold the body to be gone, or read it again without a limit.
    response._content = b"".join(pieces)  # noqa: SLF001


def _without_queries(record: logging.LogRecord) -> bool:
    """Cut query strings from urllib3's notes on retries: they may hold a signature."""
    if isinstance(record.args, tuple):
        record.args = tuple(value.partition("?")[0] if isinstance(value, str) else value for value in record.args)
    return True


def _nothing(_: logging.LogRecord) -> bool:
    """Drop what has URLs in its midst."""
    return False


_TOLD = {
    "urllib3.connectionpool": _without_queries,
    "urllib3.util.retry": _without_queries,
    "pystac_client.stac_api_io": _nothing,
}
"""Loggers of the libraries → what of them may be told."""


@contextmanager
def answers(href: str) -> Iterator[None]:
    """Tell every way in which a file or a server does not answer as one SearchError, without secrets."""
    from pystac_client.exceptions import APIError

    try:
        yield
    except (APIError, OSError) as error:
        if is_url(href):
            raise SearchError(f"{shown(href)}: {_network_failure(error)}") from None
        why = error.strerror if isinstance(error, OSError) else error
        raise SearchError(f"{href}: cannot be read ({why}). Check the path, and the links to it.") from error
    except RecursionError:
        raise SearchError(f"{shown(href)}: nested too deep to be STAC. Check the address.") from None
    except ValueError as error:  # JSON and UTF-8 alike
        raise SearchError(
            f"{shown(href)}: not JSON ({error}). Give the JSON of a catalog, not a web page."
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise SearchError(
            f"{shown(href)}: does not answer as STAC ({type(error).__name__}: {error}). Check the address."
        ) from None


def _network_failure(error: Exception) -> str:
    """Say what went wrong and what to do; never the text of the error, which holds the whole URL."""
    status = getattr(error, "status_code", None)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return f"HTTP {status}, access denied. Check the credentials, or sign the URL again."
    if status == HTTPStatus.NOT_FOUND:
        return "HTTP 404, not found. Check the address and the collection."
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return f"HTTP 429: too many requests, also after {_RETRIES} retries. Wait, and ask for less at once."
    if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"HTTP {status}: the server refuses the request. Check the address, region and dates."
    if status is not None:
        return f"HTTP {status}: the server fails, also after {_RETRIES} retries. Try again later."
    cause = error if isinstance(error, OSError) else error.__context__ or error
    if isinstance(cause, _TooLargeError):
        return f"the answer is too large ({cause}). Ask for less, or download it and give the file."
    if isinstance(cause, MemoryError):
        return "the answer does not fit into the memory. Ask for less, or download it and give the file."
    if "timed out" in str(cause).lower():
        return f"timed out after {TIMEOUT_S[1]:g} s, {_RETRIES} times again. Try later, or ask for less."
    if isinstance(cause, ChunkedEncodingError):
        return f"the answer breaks off, also after {_RETRIES} retries. Try later, or ask for less."
    return f"cannot be reached ({type(cause).__name__}). Check the address and the network."
