"""Places where objects lie, each as obstore sees it: a folder, a prefix in a bucket, a name in memory."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from obstore.store import LocalStore, MemoryStore

from ndvi_scale.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store
    from zarr.storage import ObjectStore as ZarrStore


class Place(ABC):
    """A prefix that may not be there yet."""

    @abstractmethod
    def existing(self) -> ObjectStore | None:
        """The prefix, or None where nothing can be in it."""

    @abstractmethod
    def created(self) -> ObjectStore:
        """The prefix, made if need be."""

    def clean(self) -> None:
        """Remove what deleting every object leaves behind; nothing in a bucket or in memory."""
        return

    def zarr(self, store: ObjectStore, *, read_only: bool) -> ZarrStore:
        """The prefix as zarr-python wants it."""
        from zarr.storage import ObjectStore

        return ObjectStore(store, read_only=read_only)


@dataclass(frozen=True)
class Folder(Place):
    """A directory."""

    path: Path

    def existing(self) -> ObjectStore | None:
        """The directory, or None."""
        return LocalStore(self.path) if self.path.is_dir() else None

    def created(self) -> ObjectStore:
        """The directory, made with its parents."""
        return LocalStore(self.path, mkdir=True)

    def clean(self) -> None:
        """Remove empty folders only: a file that object stores do not list, such as a half-done put, stays."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()


@dataclass(frozen=True)
class Prefix(Place):
    """A prefix in a bucket or container."""

    store: S3Store | GCSStore | AzureStore

    def existing(self) -> ObjectStore | None:
        """The prefix: whether anything is in it, only a request can tell."""
        return self.store

    def created(self) -> ObjectStore:
        """The prefix, which needs no making."""
        return self.store


_MEMORY: Final[dict[str, MemoryStore]] = {}
"""Name → objects, for as long as this process lives."""


@dataclass(frozen=True)
class Memory(Place):
    """A name in this process's memory."""

    name: str

    def existing(self) -> ObjectStore | None:
        """What was put under the name, or None."""
        return _MEMORY.get(self.name)

    def created(self) -> ObjectStore:
        """What is put under the name."""
        return _MEMORY.setdefault(self.name, MemoryStore())

    def zarr(self, store: ObjectStore, *, read_only: bool) -> ZarrStore:
        """Like any other's, but says why it cannot be sent away."""
        from zarr.storage import ObjectStore

        refuse = self.__reduce__

        class InMemory(ObjectStore):
            def __getstate__(self) -> NoReturn:
                refuse()

            def __deepcopy__(self, _: object) -> InMemory:
                return self  # xarray copies lazy variables together with their store

        return InMemory(store, read_only=read_only)

    def __reduce__(self) -> NoReturn:
        raise StoreError(
            f"memory://{self.name} is in this process alone and cannot be sent to another: use threads, or a path "
            "or bucket that the workers reach too"
        )


def brief(error: Any) -> str:
    """An obstore error in a line: what failed and the service's code; no query, password, body or dump."""
    text = str(error)
    line = text.partition("\n")[0]
    status = re.search(r"status code: \d{3}(?: [A-Za-z]+)*", line)
    if status:  # what a server says after it may repeat what it was sent
        line = line[: status.end()]
    line = re.sub(r"(https?://)[^/\s@]*@", r"\1", line)
    line = re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", line)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    return f"{line}, {code[1]}" if code else line or type(error).__name__


def without_credentials(error: Any) -> bool:
    """Whether a request failed because the search for credentials ended, in vain, at the machine's own role."""
    return "169.254.169.254" in str(error) or "metadata.google.internal" in str(error)


def lacks_bucket(error: Any) -> bool:
    """Whether a service says that not only an object but its bucket is absent."""
    return re.search(r"<Code>(NoSuchBucket|ContainerNotFound)</Code>", str(error)) is not None
