"""A Dask Gateway as it is asked: what may be sent there, who we are, what it answers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ndvi_scale.cluster.private import is_loopback, require_private
from ndvi_scale.cluster.spec import GATEWAY_PASSWORD, near
from ndvi_scale.errors import ClusterError, ConfigError
from ndvi_scale.outside import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ndvi_scale.cluster.spec import GatewaySpec

WORKERS: Final = 2
"""Asked for where nothing is said."""

ANSWER: Final = 20.0
"""Seconds that the gateway has for an answer."""

PATIENCE: Final = 5.0
"""Seconds in which a gateway that does not answer may come back: one that is updated is away for a few."""

OVER: Final = ("STOPPING", "STOPPED", "FAILED")
"""What a gateway says of clusters that it has ended."""

SHOWN: Final = 300
"""Characters of what a server says that are shown."""

LOG = logging.getLogger(__name__)


@contextmanager
def open_server(spec: GatewaySpec) -> Iterator[GatewayServer]:
    """A gateway to ask; nothing is sent yet. Raises ConfigError for what may not be sent, or is not installed."""
    from distributed.utils import LoopRunner

    try:
        import dask_gateway  # noqa: F401 - whether it is there; it brings its own settings along
    except ImportError:
        raise ConfigError("a gateway cluster needs dask-gateway: pip install 'ndvi-scale[gateway]'") from None
    runner = LoopRunner(asynchronous=False)
    runner.start()
    try:
        server = GatewayServer(runner, runner.run_sync(_gateway, spec))
        try:
            yield server
        finally:
            server.close()
    finally:
        runner.stop()


async def _gateway(spec: GatewaySpec) -> Any:
    """A client of the gateway; nothing is sent yet. Raises ConfigError for what may not be sent."""
    from dask_gateway import Gateway

    proxy = spec.proxy_address
    try:
        gateway = Gateway(
            address=spec.address or None,
            proxy_address=int(proxy) if proxy is not None and proxy.isdecimal() else proxy,
            auth=_auth(spec),
            asynchronous=True,
        )
    except ImportError as error:
        raise ConfigError(f"auth of the gateway: {error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(_unmade(error)) from None
    _require_private(gateway.address, from_hub=not spec.address and "JUPYTERHUB_API_URL" in os.environ)
    return gateway


def _unmade(error: Exception) -> str:
    told = str(error)
    if "JUPYTERHUB_API_TOKEN" in told:
        return (
            "auth jupyterhub needs a token, and JUPYTERHUB_API_TOKEN is not set: a hub sets it for you; outside, "
            "make one on the hub's page Token, and export it"
        )
    if "address" in told:
        return (
            "a gateway cluster needs the gateway's address, and neither profile nor dask's settings have one: give "
            'address = "https://…", or DASK_GATEWAY__ADDRESS (a DaskHub sets it)'
        )
    return f"dask's own settings of the gateway are not right: {type(error).__name__}: {told}"


def _require_private(address: str, *, from_hub: bool) -> None:
    """Raises ConfigError where others could read along: passwords and tokens, and the keys of clusters."""
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise ConfigError(
            f"the gateway's address, at {parts.hostname}, holds a name or a password: leave them out, and give "
            f"username and password_file, or {GATEWAY_PASSWORD}"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(
            f"gateway address {printable(address)!r} is no URL: give such as https://hub.example.org/services/dask-gateway"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not from_hub:
        raise ConfigError(
            f"gateway {address} is off this machine and not encrypted: passwords and the keys of clusters could be "
            "read on the way; give an https:// address"
        )


def _auth(spec: GatewaySpec) -> Any:
    """What proves who we are; None leaves it to dask's settings. Raises ConfigError."""
    import dask.config
    from dask_gateway.auth import BasicAuth

    kind = spec.auth or dask.config.get("gateway.auth.type", "basic")
    if kind != "basic":
        return _kerberos_there(kind)
    password = _password(spec)
    if password is None and spec.username is None:
        return kind
    known = dask.config.get("gateway.auth.kwargs", None) or {}
    given = {"username": spec.username, "password": password}
    return BasicAuth(**{**known, **{name: value for name, value in given.items() if value is not None}})


def _kerberos_there(kind: str) -> str:
    if kind == "kerberos":
        try:
            import kerberos  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(
                "auth kerberos of a gateway needs the module kerberos: pip install 'dask-gateway[kerberos]', and "
                "kinit"
            ) from None
    return kind


def _password(spec: GatewaySpec) -> str | None:
    """Raises ConfigError for a file that is absent, or readable by others."""
    if spec.password_file is None:
        return os.environ.get(GATEWAY_PASSWORD)
    path = Path(spec.password_file).expanduser()
    try:
        require_private(path)
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"password file {path} cannot be read: {type(error).__name__}; give another") from None


