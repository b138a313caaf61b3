"""SAS tokens: those of this process, and those that a run's driver lends it.

A token is asked for once, whoever needs it: by one thread of a process, and where a run has several processes, by
its driver alone, which lends it to the others (`cluster.lending`).
"""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from ndvi_scale.sources import Access

RENEW_S: Final = 60.0
"""A token is renewed this long before it expires, as Microsoft's SDK does it: a read that began still ends."""

RENEW_SHARE: Final = 0.2
"""… or after the first four fifths of its life, where that is short."""

LENT_SHARE: Final = 0.5
"""Of that margin, what is left when a process that was lent a token asks for another itself: by then its lender has
renewed it."""

YOUNG_S: Final = 1.0
"""A token younger than this is not what a server refuses: asking for another would ask for ever."""

LOAN_S: Final = 10.0
"""Seconds in which a process waits for what it is to be lent; then it asks for itself."""

NOT_SIGNED: Final = "no token for"
"""How the message begins where a token could not be had: what follows is about the endpoint, not the asset."""

_TIMEOUT_S: Final = 30.0
_TRIES_AGAIN: Final = 4


class TokenPlace(NamedTuple):
    """What a token opens, and who gives it."""

    endpoint: str
    account: str
    container: str

    @classmethod
    def of(cls, rule: Access, href: str) -> Self:
        """Of a blob; ``PC_SDK_SAS_URL`` goes before the rule's endpoint."""
        parts = urlsplit(href)
        account, container = (parts.hostname or "").partition(".")[0], parts.path.lstrip("/").partition("/")[0]
        return cls((os.environ.get("PC_SDK_SAS_URL") or rule.token_url).rstrip("/"), account, container)


@dataclass(frozen=True)
class Loan:
    """A token as it is sent to another process; what prints it does not show it."""

    query: str = field(repr=False)
    left: float
    """Seconds until it expires, when it was sent: clocks differ."""


@dataclass(frozen=True)
class _Token:
    query: str
    since: float
    """When it came, on the monotonic clock."""
    renewed: float
    """When to ask for another."""
    expires: float


class TokenCache:
    """SAS tokens by place, for all threads: one request where many need the same one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent = threading.Condition(self._lock)
        self._locks: dict[TokenPlace, threading.Lock] = {}
        self._tokens: dict[TokenPlace, _Token] = {}
        self._failures: dict[TokenPlace, tuple[float, str]] = {}
        self._borrows = False
        self._in_vain: set[TokenPlace] = set()

    def token(self, rule: Access, href: str, refused: str = "") -> str:
        """The query that signs a blob's href. Raises OSError when the endpoint gives none."""
        return self._token(TokenPlace.of(rule, href), refused).query

    def lend(self, place: TokenPlace) -> Loan:
        """A token for another process, renewed where it is time. Raises OSError when the endpoint gives none."""
        token = self._token(place, "")
        return Loan(token.query, token.expires - time.monotonic())

    def borrow(self, *, borrows: bool) -> None:
        """Have this process wait for what it is lent before it asks for a token itself; or no longer."""
        with self._lent:
            self._borrows = borrows
            self._lent.notify_all()

    def accept(self, loans: Mapping[TokenPlace, Loan]) -> None:
        """Take what is lent."""
        now = time.monotonic()
        with self._lent:
            for place, loan in loans.items():
                margin = LENT_SHARE * _margin(loan.left)
                self._tokens[place] = _Token(loan.query, now, now + loan.left - margin, now + loan.left)
                self._in_vain.discard(place)
            self._lent.notify_all()

    def _token(self, place: TokenPlace, refused: str) -> _Token:
        with self._lock:
            lock = self._locks.setdefault(place, threading.Lock())
        with lock:
            known = self._tokens.get(place)
            if known is not None and _is_good(known, refused):
                return known
            lent = self._borrowed(place, refused)
            if lent is None:
                self._tokens[place] = lent = self._ask(place)
            return lent

    def _borrowed(self, place: TokenPlace, refused: str) -> _Token | None:
        """What comes within `LOAN_S`; what did not come is not waited for again until it does.

        Of what a server refuses, a lender does not know: another one is asked for here.
        """
        with self._lent:
            if refused or not self._borrows or place in self._in_vain:
                return None

            def good() -> _Token | None:
                lent = self._tokens.get(place)
                return lent if lent is not None and _is_good(lent, "") else None

            self._lent.wait_for(lambda: not self._borrows or good() is not None, LOAN_S)
            lent = good()
            if lent is None and self._borrows:
                self._in_vain.add(place)
            return lent

    def _ask(self, place: TokenPlace) -> _Token:
        """A new token; a failure holds for all that wait for the same one, who else would each ask in turn."""
        since, why = self._failures.get(place, (-YOUNG_S, ""))
        if time.monotonic() - since < YOUNG_S:
            raise ConnectionError(why)
        try:
            return _new_token(place)
        except OSError as error:
            self._failures[place] = time.monotonic(), str(error)
            raise


TOKENS: Final = TokenCache()
"""The tokens of this process."""


def _is_good(token: _Token, refused: str) -> bool:
    now = time.monotonic()
    return (now < token.renewed and token.query != refused) or now - token.since < YOUNG_S


def _margin(life: float) -> float:
    """How long before its end a token is renewed that lives for `life` seconds."""
    return min(RENEW_S, RENEW_SHARE * life)


def _new_token(place: TokenPlace) -> _Token:
    """Ask for a token, with the subscription key of Microsoft's SDK if there is one."""
    from obstore.auth.planetary_computer import PlanetaryComputerCredentialProvider

    try:
        provider = PlanetaryComputerCredentialProvider(
            account_name=place.account,
            container_name=place.container,
            session=_token_session(),
            sas_url=place.endpoint,
        )
        answer: dict[str, Any] = dict(provider())
    except ImportError as error:
        raise ConfigError(f"{error}: install it, or set PC_SDK_SUBSCRIPTION_KEY (it may be empty)") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConnectionError(
            f"{NOT_SIGNED} {place.account}/{place.container} from {place.endpoint}: {_brief(error)}"
        ) from None
    now = time.monotonic()
    life = (answer["expires_at"].astimezone(dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()
    return _Token(str(answer["sas_token"]).lstrip("?"), now, now + life - _margin(life), now + life)


def _brief(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP response code: {status}" if status else f"{type(error).__name__}: {error}"


def _token_session() -> requests.Session:
    """A session that tries again, gives up in time, and carries the subscription key to no other host."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    class Session(requests.Session):
        def request(self, method: str, url: str, **options: Any) -> requests.Response:  # pyright: ignore[reportIncompatibleMethodOverride]
            answer = super().request(method, url, **{**options, "timeout": _TIMEOUT_S, "allow_redirects": False})
            if answer.is_redirect:
                raise ConnectionError("the endpoint redirects, and tokens are asked for at the known place only")
            return answer

    retry = Retry(total=_TRIES_AGAIN, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session
