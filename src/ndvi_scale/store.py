"""Where output goes: a URL and options → `Store`. The only place that knows schemes and credentials.

A run keeps two things side by side: the Zarr group at the URL, and its own state (plan, ledger) at
``<URL>.run``. All of them are object stores through obstore, so that a directory, a bucket and this process's
memory behave alike: whole objects, put at once, created only if absent where that is asked for.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from ndvi_scale.aws_profile import read_profile
from ndvi_scale.errors import StoreError
from ndvi_scale.places import Folder, Memory, Place, Prefix, brief, lacks_bucket, without_credentials
from ndvi_scale.storage_options import SERVICES, Service, Settings, read_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from urllib.parse import SplitResult

    from zarr.storage import ObjectStore as ZarrStore

CLOUD: Final = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
"""Service → its client."""
ALIASES: Final = {"abfs": "az", "abfss": "az"}
"""Other schemes of the same services."""
SCHEMES: Final = ("file", "memory", *CLOUD, *ALIASES)
STATE_SUFFIX: Final = ".run"
RETRY: Final = {"max_retries": 10, "retry_timeout": timedelta(seconds=60)}
"""A busy server is asked again for a minute. obstore's own three are long to wait for a wrong address."""
PATIENCE: Final = {
    "max_retries": 1000,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5), "base": 2},
}
"""A server that has answered before is waited for: ten tries are over in four seconds where nobody listens."""
NO_OAUTH: Final = json.dumps({"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": True})
"""Stands for a GCS key. Without one ``skip_signature`` holds for reading only, and a put looks for credentials."""


@dataclass(frozen=True)
class Origin:
    """What a store of a service was opened with, but for secrets: enough to open it where these are known too."""

    url: str
    options: dict[str, str]
    group: str
    secrets: tuple[str, ...] = ()
    """Names of the options given that are secret."""
    elsewhere: str = ""
    """How another process is given them instead."""


