"""What it takes to read an asset: the rule that covers it, a signature, keys. Applied at the moment of reading.

`sources.ACCESS` says who may read what. Keys and tokens go to the places of their rule and nowhere else: what no
rule covers is read without any, whatever the environment holds. Nothing of a credential is stored or printed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ndvi_scale.errors import ConfigError
from ndvi_scale.hrefs import is_remote, unsigned
from ndvi_scale.sources import Access, access_of
from ndvi_scale.tokens import TOKENS, TokenPlace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from obstore.store import S3Credential

_ANONYMOUS: Final = {
    "AWS_NO_SIGN_REQUEST": "YES",
    "GS_NO_SIGN_REQUEST": "YES",
    "AZURE_NO_SIGN_REQUEST": "YES",
    "AWS_REQUEST_PAYER": "",
}
"""GDAL's options for reading without any credentials, whatever else is in the environment."""

_REDIRECTED: Final = {"CPL_VSIL_CURL_AUTHORIZATION_HEADER_ALLOWED_IF_REDIRECT": "NO"}

_AWS: Final = "s3.amazonaws.com"


@dataclass(frozen=True)
class Address:
    """Where one asset is read now, whatever reads it."""

    kind: Literal["file", "http", "s3", "gs", "az"]
    url: str = field(repr=False)
    """The path of a file; else a URL, which may end in a token."""
    rule: Access | None = None
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    """Secret options in AWS's names; empty where nothing is needed."""
    token: str = field(default="", repr=False)
    """The token in `url`, if any."""


@dataclass(frozen=True)
class Place:
    """What answers requests for an asset, and by which rule; to be known before anything is signed."""

    name: str
    """Host, bucket or container; empty where it is this machine's disk."""
    rule: Access | None

    @property
    def may_wait(self) -> bool:
        """Whether `locate` may have to ask for a token over the network."""
        return self.rule is not None and self.rule.signing == "sas"


def place_of(href: str) -> Place:
    """Where an asset is, by its href."""
    href = _as_blob(unsigned(href))
    return Place(urlsplit(href).netloc if "://" in href else "", access_of(href))


def locate(href: str, refused: str = "") -> Address:
    """Where to read an asset by its unsigned href; `refused` is a token that the server did not accept.

    Raises ConfigError where keys are missing, OSError where no token is to be had.
    """
    href = _as_blob(unsigned(href))
    parts = urlsplit(href)
    scheme = parts.scheme if "://" in href else ""
    if scheme in {"", "file"}:
        return Address("file", url2pathname(parts.path) if scheme else href)
    rule = access_of(href)
    if scheme in {"http", "https"}:
        token = TOKENS.token(rule, href, refused) if rule and rule.signing == "sas" else ""
        if token and is_remote(href):
            href = f"https{href.removeprefix(scheme)}"  # a token never goes over the wire in the clear
        query = "" if not token else f"{'&' if parts.query else '?'}{token}"
        return Address("http", f"{href}{query}", rule, token=token)
    if scheme == "s3":
        return Address("s3", href, rule, _keys(rule) if rule else {})
    if scheme == "gs":
        return Address("gs", href, rule)
    if not os.environ.get("AZURE_STORAGE_ACCOUNT"):
        raise ConfigError(
            f"{href} names a container without its account: set AZURE_STORAGE_ACCOUNT, or give hrefs like "
            "https://account.blob.core.windows.net/container/file"
        )
    return Address("az", href, rule)


@dataclass(frozen=True)
class Opening:
    """How GDAL opens one asset now."""

    path: str = field(repr=False)
    """What GDAL is to open; may end in a token."""
    options: dict[str, str] = field(default_factory=dict)
    """Its options, none of them secret."""
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    """Its options that are secret; empty where nothing is needed."""
    rule: Access | None = None
    token: str = field(default="", repr=False)
    """The token in `path`, if any."""

    @property
    def is_remote(self) -> bool:
        """Whether it is read over a network."""
        return self.path.startswith("/vsi")


def open_access(href: str, refused: str = "") -> Opening:
    """`locate`, in GDAL's words; raises what that raises."""
    address = locate(href, refused)
    if address.kind == "file":
        return Opening(address.url)
    rule = address.rule
    options = _ANONYMOUS | _REDIRECTED | (_limit_options(rule) if rule else {})
    if address.kind == "http":
        return Opening(f"/vsicurl/{address.url}", options, {}, rule, address.token)
    if address.kind == "s3":
        options |= _s3_options(rule)
    parts = urlsplit(address.url)
    return Opening(f"/vsi{address.kind}/{parts.netloc}{parts.path}", options, address.keys, rule)


