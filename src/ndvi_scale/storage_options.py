"""What may be said about an object store besides its URL: a table of options a service. Checks, no I/O.

Names are obstore's; aliases are what s3fs, gcsfs, adlfs, the vendors' tools and the environment call the same
thing. A service's own prefix (``aws_``, ``google_``, ``azure_storage_``) may stand before any of its names.
"""

from __future__ import annotations

import os
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
    secret: bool = False
    """Never sent to another process, which finds its own in its environment."""


def _secret(name: str, *aliases: str, client: bool = False) -> Option:
    return Option(name, aliases, client=client, secret=True)


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
    elsewhere: str
    """How another process is given them, in words."""
    options: tuple[Option, ...]
    place_variables: tuple[tuple[str, str], ...] = ()
    """Other options that say where it is, each with an environment variable that stands for it."""

    def placed(self) -> dict[str, str]:
        """Options by which this environment says where its servers are, but for one that holds a password."""
        patterns = {option.name: option.pattern for option in self.options}
        return {
            name: value
            for name, variable in reversed(
                [*self.place_variables, *((self.endpoint, v) for v in self.endpoint_variables)]
            )
            if (value := os.environ.get(variable)) and re.fullmatch(patterns[name], value)
        }

    def all_options(self) -> tuple[Option, ...]:
        """Its own options and those of any connection."""
        return self.options + CONNECTION


CONNECTION: Final = (
    _flag("allow_http", client=True),
    _flag("allow_invalid_certificates", client=True),
    _duration("connect_timeout"),
    _duration("timeout"),
    _secret("proxy_url", client=True),  # may hold a password
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
        elsewhere=(
            "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the workers' environment, or profile=NAME of "
            "AWS's files, which the workers have too"
        ),
        options=(
            Option("endpoint", ("endpoint_url",), *_ADDRESS),
            Option("region", ("region_name", "default_region")),
            _secret("access_key_id", "access_key", "key"),
            _secret("secret_access_key", "secret_key", "secret"),
            _secret("session_token", "token"),
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
            _secret("sse_customer_key_base64"),
            _flag("s3_express"),
            Option("role_arn"),
            Option("role_session_name"),
            Option("web_identity_token_file"),
            Option("endpoint_url_sts", ("sts_endpoint",), *_ADDRESS),
            Option("metadata_endpoint", (), *_ADDRESS),
            _flag("imdsv1_fallback"),
        ),
        place_variables=(("region", "AWS_REGION"), ("region", "AWS_DEFAULT_REGION")),
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
        elsewhere=(
            "give GOOGLE_APPLICATION_CREDENTIALS in the workers' environment, or service_account=FILE, a file that "
            "the workers have too"
        ),
        options=(
            Option("base_url", ("endpoint", "endpoint_url"), *_ADDRESS),
            Option("service_account", ("service_account_path", "credentials_file")),
            _secret("service_account_key", "credentials_json"),
            Option("application_credentials", ("application_default_credentials",)),
            _secret("bearer_token", "token"),
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
        elsewhere=(
            "give AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN in the workers' environment, or use their "
            "identity"
        ),
        options=(
            Option("account_name", ("account",)),
            _secret("account_key", "access_key", "master_key", "key"),
            _secret("sas_key", "sas_token", "sas"),
            _secret("token", "bearer_token"),
            Option("client_id"),
            _secret("client_secret"),
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
            _secret("encryption_key"),
            Option("endpoint", ("endpoint_url",), *_ADDRESS),
            _ANONYMOUS,
        ),
        place_variables=(("account_name", "AZURE_STORAGE_ACCOUNT_NAME"),),
    ),
}
"""Scheme → service."""

_SECRETS: Final = {
    option.name for service in SERVICES.values() for option in service.all_options() if option.secret
}


@dataclass(frozen=True, repr=False)
class Settings:
    """Options as obstore takes them; never printed."""

    config: dict[str, str]
    """Of the service, by obstore's names."""
    client: dict[str, str]
    """Of the connection."""
    secrets: tuple[str, ...] = ()
    """Those of both that are secret, as they were given."""

    def plain(self) -> dict[str, str]:
        """Those that are no secret."""
        return {name: value for name, value in (self.config | self.client).items() if name not in _SECRETS}

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
        secrets=tuple(key for option, (key, _) in found.items() if option.secret),
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