@dataclass(frozen=True)
class Store:
    """An output location. Nothing is created before the first write.

    It may be sent to another process, which opens it anew: keys do not go along, it takes those of its own
    environment.
    """

    url: str
    data: Place
    """The Zarr group's objects."""
    state: Place
    """The run's own objects."""
    origin: Origin | None = field(default=None, repr=False, compare=False)
    """How a service's is opened anew; None where there is nothing secret about it."""
    waiting: tuple[Place, Place] | None = field(default=None, repr=False, compare=False)
    """`data` and `state` as `patient` has them, where that makes a difference."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Raises StoreError where secret options were given: what is sent may lie in a scheduler, or in a file."""
        if self.origin is None:
            return Store, (self.url, self.data, self.state)
        origin = self.origin
        if origin.secrets:
            raise StoreError(
                f"storage option {origin.secrets[0]!r} of {self.url} is secret, and nothing secret is sent to "
                f"another process: leave it out and {origin.elsewhere}"
            )
        return _opened_anew, (origin.url, origin.options, origin.group)

    def require_sendable(self) -> None:
        """Make sure that other processes can use it. Raises StoreError."""
        pickle.dumps(self)

    def patient(self) -> Store:
        """The same store, for who knows that it is there: what does not answer is asked again for minutes."""
        return replace(self, data=self.waiting[0], state=self.waiting[1]) if self.waiting else self

    def zarr(self, *, read_only: bool = False) -> ZarrStore:
        """The group's store as zarr-python wants it."""
        with self.reporting("opened"):
            root = self.data.existing() if read_only else self.data.created()
        if root is None:
            raise StoreError(f"{self.url} does not exist: nothing was written there yet")
        return self.data.zarr(root, read_only=read_only)

    def put_state(self, name: str, data: bytes, *, create: bool = False) -> bool:
        """Write one object of the run's state; with `create` only if absent: False if it was, with other bytes.

        With the same bytes it may be ours: a service that dies has perhaps written what it did not confirm, and is
        asked again. Raises StoreError when the location cannot be written.
        """
        with self.reporting("written"):
            try:
                obstore.put(self.state.created(), name, data, mode="create" if create else "overwrite")
            except AlreadyExistsError:
                return self.get_state(name) == data
        return True

    def get_state(self, name: str) -> bytes | None:
        """One object of the run's state, or None if absent. Raises StoreError."""
        return self._get(self.state, name)

    def get_data(self, name: str) -> bytes | None:
        """One object under the group's URL, or None if absent. Raises StoreError."""
        return self._get(self.data, name)

    def put_data(self, name: str, data: bytes) -> None:
        """Write one object under the group's URL. Raises StoreError."""
        with self.reporting("written"):
            obstore.put(self.data.created(), name, data)

    def _get(self, place: Place, name: str) -> bytes | None:
        with self.reporting("read"):
            root = place.existing()
            try:
                return None if root is None else bytes(obstore.get(root, name).bytes())
            except FileNotFoundError as error:
                if lacks_bucket(error):
                    raise
                return None

    def state_names(self, prefix: str = "") -> list[str]:
        """Names of the run's state objects, sorted. Raises StoreError."""
        return self._names(self.state, prefix)

    def data_names(self) -> list[str]:
        """Names of all objects under the group's URL, sorted. Raises StoreError."""
        return self._names(self.data)

    def data_size(self) -> tuple[int, int]:
        """Number of objects under the group's URL and their bytes. Raises StoreError."""
        sizes = [entry["size"] for entry in self._entries(self.data)]
        return len(sizes), sum(sizes)

    def delete_state(self, names: Sequence[str]) -> None:
        """Delete objects of the run's state that are there. Raises StoreError."""
        self._delete(self.state, names)

    def delete_data(self, names: Sequence[str]) -> None:
        """Delete objects under the group's URL that are there. Raises StoreError."""
        self._delete(self.data, names)

    def _delete(self, place: Place, names: Sequence[str]) -> None:
        with self.reporting("deleted"):
            root = place.existing()
            if root is None or not names:
                return
            try:
                obstore.delete(root, names)
            except FileNotFoundError:  # of folders; a bucket does not mind
                for name in names:
                    with suppress(FileNotFoundError):
                        obstore.delete(root, name)

    def delete(self) -> None:
        """Delete both prefixes whole; the caller has made sure that they are ours. Raises StoreError."""
        with self.reporting("deleted"):
            for root in (self.data, self.state):
                self._delete(root, self._names(root))
                root.clean()

    def _names(self, root: Place, prefix: str = "") -> list[str]:
        return sorted(str(entry["path"]) for entry in self._entries(root, prefix))

    def _entries(self, root: Place, prefix: str = "") -> list[Any]:
        with self.reporting("listed"):
            store = root.existing()
            if store is None:
                return []
            return [entry for batch in obstore.list(store, prefix or None) for entry in batch]

    @contextmanager
    def reporting(self, what: str) -> Iterator[None]:
        """Turn what obstore raises within into one StoreError: what cannot be done, why, what to check."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise StoreError(f"{self.url} cannot be {what}: {self._why(error)}") from None

    def _why(self, error: Exception) -> str:
        service = SERVICES.get(ALIASES.get(scheme := urlsplit(self.url).scheme, scheme))
        if service is None:
            return brief(error)
        if lacks_bucket(error):
            return f"there is no such {service.place} ({brief(error)}); make it, or correct its name"
        if without_credentials(error):
            return (
                f"no credentials were found, and this machine has no role that gives some; check {service.remedy}"
            )
        return f"{brief(error)}; check that the {service.place} exists, and {service.remedy}"


def open_store(
    url: str | os.PathLike[str],
    options: Mapping[str, str] | None = None,
    *,
    group: str = "",
    read_only: bool = False,
) -> Store:
    """The store at a path or URL, or a group in it; creates nothing and asks nothing yet.

    URLs: ``file:///path``, ``s3://bucket/name.zarr``, ``gs://bucket/name.zarr``, ``az://container/name.zarr``
    (``abfs://container@account.dfs.core.windows.net/name.zarr``), and ``memory://name``, which lives as long as
    this process. `options`: those of `storage_options.SERVICES`; what is not given comes from the environment,
    or from the machine's role. `read_only`: nothing will be written. Raises StoreError for an unknown scheme or
    option, a bucket without a prefix, or a local path that cannot be written where it has to be.
    """
    url = os.fspath(url)
    parts = urlsplit(url)
    below = f"/{group}" if group else ""
    if parts.scheme in ("", "file"):
        path = Path(parts.path if parts.scheme == "file" else url).expanduser().absolute()
        _no_options(url, options or {})
        return _local(url, path, below, read_only=read_only)
    if parts.scheme == "memory":
        return _memory(parts, options or {}, below)
    service = ALIASES.get(parts.scheme, parts.scheme)
    if service in CLOUD:
        return _cloud(service, _checked(parts), options or {}, group)
    near = get_close_matches(parts.scheme, SCHEMES, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise StoreError(
        f"unknown store scheme {parts.scheme!r} in {_shown(parts)}: give a path, or a URL with one of "
        f"{', '.join(SCHEMES)}{hint}"
    )


def _opened_anew(url: str, options: dict[str, str], group: str) -> Store:
    """A store that comes from another process."""
    return open_store(url, options, group=group)


def _shown(parts: SplitResult) -> str:
    """A URL without what may be secret in it: a password, a query."""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _local(url: str, path: Path, below: str, *, read_only: bool) -> Store:
    if path == path.parent:
        raise StoreError(f"{url} is the root of a file system: give a directory for the output")
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir():
        raise StoreError(
            f"{existing} is a file: give a path to a directory, such as {existing.name}.zarr beside it"
        )
    if not read_only and not os.access(existing, os.W_OK | os.X_OK):
        raise StoreError(f"{url} cannot be written: no right to write in {existing}")
    state = path.with_name(path.name + STATE_SUFFIX)
    return Store(f"{path}{below}", Folder(Path(f"{path}{below}")), Folder(Path(f"{state}{below}")))


def _memory(parts: SplitResult, options: Mapping[str, str], below: str) -> Store:
    name = (parts.netloc + parts.path).strip("/")
    _no_options(_shown(parts), options)
    if not name:
        raise StoreError(f"{_shown(parts)} names nothing: give memory://name")
    return Store(f"memory://{name}{below}", Memory(name + below), Memory(name + STATE_SUFFIX + below))


def _no_options(url: str, options: Mapping[str, str]) -> None:
    if options:
        raise StoreError(f"storage option {next(iter(options))!r} has no meaning for {url}: leave it out")


def _checked(parts: SplitResult) -> SplitResult:
    """A URL of a service that names a prefix and holds nothing secret."""
    user, at, _ = parts.netloc.rpartition("@")
    if parts.query or parts.fragment or ":" in user or (at and parts.scheme not in ALIASES):
        raise StoreError(
            f"{_shown(parts)} comes with a user, query or fragment: credentials are given as storage options or in "
            "the environment, never in a URL"
        )
    if not parts.netloc or not parts.path.strip("/"):
        example = f"{parts.scheme}://{SERVICES[ALIASES.get(parts.scheme, parts.scheme)].place}/some/name.zarr"
        raise StoreError(f"{_shown(parts)} names no object prefix: give {example}, never a bucket's root")
    return parts


def _cloud(name: str, parts: SplitResult, options: Mapping[str, str], group: str) -> Store:
    below = f"/{group}" if group else ""
    service, prefix = SERVICES[name], parts.path.strip("/")
    place, account = _place_and_account(parts)
    url = f"{parts.scheme}://{parts.netloc}/{prefix}"
    settings = read_options(service, url, options)
    if account:
        settings.config.setdefault("account_name", account)
    given = settings.plain()
    _complete(name, url, settings)
    # Where it is goes along: another process's environment might name another server, whose bucket is not ours.
    options = service.placed() | given | settings.plain()
    origin = Origin(url, options, group, settings.secrets, service.elsewhere)
    _allow_plain_http(service, settings)
    try:
        data, state, *waiting = (
            Prefix(
                CLOUD[name](
                    place,
                    prefix=prefix + suffix + below,
                    config=settings.config,
                    client_options=settings.client or None,
                    retry_config=retry,
                )
            )
            for retry in (RETRY, PATIENCE)
            for suffix in ("", STATE_SUFFIX)
        )
    except (BaseError, ValueError) as error:
        # What stands in quotes may come from a key file.
        why = re.sub(r"\"[^\"]*\"|`[^`]*`", "…", brief(error))
        raise StoreError(f"{url} cannot be opened with these settings: {why}; check {service.remedy}") from None
    return Store(url + below, data, state, origin, (waiting[0], waiting[1]))


def _place_and_account(parts: SplitResult) -> tuple[str, str]:
    """Bucket or container; and the account where an ``abfs`` URL names it."""
    place, at, host = parts.netloc.partition("@")
    account, _, domain = host.partition(".")
    if at and (not place or domain != "dfs.core.windows.net"):
        raise StoreError(
            f"{_shown(parts)} is not {parts.scheme}://container@account.dfs.core.windows.net/name.zarr: give that, "
            "or az://container/name.zarr with the options account_name and endpoint"
        )
    return place, account


def _complete(name: str, url: str, settings: Settings) -> None:
    """Add what obstore does not find out itself: an AWS profile; that GCS takes no credentials."""
    config = settings.config
    anonymous = config.get("skip_signature", "").lower() == "true"
    if name == "az" and (account := os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")):
        config.setdefault("account_name", account)  # obstore finds it as well, and panics when it shows the store
    if "sas_key" in config:
        config["sas_key"] = config["sas_key"].removeprefix("?")  # as the portal shows it
    if name == "gs" and anonymous:
        config.setdefault("service_account_key", NO_OAUTH)
    if name != "s3":
        return
    keys_given = "access_key_id" in config or bool(os.environ.get("AWS_ACCESS_KEY_ID"))
    profile = config.pop("profile", None)
    if profile and "access_key_id" in config:
        raise StoreError(f"both profile and access_key_id are given for {url}: give one of them")
    if profile is None and not keys_given and not anonymous:
        profile = os.environ.get("AWS_PROFILE")
    if profile:
        for key, value in read_profile(profile).items():
            config.setdefault(key, value)
    if "access_key_id" in config and "session_token" not in config and os.environ.get("AWS_SESSION_TOKEN"):
        raise StoreError(
            f"AWS_SESSION_TOKEN in the environment is not of the keys given for {url}: unset it, or give its own "
            "as session_token"
        )


def _allow_plain_http(service: Service, settings: Settings) -> None:
    """Plain HTTP is for a server of one's own, and saying its address says so."""
    variables = (os.environ.get(variable, "") for variable in service.endpoint_variables)
    endpoint = settings.config.get(service.endpoint) or next(filter(None, variables), "")
    if endpoint.startswith("http://"):
        settings.client.setdefault("allow_http", "true")
