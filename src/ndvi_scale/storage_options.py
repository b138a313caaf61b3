"""What may be said about an object store besides its URL: a table of options a service. Checks, no I/O.

Names are obstore's; aliases are what s3fs, gcsfs, adlfs, the vendors' tools and the environment call the same
thing. A service's own prefix (``aws_``, ``google_``, ``azure_storage_``) may stand before any of its names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from ndvi_scale.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Option:
    """One storage option."""

    name: str
    aliases: tuple[str, ...] = ()
    pattern: str = r".+"
    """What its values look like; those of a secret are never shown."""
    rule: str = "a value"
    """`pattern` in words."""
    client: bool = False
    """Of the connection, not of the service: a store that has one of these among the service's works, but
    cannot be pickled (obstore#755)."""


def _flag(name: str, *aliases: str, client: bool = False) -> Option:
    return Option(name, aliases, r"(?i:true|false)", "true or false", client)


def _duration(name: str) -> Option:
    return Option(name, (), r"(\d+\s*[a-zA-Z]+\s*)+", "a duration, such as 30s", client=True)


_ADDRESS: Final = (r"https?://[^/@\s?#]+(/[^@\s?#]*)?", "http(s)://host[:port], without user, password or query")


@dataclass(frozen=True)
class Service:
    """One object store service: what it is called, what it takes, what to check when it refuses."""

    place: str
    """What the first part of its URLs names."""
    prefixes: tuple[str, ...]
    """What may stand before its options' names, the longest first."""
    endpoint: str
    """Its option for the server's address."""
    endpoint_variables: tuple[str, ...]
    """Environment variables that stand for that option."""
    remedy: str
    """Where credentials come from, in words."""
    options: tuple[Option, ...]

    def all_options(self) -> tuple[Option, ...]:
        """Its own options and those of any connection."""
        return self.options + CONNECTION


CONNECTION: Final = (
    _flag("allow_http", client=True),
    _flag("allow_invalid_certificates", client=True),
    _duration("connect_timeout"),
    _duration("timeout"),
    Option("proxy_url", client=True),
    Option("user_agent", client=True),
)
"""Options of any connection."""

_ANONYMOUS: Final = _flag("skip_signature", "anon", "anonymous", "no_sign_request")

SERVICES: Final[dict[str, Service]] = {
    "s3": Service(
        place="bucket",
        prefixes=("aws_",),
        endpoint="endpoint",
        endpoint_variables=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        remedy=(
            "the endpoint and region, and the keys (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, --storage-option "
            "access_key_id=… and secret_access_key=…, or profile=NAME; skip_signature=true where none are needed)"
        ),
        options=(
            Option("endpoint", ("endpoint_url",), *_ADDRESS),
            Option("region", ("region_name", "default_region")),
            Option("access_key_id", ("access_key", "key")),
            Option("secret_access_key", ("secret_key", "secret")),
            Option("session_token", ("token",)),
            Option("profile", ("profile_name",)),
            _ANONYMOUS,
            _flag("virtual_hosted_style_request"),
            _flag("request_payer", "requester_pays"),
            _flag("unsigned_payload"),
            Option("checksum_algorithm"),
            _flag("disable_bulk_delete"),
            Option("server_side_encryption"),
            Option("sse_kms_key_id"),
            _flag("sse_bucket_key_enabled"),
            Option("sse_customer_key_base64"),
            _flag("s3_express"),
            Option("role_arn"),
            Option("role_session_name"),
            Option("web_identity_token_file"),
            Option("endpoint_url_sts", ("sts_endpoint",), *_ADDRESS),
            Option("metadata_endpoint", (), *_ADDRESS),
            _flag("imdsv1_fallback"),
        ),
    ),
    "gs": Service(
        place="bucket",
        prefixes=("google_", "gcs_"),
        endpoint="base_url",
        endpoint_variables=("GOOGLE_BASE_URL",),
        remedy=(
            "the credentials (GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or "
            "--storage-option service_account=FILE; skip_signature=true where none are needed)"
        ),
        options=(
            Option("base_url", ("endpoint", "endpoint_url"), *_ADDRESS),
            Option("service_account", ("service_account_path", "credentials_file")),
            Option("service_account_key", ("credentials_json",)),
            Option("application_credentials", ("application_default_credentials",)),
            Option("bearer_token", ("token",)),
            _ANONYMOUS,
        ),
    ),
    "az": Service(
        place="container",
        prefixes=("azure_storage_", "azure_"),
        endpoint="endpoint",
        endpoint_variables=("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
        remedy=(
            "the account (AZURE_STORAGE_ACCOUNT_NAME), and its key (AZURE_STORAGE_ACCOUNT_KEY), SAS "
            "(AZURE_STORAGE_SAS_TOKEN) or identity, or --storage-option account_name=…, account_key=…, sas_key=…; "
            "skip_signature=true where none are needed"
        ),
        options=(
            Option("account_name", ("account",)),
            Option("account_key", ("access_key", "master_key", "key")),
            Option("sas_key", ("sas_token", "sas")),
            Option("token", ("bearer_token",)),
            Option("client_id"),
            Option("client_secret"),
            Option("tenant_id", ("authority_id",)),
            Option("authority_host", (), *_ADDRESS),
            Option("federated_token_file"),
            Option("credential_type"),
            Option("msi_endpoint", ("identity_endpoint",), *_ADDRESS),
            Option("msi_resource_id"),
            Option("object_id"),
            _flag("use_azure_cli"),
            _flag("use_emulator"),
            _flag("use_fabric_endpoint"),
            Option("encryption_key"),
            Option("endpoint", ("endpoint_url",), *_ADDRESS),
            _ANONYMOUS,
        ),
    ),
}
"""Scheme → service."""


@dataclass(frozen=True, repr=False)
class Settings:
    """Options as obstore takes them; never printed."""

    config: dict[str, str]
    """Of the service, by obstore's names."""
    client: dict[str, str]
    """Of the connection."""

    def __repr__(self) -> str:
        return f"Settings({', '.join(sorted(self.config | self.client))})"


def read_options(service: Service, url: str, options: Mapping[str, str]) -> Settings:
    """Check options and give them the names that obstore knows. Raises StoreError, which names no secret."""
    found: dict[Option, tuple[str, str]] = {}
    for key, value in options.items():
        option = _option(service, url, key)
        if option in found:
            raise StoreError(
                f"storage options {found[option][0]!r} and {key!r} for {url} are the same one: give one of them"
            )
        found[option] = (key, _value(option, key, str(value)))
    return Settings(
        config={option.name: value for option, (_, value) in found.items() if not option.client},
        client={option.name: value for option, (_, value) in found.items() if option.client},
    )


def _option(service: Service, url: str, key: str) -> Option:
    known = {name: option for option in service.all_options() for name in (option.name, *option.aliases)}
    name = key.lower().replace("-", "_")
    for spelled in (name, *(name.removeprefix(prefix) for prefix in service.prefixes)):
        if spelled in known:
            return known[spelled]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(option.name for option in service.all_options())
    raise StoreError(f"unknown storage option {key!r} for {url}: {hint}known are {names}")


def _value(option: Option, key: str, value: str) -> str:
    value = value.strip()
    if not value:
        raise StoreError(f"storage option {key!r} is empty: give it a value, or leave it out")
    if not re.fullmatch(option.pattern, value, re.DOTALL):
        # An address may hold a password, and a value that is in the wrong place may be a secret.
        raise StoreError(f"storage option {key!r} must be {option.rule} ({len(value)} characters were given)")
    return value