@dataclass
class GatewayServer:
    """A gateway: each question has a deadline, and what goes wrong is said in words of ours."""

    runner: Any
    gateway: Any
    _submitting: asyncio.Future[str] | None = None
    _name: str = ""

    @property
    def address(self) -> str:
        """Where it is; nothing secret is in it."""
        return self.gateway.address

    def offered(self, wanted: dict[str, Any]) -> Any:
        """The gateway's options with the values that are wanted. Raises ConfigError for what it does not offer."""
        try:
            options = self._ask(self.gateway.cluster_options, patience=PATIENCE)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClusterError(
                f"{self.address} does not answer as a Dask Gateway does ({_told(error)}): give the address with "
                "its path, such as https://hub.example.org/services/dask-gateway"
            ) from None
        for name, value in wanted.items():
            if name not in options:
                raise ConfigError(
                    f"{name!r} is no option of the gateway at {self.address}{near(name, options)}: it has "
                    f"{', '.join(sorted(options)) or 'none'}"
                )
            try:
                options[name] = value
            except (TypeError, ValueError) as error:
                raise ConfigError(f"option of the gateway at {self.address}: {_told(error)}") from None
        return options

    def submit(self, options: Any) -> str:
        """Ask for a cluster; its name. Raises ConfigError where the gateway refuses these options."""
        try:
            self._name = self._ask(self._submit, options)
        except ValueError as error:
            raise ConfigError(f"the gateway at {self.address} refuses these options: {_told(error)}") from None
        return self._name

    async def _submit(self, options: Any) -> str:
        # Kept: a submission that Ctrl-C cuts short may have been taken, and its cluster has to be stopped as well.
        self._submitting = submitting = asyncio.ensure_future(self.gateway.submit(options))
        return await asyncio.shield(submitting)

    def report(self) -> Any:
        """How the cluster fares. Raises ClusterError."""
        try:
            return self._ask(self.gateway.get_cluster, self._name, patience=PATIENCE)
        except ValueError as error:
            raise ClusterError(
                f"the gateway at {self.address} has lost cluster {self._name}: {_told(error)}"
            ) from None

    def scale(self, spec: GatewaySpec) -> str:
        """Ask for workers; what the gateway objects, if it does."""
        return self._ask(self._scale, spec)

    async def _scale(self, spec: GatewaySpec) -> str:
        from dask_gateway.client import GatewayWarning

        bounds = spec.bounds()
        with warnings.catch_warnings():
            # It says by a warning that there will be fewer, when they are asked for already.
            warnings.simplefilter("error", GatewayWarning)
            try:
                if bounds is None:
                    await self.gateway.scale_cluster(self._name, spec.workers or WORKERS)
                else:
                    await self.gateway.adapt_cluster(self._name, minimum=bounds[0], maximum=bounds[1])
            except GatewayWarning as warning:
                return _told(warning)
        return ""

    def fate(self) -> str:
        """What became of the cluster, where the gateway has ended it; nothing otherwise."""
        try:
            status = self.report().status.name
        except ClusterError:
            return ""
        if status not in OVER:
            return ""
        why = "idle for too long, or by its administrator"
        return f"the gateway has ended cluster {self._name} ({status.lower()}: {why})"

    def stop(self) -> None:
        """Stop the cluster, if there is one; what cannot be stopped is said."""
        try:
            self._ask(self._stop, patience=PATIENCE)
        except (ClusterError, ValueError) as error:
            LOG.warning(
                "cluster %s of the gateway at %s could not be stopped, and may live on until it has been idle for "
                "long: %s",
                self._name or "asked for",
                self.address,
                error,
            )

    async def _stop(self) -> None:
        if self._submitting is None:
            return
        try:
            name = await self._submitting
        except Exception:  # noqa: BLE001 - said when it was asked for
            return
        await self.gateway.stop_cluster(name)

    def close(self) -> None:
        """Hang up."""
        self.runner.run_sync(self.gateway.close)

    def _ask(self, question: Callable[..., Any], *args: Any, patience: float = 0.0) -> Any:
        """An answer of the gateway. Raises ClusterError; what only the asker can tell goes through."""
        import aiohttp
        from dask_gateway import GatewayClusterError, GatewayServerError

        until = time.monotonic() + patience
        while True:
            try:
                return self.runner.run_sync(question, *args, callback_timeout=ANSWER)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if not (_may_pass(error) and time.monotonic() < until):
                    raise ClusterError(self._refusal(error)) from None
            except (GatewayClusterError, GatewayServerError) as error:
                raise ClusterError(f"the gateway at {self.address} says: {_told(error)}") from None
            time.sleep(0.5)

    def _refusal(self, error: Exception) -> str:
        import aiohttp

        if isinstance(error, aiohttp.ClientSSLError):
            return (
                f"the gateway at {self.address} cannot be trusted ({_told(error)}): if its certificate is your "
                "site's own, give the authority's by SSL_CERT_FILE=FILE"
            )
        if isinstance(error, aiohttp.ContentTypeError):
            return (
                f"{self.address} does not answer as a Dask Gateway does: give the address with its path, such as "
                "https://hub.example.org/services/dask-gateway"
            )
        if isinstance(error, aiohttp.ClientResponseError):
            return self._status(error.status, error.message)
        return (
            f"no gateway answers at {self.address} ({type(error).__name__}): is it running, and reached from here?"
        )

    def _status(self, status: int, message: str) -> str:
        if status != 401:  # noqa: PLR2004 - unauthorised
            return f"the gateway at {self.address} answers {status} {printable(message)[:SHOWN]}"
        kind = type(self.gateway.auth).__name__
        if kind == "BasicAuth":
            remedy = (
                f"user {self.gateway.auth.username} with this password: give username = …, and the password by "
                f"password_file = FILE or {GATEWAY_PASSWORD}"
            )
        elif kind == "JupyterHubAuth":
            remedy = (
                "the token in JUPYTERHUB_API_TOKEN: make a new one on the hub's page Token, with the right to use "
                "dask-gateway"
            )
        else:
            remedy = f"what {kind} says of you: ask its administrator (Kerberos: kinit)"
        return f"the gateway at {self.address} does not take {remedy}"


def _may_pass(error: Exception) -> bool:
    """Whether another try may help: nobody there, or a proxy without the gateway behind it."""
    import aiohttp

    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in {502, 503, 504}
    return not isinstance(error, aiohttp.ClientSSLError)


def _told(error: BaseException) -> str:
    """What an error says, as a terminal may show it."""
    return printable(str(error) or type(error).__name__)[:SHOWN]
