"""Where an asset's href may point, and what of it is written down. Strings only; nothing is asked or resolved.

An href is a catalog's word. A remote catalog must not make this machine read its own files or services, and
nobody's catalog may hand GDAL one of its special names. What signs an href is good for an hour or is a secret:
it is not kept.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
import socket
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

REFUSED: Final = "ndvi_scale:refused"
"""Field of an asset whose href was taken away: why."""

BUCKET_SCHEMES: Final = frozenset({"s3", "gs", "az", "abfs", "abfss"})
REMOTE_SCHEMES: Final = frozenset({"http", "https"}) | BUCKET_SCHEMES
"""Where items of a remote catalog may point."""

_OWN_NAMES: Final = frozenset(
    {
        "localhost",
        "localhost.localdomain",
        "localhost6",
        "localhost6.localdomain6",
        "ip6-localhost",
        "ip6-loopback",
        # What clouds call the service that hands out the machine's own credentials.
        "metadata",
        "metadata.google.internal",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
_METADATA: Final = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
"""The same service by address (AWS over IPv6, Alibaba, Azure, Oracle), where it is not link-local."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NAT64_OWN: Final = ipaddress.ip_network("64:ff9b:1::/48")
"""Translation inside a network (RFC 8215): where in it the IPv4 address stands is that network's choice."""
_TRANSLATED: Final = ipaddress.ip_network("::ffff:0:0:0/96")
"""IPv4 as stateless translation writes it (RFC 2765): ::ffff:0:127.0.0.1."""

_USER_OF_BUCKET: Final = re.compile(
    r"[A-Za-z0-9$][A-Za-z0-9._-]*(@[a-z0-9]{3,24}\.(blob|dfs)\.core\.windows\.net)?"
)
"""``bucket``, or Azure's ``container@account.dfs.core.windows.net``."""

# Query parameters that sign, in lower case: the one that must be there, and its companions.
_AZURE_SAS: Final = frozenset(
    {"sig", "sv", "st", "se", "sr", "sp", "sip", "spr", "si", "ss", "srt", "sdd", "saoid", "suoid", "scid"}
    | {"skoid", "sktid", "skt", "ske", "sks", "skv"}
)
_KEY_PAIRS: Final = frozenset({"signature", "expires", "awsaccesskeyid", "googleaccessid", "key-pair-id", "policy"})
_PREFIXES: Final = ("x-amz-", "x-goog-")


@lru_cache(maxsize=1024)  # asked when an item is read and when it becomes a granule
def unsigned(href: str) -> str:
    """The href without user, password and what signs it (Azure SAS, AWS, Google, CloudFront).

    Other parts of a query stay as they are.
    """
    scheme, separator, _ = href.partition("://")
    if not separator:
        return href
    try:
        parts = urlsplit(href)
    except ValueError:
        return bare(href)
    place = parts.netloc
    if "@" not in place and not parts.query:  # most are
        return href
    if scheme.lower() not in {"az", "abfs", "abfss"}:  # there, what stands before @ is the container
        place = place.rpartition("@")[2]
    pairs = [pair for pair in parts.query.split("&") if pair]
    names = {_name(pair) for pair in pairs}
    signing: set[str] = set()
    if "sig" in names:
        signing |= _AZURE_SAS
    if "signature" in names:
        signing |= _KEY_PAIRS
    kept = [pair for pair in pairs if not (_name(pair) in signing or _name(pair).startswith(_PREFIXES))]
    if place == parts.netloc and kept == pairs:
        return href
    return urlunsplit((parts.scheme, place, parts.path, "&".join(kept), parts.fragment))


