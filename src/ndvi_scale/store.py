"""Where output goes: a URL and options → `Store`. The only place that knows schemes and credentials.

A run keeps two things side by side: the Zarr group at the URL, and its own state (plan, ledger) at
``<URL>.run``. Both are object stores through obstore, so that a directory and a bucket behave alike: whole
objects, put at once, created only if absent where that is asked for.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from ndvi_scale.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from obstore.store import ObjectStore
    from zarr.storage import ObjectStore as ZarrStore

SCHEMES: Final = ("file", "s3")
STATE_SUFFIX: Final = ".run"
CLIENT_OPTIONS: Final = ("allow_http", "connect_timeout", "timeout", "proxy_url")
"""Storage options of the connection; all others are S3's. Among S3's they would work, but a store with such a key
cannot be pickled (obstore#755)."""


class _Root(Protocol):
    """A prefix that may not be there yet."""

    def existing(self) -> ObjectStore | None:
        """The prefix, or None where nothing can be in it."""
        ...

    def created(self) -> ObjectStore:
        """The prefix, made if need be."""
        ...

    def clean(self) -> None:
        """Remove what deleting every object leaves behind."""
        ...


@dataclass(frozen=True)
class _Folder:
    path: Path

    def existing(self) -> ObjectStore | None:
        return LocalStore(self.path) if self.path.is_dir() else None

    def created(self) -> ObjectStore:
        return LocalStore(self.path, mkdir=True)

    def clean(self) -> None:
        # Only what is empty: a file that object stores do not list, such as one of a half-done put, stays.
        for folder, _, _ in os.walk(self.path, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()


@dataclass(frozen=True)
class _Prefix:
    store: S3Store

    def existing(self) -> ObjectStore | None:
        return self.store

    def created(self) -> ObjectStore:
        return self.store

    def clean(self) -> None:
        """A bucket has no empty folders."""


@dataclass(frozen=True)
class Store:
    """An output location. Nothing is created before the first write; may be pickled and sent to workers."""

    url: str
    data: _Root
    """The Zarr group's objects."""
    state: _Root
    """The run's own objects."""

    def zarr(self, *, read_only: bool = False) -> ZarrStore:
        """The group's store as zarr-python wants it."""
        from zarr.storage import ObjectStore

        with self._reporting("opened"):
            root = self.data.existing() if read_only else self.data.created()
        if root is None:
            raise StoreError(f"{self.url} does not exist: nothing was written there yet")
        return ObjectStore(root, read_only=read_only)

    def put_state(self, name: str, data: bytes, *, create: bool = False) -> bool:
        """Write one object of the run's state; with `create` only if absent. False if it was there already.

        Raises StoreError when the location cannot be written.
        """
        with self._reporting("written"):
            try:
                obstore.put(self.state.created(), name, data, mode="create" if create else "overwrite")
            except AlreadyExistsError:
                return False
        return True

    def get_state(self, name: str) -> bytes | None:
        """One object of the run's state, or None if absent. Raises StoreError."""
        with self._reporting("read"):
            root = self.state.existing()
            try:
                return None if root is None else bytes(obstore.get(root, name).bytes())
            except FileNotFoundError:
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

    def delete(self) -> None:
        """Delete both prefixes whole; the caller has made sure that they are ours. Raises StoreError."""
        with self._reporting("deleted"):
            for root in (self.data, self.state):
                store = root.existing()
                names = self._names(root)
                if store is not None and names:
                    obstore.delete(store, names)
                root.clean()

    def _names(self, root: _Root, prefix: str = "") -> list[str]:
        return sorted(str(entry["path"]) for entry in self._entries(root, prefix))

    def _entries(self, root: _Root, prefix: str = "") -> list[Any]:
        with self._reporting("listed"):
            store = root.existing()
            if store is None:
                return []
            return [entry for batch in obstore.list(store, prefix or None) for entry in batch]

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise StoreError(f"{self.url} cannot be {what}: {brief(error)}{self._remedy()}") from None

    def _remedy(self) -> str:
        if not self.url.startswith("s3://"):
            return ""
        return (
            "; check that the bucket exists, the endpoint and region, and the keys (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or --storage-option; skip_signature=true where none are needed)"
        )


def brief(error: Exception) -> str:
    """The first line of an obstore error, without its debug dump."""
    return str(error).partition("\n")[0].strip() or type(error).__name__


def open_store(url: str | os.PathLike[str], options: Mapping[str, str] | None = None) -> Store:
    """The store at a path, ``file://`` or ``s3://bucket/prefix`` URL; creates nothing and asks nothing yet.

    `options`: for S3 those of obstore's S3Store (``endpoint``, ``region``, ``access_key_id``,
    ``skip_signature``, …); what is not given comes from the AWS environment variables. Raises StoreError for
    an unknown scheme or option, a bucket without a prefix, or a local path that cannot be written.
    """
    url = os.fspath(url)
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        path = Path(parts.path if parts.scheme == "file" else url).expanduser().absolute()
        return _local(url, path, options or {})
    if parts.scheme == "s3":
        return _s3(url, options or {})
    raise StoreError(
        f"unknown store scheme {parts.scheme!r} in {url}: give a path, or a URL with one of {', '.join(SCHEMES)}"
    )


def _local(url: str, path: Path, options: Mapping[str, str]) -> Store:
    if options:
        raise StoreError(f"storage option {next(iter(options))!r} has no meaning for the local path {url}")
    if path == path.parent:
        raise StoreError(f"{url} is the root of a file system: give a directory for the output")
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir():
        raise StoreError(f"{existing} is a file: give a path to a directory, such as {path.name}.zarr beside it")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StoreError(f"{url} cannot be written: no right to write in {existing}")
    return Store(str(path), _Folder(path), _Folder(path.with_name(path.name + STATE_SUFFIX)))


def _s3(url: str, options: Mapping[str, str]) -> Store:
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not parts.netloc or not prefix:
        raise StoreError(f"{url} names no object prefix: give s3://bucket/some/name.zarr, never a bucket's root")
    plain = {key.removeprefix("aws_"): value for key, value in options.items()}
    config = {key: value for key, value in plain.items() if key not in CLIENT_OPTIONS}
    client: Any = {key: value for key, value in plain.items() if key in CLIENT_OPTIONS}
    endpoint = config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        # Plain HTTP is for an S3 server of one's own, and saying its address says so.
        client.setdefault("allow_http", "true")
    try:
        stores = [
            S3Store(parts.netloc, prefix=name, client_options=client or None, config=config)  # pyright: ignore[reportArgumentType]
            for name in (prefix, prefix + STATE_SUFFIX)
        ]
    except BaseError as error:
        raise StoreError(f"storage options for {url} cannot be used: {brief(error)}") from None
    return Store(f"s3://{parts.netloc}/{prefix}", _Prefix(stores[0]), _Prefix(stores[1]))
