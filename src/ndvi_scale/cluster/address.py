"""A scheduler of Dask that is there already: it is used, and left as it is found."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import dask.config

from ndvi_scale.cluster.jobqueue import security
from ndvi_scale.cluster.private import is_loopback, require_private
from ndvi_scale.cluster.signals import ended_by_signals
from ndvi_scale.cluster.submit import DaskSubmit, workers_of
from ndvi_scale.cluster.versions import require_same
from ndvi_scale.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distributed import Client, Security

    from ndvi_scale.batch import Submit
    from ndvi_scale.cluster.spec import AddressSpec

CERTIFICATE_FILES: Final = ("ca.pem", "client.pem", "client-key.pem")

DASKS_OWN: Final = {"ca-file": "tls_ca_file", "client.cert": "tls_client_cert", "client.key": "tls_client_key"}
"""Dask's settings of a client's files, below ``distributed.comm.tls``, and what `Security` calls them."""

CONNECT: Final = 10.0
"""Seconds for one try to connect; also those in which a scheduler that is lost may come back before it is gone."""

AT_ONCE: Final = 2.0
"""Seconds of the first try: who waits longer is told what for."""

REFUSED: Final = 10.0
"""Seconds in which a scheduler of this machine may still start, where nobody listens at its port. Elsewhere `wait`
holds: what refuses there may be a service whose pod has yet to come."""

LOG = logging.getLogger(__name__)

UNREACHED: Final = (OSError, TimeoutError, ValueError, RuntimeError)
"""What `distributed` raises where no scheduler answers, or not as one."""


@contextmanager
def open_address(spec: AddressSpec) -> Iterator[Submit]:
    """A `Submit` on the workers of a scheduler; both go on living afterwards.

    Raises ConfigError for an address that may not be used, ClusterError where nobody answers within `spec.wait`,
    no worker is there within it, or versions differ.
    """
    spec = replace(spec, scheduler=spec.scheduler or _dasks_own_scheduler())
    address = read_address(spec.scheduler)
    keys = _keys(spec, address)
    with ended_by_signals(), _connected(spec, address, keys) as submit:
        yield submit


@contextmanager
def _connected(spec: AddressSpec, address: str, keys: Security | None) -> Iterator[Submit]:
    from ndvi_scale.cluster.plugin import prepare

    until = time.monotonic() + spec.wait
    client = _client(address, keys, spec.wait)
    try:
        note = _wait_for_workers(client, spec, until)
        require_same(client)
        prepare(client, spec)
        _, most = spec.bounds() or (0, 0)
        yield DaskSubmit(client, expected=most * (spec.threads + 1), look_after=_Watch(spec), note=note)
    finally:
        client.close()


def _dasks_own_scheduler() -> str:
    """The one that Dask's settings name, as they do in a pod of a DaskJob. Raises ConfigError."""
    address = dask.config.get("scheduler-address", None)
    if not address:
        raise ConfigError(
            "an address cluster needs the scheduler's address: give scheduler = such as tls://10.0.0.1:8786, or "
            "set DASK_SCHEDULER_ADDRESS"
        )
    return str(address)


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
    if scheme in ("tls", "tcp") and not (host and _port(address)):
        raise ConfigError(f"scheduler {address} has no port: give all of it, as {scheme}://{host or 'host'}:8786")
    if scheme == "tls":
        return _certificate(spec, address)
    if scheme != "tcp":
        raise ConfigError(f"scheduler {address} has scheme {scheme}: give tls://host:port, or tcp:// on loopback")
    if not is_loopback(host):
        raise ConfigError(
            f"scheduler {address} is off this machine and not encrypted: whoever reaches it runs code as you; "
            "start it with --tls-ca-file, --tls-cert and --tls-key, and give tls://… and certificate = FOLDER"
        )
    return None


def _certificate(spec: AddressSpec, address: str) -> Security:
    if spec.certificate is None:
        return _dasks_own_certificate(address)
    folder = Path(spec.certificate).expanduser()
    for name in CERTIFICATE_FILES:
        if not (folder / name).is_file():
            raise ConfigError(f"certificate folder {folder} has no {name}: it needs {', '.join(CERTIFICATE_FILES)}")
    require_private(folder / CERTIFICATE_FILES[-1])
    return security(str(folder))