def bare(href: str) -> str:
    """What would be a URL, but cannot be parsed as one, without user, query and fragment."""
    scheme, _, rest = re.split(r"[?#]", href)[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _name(pair: str) -> str:
    return unquote(pair.partition("=")[0]).lower()


def unsigned_fields(value: Any) -> Any:
    """A JSON value in which every ``href``, however deep, is unsigned."""
    if isinstance(value, dict):
        return {
            key: unsigned(inner) if key == "href" and isinstance(inner, str) else unsigned_fields(inner)
            for key, inner in value.items()
        }
    return [unsigned_fields(inner) for inner in value] if isinstance(value, list) else value


@lru_cache(maxsize=1024)  # asked of every item that was read from there
def is_remote(base: str) -> bool:
    """Whether what was read from `base` is another's word: http(s) from a host that is not this machine."""
    parts = urlsplit(base)
    return parts.scheme.lower() in {"http", "https"} and not _is_own_host(parts.hostname or "")


@lru_cache(maxsize=1024)
def refusal(href: str, *, remote: bool) -> str:
    """Why an href may not be read, or an empty string; `remote`: it comes from a remote catalog.

    From anywhere: GDAL's own names (``/vsi…``, ``GTIFF_DIR:…``), unknown schemes and control characters are
    refused. A remote catalog may only point to http(s) and buckets, and not to loopback, link-local or unspecified
    addresses in any spelling.
    """
    if not href.isprintable() or "<" in href:
        return "an href holds control characters or markup"
    try:
        scheme = urlsplit(href).scheme.lower() if "://" in href else ""
    except ValueError as error:
        return f"an href is no URL ({error})"
    if scheme in REMOTE_SCHEMES:
        return _refused_place(urlsplit(href).netloc, scheme) if remote else ""
    path = unquote(urlsplit(href).path) if scheme == "file" else href
    # What GDAL or the file system would make of /./vsicurl and /data/../vsicurl.
    if re.match(r"/+vsi", posixpath.normpath(path.replace("\\", "/")), re.IGNORECASE):
        return "an href names one of GDAL's virtual file systems"
    if not scheme:
        if re.match(r"[A-Za-z][A-Za-z0-9_+.-]+:", href):
            return "an href names a GDAL driver or an unknown scheme"
        return "a remote catalog may not point to local files" if remote else ""
    if scheme == "file":
        return "a remote catalog may not point to local files" if remote else ""
    return f"an href of scheme {scheme!r} is not read (only {', '.join(sorted(REMOTE_SCHEMES))} and files)"


@lru_cache(maxsize=1024)  # an archive has few hosts and buckets, and millions of files
def _refused_place(netloc: str, scheme: str) -> str:
    netloc = unquote(netloc)
    if scheme in BUCKET_SCHEMES:
        return "" if _USER_OF_BUCKET.fullmatch(netloc) else f"{netloc!r} is no name of a bucket"
    if not netloc or not netloc.isprintable() or re.search(r"[\s\\]", netloc):
        return "an href has no host that can be understood"
    try:
        host = urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return "an href has no host that can be understood"
    if not host or _is_own_host(host):
        return f"a remote catalog may not point to {host!r}, which is this machine or one that only it can see"
    return ""


def _is_own_host(host: str) -> bool:
    """Whether a host is this machine, its link or its cloud's metadata service, in any spelling."""
    name = unicodedata.normalize("NFKC", unquote(host)).replace("。", ".").lower().rstrip(".").partition("%")[0]
    if name in _OWN_NAMES or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and _is_own_address(address)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        pass
    try:  # 127.1, 0x7f000001, 0177.0.0.1, 2130706433: what a resolver takes for an address
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, ValueError):  # not an address, not ASCII, or a NUL in it
        return None


def _is_own_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and (address in _NAT64 or address in _TRANSLATED or int(address) >> 32 == 0):
            inner = low  # 64:ff9b::7f00:1, ::ffff:0:127.0.0.1, ::127.0.0.1
        if address in _NAT64_OWN:
            return True
        if inner is not None and _is_own_address(inner):
            return True
    elif int(address) >> 24 == 0:  # "this network", which Linux takes for itself
        return True
    return address.is_loopback or address.is_link_local or address.is_unspecified or address in _METADATA


def refused_asset(asset: Mapping[str, Any], why: str) -> dict[str, Any]:
    """An asset whose href is gone, and says why: nothing that reads the item later can follow it."""
    kept = {key: value for key, value in asset.items() if key != "alternate"}
    return {**kept, "href": "", REFUSED: why}
