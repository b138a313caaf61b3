"""The catalogs known by name: one row each. A table, no I/O.

Whatever is special about a provider stands here and nowhere else: where its API is, what its collections and
assets are called, what its pixels carry, who may read them, and how hard it may be asked. Sources: the providers'
documentation and the responses that they gave (CDSE quotas: ``eu-cdse/documentation``, ``Quotas.qmd``, 2025-03).
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal
from urllib.parse import urlsplit

Signing = Literal["none", "sas", "keys", "requester-pays"]
"""How a read is allowed: by anyone; by a short-lived token in the URL (Azure SAS); by the user's S3 keys; by
the keys of an AWS account that pays for the transfer."""


@dataclass(frozen=True)
class Limits:
    """What one run, however many its workers, may ask of a provider; None where it says nothing."""

    connections: int | None = None
    """Requests in flight."""
    requests_a_minute: int | None = None
    bytes_a_second: int | None = None


@dataclass(frozen=True)
class Access:
    """How assets at some places are read. Credentials go to these places and to no others."""

    name: str
    signing: Signing = "none"
    hosts: tuple[str, ...] = ()
    """Patterns of the hosts of http(s) hrefs."""
    buckets: tuple[str, ...] = ()
    """Names of the buckets of s3 hrefs."""
    region: str = ""
    endpoint: str = ""
    """Host of the S3 API where it is not AWS's; addressed with the bucket in the path, over https unless it says
    ``http://``."""
    key_variables: tuple[str, str] = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    """Environment variables that hold the key id and the secret, where `signing` wants keys."""
    remedy: str = ""
    """Where a person gets such keys."""
    token_url: str = ""
    """Where SAS tokens come from: ``{token_url}/{account}/{container}``."""
    limits: Limits = Limits()

    @property
    def wants_keys(self) -> bool:
        """Whether reads are signed with the user's keys."""
        return self.signing in {"keys", "requester-pays"}

    def covers(self, href: str) -> bool:
        """Whether an asset's href is at one of its places."""
        parts = urlsplit(href)
        if parts.scheme == "s3":
            return parts.netloc in self.buckets
        host = (parts.hostname or "").lower()
        return parts.scheme in {"http", "https"} and any(fnmatchcase(host, pattern) for pattern in self.hosts)


@dataclass(frozen=True)
class Source:
    """A public STAC API."""

    url: str
    """The landing page."""
    collections: tuple[str, ...]
    """Sentinel-2 L2A collections; the first is searched when none is given."""
    description: str
    assets: tuple[str, str, str] = ("red", "nir", "scl")
    """Keys of the red, nir and SCL assets."""
    access: str = ""
    """Name of the rule in `ACCESS` by which the assets are read."""
    auto: tuple[str, ...] = ()
    """Collections that hold the same products, the better processed first; what `--collection auto` searches."""
    offsets: str = ""
    """Where the BOA offset stands, in words; the rule itself is `sentinel2.resolve_offset`."""

    @property
    def collection(self) -> str:
        """The collection searched when none is given."""
        return self.collections[0]

    @property
    def account(self) -> str:
        """What reading the assets takes, in words."""
        return next((_ACCOUNTS[access.signing] for access in ACCESS if access.name == self.access), "none")

    @property
    def limits(self) -> Limits:
        """How hard it may be asked."""
        return next((access.limits for access in ACCESS if access.name == self.access), Limits())


_ACCOUNTS: Final[dict[Signing, str]] = {
    "none": "none",
    "sas": "none, links signed for an hour",
    "keys": "S3 keys of the provider",
    "requester-pays": "AWS keys, and the transfer is paid",
}


SOURCES: Final[dict[str, Source]] = {
    "earth-search": Source(
        url="https://earth-search.aws.element84.com/v1",
        collections=("sentinel-2-l2a", "sentinel-2-c1-l2a", "sentinel-2-pre-c1-l2a"),
        access="earth-search",
        auto=("sentinel-2-c1-l2a", "sentinel-2-l2a"),
        description="Earth Search by Element 84: Sentinel-2 L2A as COGs on AWS, no account",
        offsets="sentinel-2-l2a: in the COGs where earthsearch:boa_offset_applied; others: declared, not in them",
    ),
    "earth-search-v0": Source(
        url="https://earth-search.aws.element84.com/v0",
        collections=("sentinel-s2-l2a-cogs",),
        assets=("B04", "B08", "SCL"),
        access="earth-search",
        description="Earth Search v0, the older API over the same COGs",
        offsets="in the COGs where sentinel:boa_offset_applied; older items say neither flag nor baseline",
    ),
    "planetary-computer": Source(
        url="https://planetarycomputer.microsoft.com/api/stac/v1",
        collections=("sentinel-2-l2a",),
        assets=("B04", "B08", "SCL"),
        access="planetary-computer",
        description="Microsoft Planetary Computer: COGs on Azure, links signed for an hour, no account",
        offsets="not in the COGs and not declared: follows from the baseline",
    ),
    "cdse": Source(
        url="https://stac.dataspace.copernicus.eu/v1",
        collections=("sentinel-2-l2a",),
        assets=("B04_10m", "B08_10m", "SCL_20m"),
        access="cdse",
        description="Copernicus Data Space Ecosystem: ESA's own JP2 files; needs S3 keys",
        offsets="not in the files; declared by each asset",
    ),
}
"""Name → source."""

ACCESS: Final[tuple[Access, ...]] = (
    Access(
        name="earth-search",
        hosts=(
            "sentinel-cogs.s3.us-west-2.amazonaws.com",
            "e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com",
        ),
        buckets=("sentinel-cogs", "e84-earth-search-sentinel-data"),
        region="us-west-2",
    ),
    Access(
        name="planetary-computer",
        signing="sas",
        hosts=("sentinel2l2a*.blob.core.windows.net",),
        token_url="https://planetarycomputer.microsoft.com/api/sas/v1/token",  # noqa: S106 - where to ask, no token
    ),
    Access(
        name="cdse",
        signing="keys",
        buckets=("eodata",),
        endpoint="eodata.dataspace.copernicus.eu",
        region="default",
        key_variables=("CDSE_ACCESS_KEY_ID", "CDSE_SECRET_ACCESS_KEY"),
        remedy="a free account makes S3 keys at https://eodata-s3keysmanager.dataspace.copernicus.eu",
        limits=Limits(connections=4, requests_a_minute=2000, bytes_a_second=4 * 20_000_000),
    ),
    Access(
        name="sentinel-s2-l2a",
        signing="requester-pays",
        buckets=("sentinel-s2-l2a",),
        region="eu-central-1",
        remedy="this bucket's readers pay for the transfer: keys of any AWS account, from its IAM console",
    ),
)
"""Who may read what; an href that none covers is read without credentials."""


def access_of(href: str) -> Access | None:
    """The rule that covers an asset's href, or None."""
    return next((access for access in ACCESS if access.covers(href)), None)