def bucket_options(address: Address) -> dict[str, str | bool]:
    """How obstore opens the bucket of an address, but for keys: in full, so that nothing around is added."""
    if address.kind == "az":
        return {"account_name": os.environ["AZURE_STORAGE_ACCOUNT"], "skip_signature": True}
    if address.kind == "gs":
        endpoint = os.environ.get("CPL_GS_ENDPOINT", "").rstrip("/")  # as GDAL has it
        return {"skip_signature": True, **({"base_url": endpoint, "allow_http": True} if endpoint else {})}
    rule = address.rule
    pays = rule is not None and rule.signing == "requester-pays"
    return {"skip_signature": not address.keys, "request_payer": pays, **_s3_place(rule)}


def bucket_keys(address: Address) -> S3Credential | None:
    """The keys to a bucket, whole: what is not among them is not taken from elsewhere."""
    if not address.keys:
        return None
    return {
        "access_key_id": address.keys["AWS_ACCESS_KEY_ID"],
        "secret_access_key": address.keys["AWS_SECRET_ACCESS_KEY"],
        "token": address.keys["AWS_SESSION_TOKEN"] or None,
        "expires_at": None,
    }


def _s3_place(rule: Access | None) -> dict[str, str | bool]:
    region = (rule and rule.region) or os.environ.get("AWS_REGION") or "us-east-1"
    if rule is None:  # as GDAL has it
        host, scheme = os.environ.get("AWS_S3_ENDPOINT", ""), "https"
        if os.environ.get("AWS_HTTPS", "YES").upper() in {"NO", "FALSE", "OFF", "0"}:
            scheme = "http"
    else:
        scheme, _, host = rule.endpoint.rpartition("://")
    if not host:
        return {"region": region, "endpoint": f"https://s3.{region}.amazonaws.com"}
    return {
        "region": region,
        "endpoint": host if "://" in host else f"{scheme or 'https'}://{host}",
        "virtual_hosted_style_request": False,
        "allow_http": True,
    }


def signed_places(hrefs: Iterable[str]) -> set[TokenPlace]:
    """What a token is needed for."""
    ruled = ((access_of(href), href) for href in map(_as_blob, hrefs))
    return {TokenPlace.of(rule, href) for rule, href in ruled if rule is not None and rule.signing == "sas"}


def require_keys(hrefs: Iterable[str]) -> None:
    """Make sure that the keys for all these hrefs are set. Raises ConfigError that names the missing ones."""
    for href in hrefs:
        rule = access_of(href)
        if rule is not None:
            _keys(rule)


def _keys(rule: Access) -> dict[str, str]:
    """The user's keys for a rule that wants them, from the environment."""
    if not rule.wants_keys:
        return {}
    missing = [name for name in rule.key_variables if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not set: the files of {rule.name} are read with your own S3 keys, from the "
            f"environment variables {' and '.join(rule.key_variables)}; {rule.remedy}"
        )
    key, secret = (os.environ[name] for name in rule.key_variables)
    own = rule.key_variables[0] == "AWS_ACCESS_KEY_ID"
    session = os.environ.get("AWS_SESSION_TOKEN", "") if own else ""
    return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": session}


def _s3_options(rule: Access | None) -> dict[str, str]:
    """Where a bucket is and how it is asked; for buckets of no rule, the environment may say an endpoint."""
    if rule is None:
        return {}
    scheme, _, host = rule.endpoint.rpartition("://")
    options = {
        "AWS_S3_ENDPOINT": host or _AWS,
        "AWS_HTTPS": "NO" if scheme == "http" else "YES",
        "AWS_VIRTUAL_HOSTING": "FALSE" if host else "TRUE",
        "AWS_REGION": rule.region or "us-east-1",
        "AWS_DEFAULT_REGION": rule.region or "us-east-1",
    }
    if rule.wants_keys:
        options["AWS_NO_SIGN_REQUEST"] = "NO"
    if rule.signing == "requester-pays":
        options["AWS_REQUEST_PAYER"] = "requester"
    return options


def _limit_options(rule: Access) -> dict[str, str]:
    """One connection a read, where connections are counted."""
    if rule.limits.connections is None:
        return {}
    return {"GDAL_HTTP_MULTIRANGE": "SERIAL", "GDAL_NUM_THREADS": "1"}


def _as_blob(href: str) -> str:
    """The https form of ``abfs://container@account.dfs.core.windows.net/…``, which needs no account said apart."""
    parts = urlsplit(href)
    container, at, host = parts.netloc.rpartition("@")
    if parts.scheme not in {"az", "abfs", "abfss"} or not at:
        return href
    return f"https://{host.replace('.dfs.', '.blob.')}/{container}{parts.path}"