def _dasks_own_certificate(address: str) -> Security:
    """Of the files that Dask's settings name, as they do in a pod with a secret. Raises ConfigError."""
    from distributed import Security

    own = Security(require_encryption=True)
    files = {f"distributed.comm.tls.{name}": getattr(own, attribute) for name, attribute in DASKS_OWN.items()}
    if not all(files.values()):
        raise ConfigError(
            f"scheduler {address} needs a certificate: give certificate = a folder with "
            f"{', '.join(CERTIFICATE_FILES)}, or set Dask's own {', '.join(files)}"
        )
    for name, file in files.items():
        if not Path(file).is_file():
            raise ConfigError(f"there is no file {file}, which Dask's {name} names: mount it, or name another")
    require_private(Path(own.tls_client_key))
    return own


def connect(address: str, wait: float, keys: Security | None = None) -> Client:
    """A client of a scheduler, tried for so many seconds. Raises one of `UNREACHED`."""
    from distributed import Client

    until = time.monotonic() + wait
    while True:
        try:
            _greet(address, keys, min(CONNECT, wait))
            return Client(address, timeout=CONNECT, security=keys, set_as_default=False)
        except UNREACHED:
            if time.monotonic() >= until:
                raise
            time.sleep(0.1)


def _greet(address: str, keys: Security | None, wait: float) -> None:
    """Make sure that a scheduler answers. A `Client` waits for ever for one that is connected and says nothing.

    Raises one of `UNREACHED`.
    """
    from distributed.comm.core import connect as dial
    from distributed.utils import LoopRunner

    async def greet() -> None:
        proof = keys.get_connection_args("client") if keys is not None else {}
        comm = await asyncio.wait_for(dial(address, timeout=wait, **proof), wait + 0.1)
        await comm.close()

    runner = LoopRunner()  # a notebook has a loop of its own
    runner.start()
    try:
        runner.run_sync(greet)
    finally:
        runner.stop()


def _client(address: str, keys: Security | None, wait: float) -> Client:
    """A client of a scheduler that is there or comes; says what is waited for. Raises ClusterError."""
    here = is_loopback(urlsplit(address).hostname or "")
    began, patience, limit = time.monotonic(), wait, AT_ONCE
    refused, said = False, False
    while (left := began + patience - time.monotonic()) > 0:
        refused = _refuses(address, min(AT_ONCE, left))
        patience = min(wait, REFUSED) if refused and here else wait
        if refused:
            time.sleep(min(0.2, left))
        else:
            try:
                return connect(address, min(limit, left), keys)
            except UNREACHED:
                limit = CONNECT
        left = began + patience - time.monotonic()
        if not said and time.monotonic() - began >= min(AT_ONCE, patience) and left > 0:
            said = True
            why = "nobody listens there yet" if refused else "no answer yet"
            LOG.warning("waiting for a scheduler at %s for up to %.0f s: %s", address, left, why)
    if refused:
        told = ": nobody listens there (connection refused); start it, or give the address of one that runs"
    else:
        told = (
            f" within {wait:g} s: is it running, reachable from here, and is the certificate the one that it was "
            "started with?"
        )
    raise ClusterError(f"no scheduler answers at {address}{told}")


def _refuses(address: str, wait: float) -> bool:
    """Whether the machine answers within so many seconds, and nobody listens at the port.

    Asked of a plain socket: Dask tells a refusal as any other silence, at the end of its own tries.
    """
    try:
        socket.create_connection((urlsplit(address).hostname or "", _port(address)), wait).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass  # no such name, no way there, no answer: whoever connects then says so
    return False


def _port(address: str) -> int:
    """The port that an address names; 0 where it names none that can be."""
    try:
        return urlsplit(address).port or 0
    except ValueError:
        return 0


def _wait_for_workers(client: Any, spec: AddressSpec, until: float) -> str:
    """Wait for `spec.workers` of them, or one. Raises ClusterError where none comes."""
    wanted = spec.workers or 1
    count, said = 0, False
    while True:
        count = len(workers_of(client))
        now = time.monotonic()
        if count >= wanted or now > until:
            break
        if not said:
            said = True
            LOG.warning(
                "the scheduler at %s has %d of %d workers: waiting for up to %.0f s",
                spec.scheduler,
                count,
                wanted,
                until - now,
            )
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
