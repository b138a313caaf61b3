"""A scheduler of Dask that is there already: it is used, and left as it is found."""

from __future__ import annotations

import ipaddress
import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ndvi_scale.cluster.jobqueue import security
from ndvi_scale.cluster.submit import DaskSubmit
from ndvi_scale.cluster.versions import require_same
from ndvi_scale.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distributed import Security

    from ndvi_scale.batch import Submit
    from ndvi_scale.cluster.spec import AddressSpec

CERTIFICATE_FILES: Final = ("ca.pem", "client.pem", "client-key.pem")

CONNECT: Final = 10.0
"""Seconds for one try to connect; also those in which a scheduler that is lost may come back before it is gone."""


@contextmanager
def open_address(spec: AddressSpec) -> Iterator[Submit]:
    """A `Submit` on the workers of a scheduler; both go on living afterwards.

    Raises ConfigError for an address that may not be used, ClusterError where nobody answers within `spec.wait`,
    no worker is there within it, or versions differ.
    """
    from ndvi_scale.cluster.plugin import prepare

    address = read_address(spec.scheduler)
    keys = _keys(spec, address)
    until = time.monotonic() + spec.wait
    client = _client(address, keys, spec.wait)
    try:
        note = _wait_for_workers(client, spec, until)
        require_same(client)
        prepare(client, spec)
        yield DaskSubmit(client, look_after=_Watch(spec), note=note)
    finally:
        client.close()


def read_address(scheduler: str) -> str:
    """The address itself, of an address or a scheduler file. Raises ConfigError."""
    if "://" in scheduler:
        return scheduler
    path = Path(scheduler).expanduser()
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{scheduler!r} is no address (such as tls://10.0.0.1:8786) and no scheduler file, as `dask scheduler "
            "--scheduler-file` writes it"
        ) from None


def _keys(spec: AddressSpec, address: str) -> Security | None:
    """What proves who we are. Raises ConfigError: in the clear, whoever reaches a scheduler runs code there."""
    scheme, host = urlsplit(address).scheme, urlsplit(address).hostname or ""
    if scheme == "tls":
        return _certificate(spec, address)
    if scheme != "tcp":
        raise ConfigError(f"scheduler {address} has scheme {scheme}: give tls://host:port, or tcp:// on loopback")
    if not _is_loopback(host):
        raise ConfigError(
            f"scheduler {address} is off this machine and not encrypted: whoever reaches it runs code as you; "
            "start it with --tls-ca-file, --tls-cert and --tls-key, and give tls://… and certificate = FOLDER"
        )
    return None


def _certificate(spec: AddressSpec, address: str) -> Security:
    if spec.certificate is None:
        raise ConfigError(
            f"scheduler {address} needs a certificate: give certificate = a folder with "
            f"{', '.join(CERTIFICATE_FILES)}"
        )
    folder = Path(spec.certificate).expanduser()
    for name in CERTIFICATE_FILES:
        if not (folder / name).is_file():
            raise ConfigError(f"certificate folder {folder} has no {name}: it needs {', '.join(CERTIFICATE_FILES)}")
    if (folder / CERTIFICATE_FILES[-1]).stat().st_mode & 0o077:
        raise ConfigError(f"{folder / CERTIFICATE_FILES[-1]} can be read by others: chmod 600 it")
    return security(str(folder))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _client(address: str, keys: Security | None, wait: float) -> Any:
    from distributed import Client

    until = time.monotonic() + wait
    while True:
        try:
            return Client(address, timeout=min(CONNECT, wait), security=keys, set_as_default=False)
        except (OSError, TimeoutError, ValueError, RuntimeError):
            if time.monotonic() < until:
                continue
        raise ClusterError(
            f"no scheduler answers at {address} within {wait:g} s: is it running, reachable from here, and is "
            "the certificate the one that it was started with?"
        ) from None


def _wait_for_workers(client: Any, spec: AddressSpec, until: float) -> str:
    """Wait for `spec.workers` of them, or one. Raises ClusterError where none comes."""
    wanted = spec.workers or 1
    count = 0
    while True:
        count = len(client.scheduler_info(n_workers=-1)["workers"])
        if count >= wanted or time.monotonic() > until:
            break
        time.sleep(0.1)
    if not count:
        raise ClusterError(
            f"the scheduler at {spec.scheduler} has no worker, and none came in {spec.wait:g} s: start some with "
            f"`dask worker {spec.scheduler}`"
        )
    return f"{count} workers are at {spec.scheduler}" + (f", of {wanted}" if count < wanted else "")


class _Watch:
    """Raises when the scheduler has been without a worker for as long as workers are waited for."""

    def __init__(self, spec: AddressSpec) -> None:
        self._spec = spec
        self._alive_at = time.monotonic()

    def __call__(self, alive: Iterable[str]) -> None:
        if any(alive):
            self._alive_at = time.monotonic()
        elif time.monotonic() - self._alive_at > self._spec.wait:
            raise ClusterError(
                f"the scheduler at {self._spec.scheduler} has had no worker for {self._spec.wait:g} s: what is "
                "written is whole; start workers and run the same command again"
            )
