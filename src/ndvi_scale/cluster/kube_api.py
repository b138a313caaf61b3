"""A Kubernetes API as a few verbs: create, get, list, delete, patch, read a log, forward a port.

kr8s does the talking, in an event loop of its own, so that a call is finished even when Ctrl-C ends the waiting for
it: what is deleted afterwards was created before.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ndvi_scale.cluster.forward import Forward
from ndvi_scale.errors import ClusterError, ConfigError
from ndvi_scale.outside import printable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from ndvi_scale.cluster.spec import KubernetesSpec

ANSWER: Final = 30.0
"""Seconds that the API has for an answer."""

DRAIN: Final = 10.0
"""Seconds that calls in work have when the API is left."""

LOG = logging.getLogger(__name__)

_KEYS: Final = {
    "client-key-data": "client_key_file",
    "client-certificate-data": "client_cert_file",
}
"""What a kubeconfig has in itself, and where kr8s notes the temporary file that it writes it to and leaves."""


class Kind(NamedTuple):
    """A kind of object, by its API version and the plural that paths have."""

    version: str
    plural: str


CLUSTERS: Final = Kind("kubernetes.dask.org/v1", "daskclusters")
GROUPS: Final = Kind("kubernetes.dask.org/v1", "daskworkergroups")
AUTOSCALERS: Final = Kind("kubernetes.dask.org/v1", "daskautoscalers")
DEPLOYMENTS: Final = Kind("apps/v1", "deployments")
PODS: Final = Kind("v1", "pods")


class RefusedError(ClusterError):
    """The API did not do what it was asked for."""

    def __init__(self, message: str, *, status: int, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said
        """Its own words."""


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # Connections that end while they are forwarded are told by the loop otherwise, on the terminal.
        self._loop.set_exception_handler(lambda _, told: LOG.debug("%s", told.get("exception") or told["message"]))
        self._thread = threading.Thread(target=self._loop.run_forever, name="ndvi-scale-kubernetes", daemon=True)
        self._thread.start()
        self._in_work: set[asyncio.Task[Any]] = set()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it there and wait for it; it goes on when the waiting is interrupted."""
        return asyncio.run_coroutine_threadsafe(self._kept(coroutine), self._loop).result()

    async def _kept(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._in_work.add(task)
        try:
            return await coroutine
        finally:
            self._in_work.discard(task)

    def close(self, session: Any) -> None:
        """Wait for what is in work, and end the connections and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(session), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self, session: Any) -> None:
        if self._in_work:
            await asyncio.wait(self._in_work, timeout=DRAIN)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._loop.shutdown_asyncgens()  # as asyncio.run does: what kr8s streams from has a socket open
        if session is not None:
            await session.aclose()


@dataclass
class KubeApi:
    """The API, with the rights of whoever the kubeconfig says."""

    _api: Any
    _loop: _Loop
    _changing: asyncio.Lock
    """Held by calls that change something: they are done in the order in which they are asked for."""
    _written: set[str]
    """Temporary files with keys, which kr8s leaves."""

    @property
    def namespace(self) -> str:
        """Where everything is."""
        return str(self._api.auth.namespace)

    @property
    def server(self) -> str:
        """Its address."""
        return str(self._api.auth.server)

    def create(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """The object as it is now. Raises RefusedError."""
        return self._call("POST", kind, body=body)

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """The object, None where it is not. Raises RefusedError."""
        return self._unless_absent("GET", kind, name)

    def list(self, kind: Kind, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Objects that have these labels. Raises RefusedError."""
        chosen = ",".join(f"{key}={value}" for key, value in labels.items())
        return self._call("GET", kind, params={"labelSelector": chosen})["items"]

    def delete(self, kind: Kind, name: str) -> bool:
        """Whether it was there. Raises RefusedError."""
        return self._unless_absent("DELETE", kind, name) is not None

    def patch(self, kind: Kind, name: str, body: Mapping[str, Any]) -> None:
        """Merge into an object that may be there. Raises RefusedError."""
        self._unless_absent("PATCH", kind, name, body)

    def log(self, pod: str, lines: int, *, previous: bool = False) -> list[str]:
        """Last lines that a pod wrote, or its container that ended before. Raises RefusedError."""
        params = {"tailLines": str(lines), "previous": "true"} if previous else {"tailLines": str(lines)}
        text = self._call("GET", PODS, f"{pod}/log", params=params, text=True)
        return [printable(line.strip()) for line in text.splitlines() if line.strip()][-lines:]

    @contextmanager
    def forwarded(self, pod: Mapping[str, Any], port: int) -> Iterator[int]:
        """A port of this machine's loopback that is a pod's, while the block lasts."""
        forward = Forward(self._api, pod, port)
        try:
            yield self._loop.run(forward.start())
        finally:
            self._loop.run(forward.stop(DRAIN))

    def _unless_absent(
        self, method: str, kind: Kind, name: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        try:
            return self._call(method, kind, name, body=body)
        except RefusedError as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _call(self, method: str, kind: Kind, name: str = "", **options: Any) -> Any:
        return self._loop.run(self._asked(method, kind, name, **options))

    async def _asked(self, method: str, kind: Kind, name: str, **options: Any) -> Any:
        if method == "GET":
            return await self._answer(method, kind, name, **options)
        async with self._changing:
            return await self._answer(method, kind, name, **options)

    async def _answer(self, method: str, kind: Kind, name: str, **options: Any) -> Any:
        import httpx
        import kr8s

        text, body = options.pop("text", False), options.pop("body", None)
        if body is not None:
            media = "application/merge-patch+json" if method == "PATCH" else "application/json"
            options |= {"content": json.dumps(body), "headers": {"Content-Type": media}}
        place = {"version": kind.version, "namespace": self.namespace, "url": f"{kind.plural}/{name}".rstrip("/")}
        for again in (False, True):
            try:
                # The second time kr8s renews what it proves itself with: tokens live for minutes only.
                async with self._api.call_api(
                    method, **place, raise_for_status=again, timeout=ANSWER, **options
                ) as answer:
                    status, content = answer.status_code, answer.text
            except kr8s.ServerError as error:
                status, content = getattr(error.response, "status_code", 0), str(error)
            except (OSError, httpx.HTTPError, kr8s.APITimeoutError) as error:
                raise _unreachable(self.server, error) from None
            self._note_keys()
            if status != HTTPStatus.UNAUTHORIZED:
                break
        if status >= HTTPStatus.BAD_REQUEST:
            said = _words(content)
            raise RefusedError(self._refusal(f"{method} {kind.plural}", status, said), status=status, said=said)
        return content if text else json.loads(content)

    def _refusal(self, what: str, status: int, said: str) -> str:
        """What the API said, and the remedy where there is a known one."""
        if status == HTTPStatus.UNAUTHORIZED:
            return (
                f"the Kubernetes API at {self.server} does not know who you are ({said}): log in again, or give "
                "context = another context of the kubeconfig"
            )
        if status == HTTPStatus.FORBIDDEN and "quota" in said:
            return f"a quota of namespace {self.namespace} forbids it: {said}; ask for less, or for a larger quota"
        if status == HTTPStatus.FORBIDDEN:
            return (
                f"you lack a right in namespace {self.namespace}: {said}; ask for a role with it "
                "(docs/clusters/kubernetes.md has one), or give namespace = another"
            )
        if status == HTTPStatus.NOT_FOUND and "namespaces" in said:
            return f"there is no namespace {self.namespace} ({said}): make it, or give namespace = another"
        return f"the Kubernetes API refused to {what} in namespace {self.namespace}: {said}"

    def _note_keys(self) -> None:
        auth = self._api.auth
        user = getattr(auth, "_user", {})
        self._written |= {str(path) for key, name in _KEYS.items() if key in user and (path := getattr(auth, name))}


def _words(content: str) -> str:
    """The message of an answer, which is an object of its own kind, or a line of text."""
    with suppress(ValueError, TypeError, KeyError):
        content = str(json.loads(content)["message"])
    return printable(" ".join(content.split()))[:500]


def _unreachable(server: str, error: Exception) -> ClusterError:
    why = printable(str(error)) or type(error).__name__
    return ClusterError(
        f"no Kubernetes API answers at {server} ({why}): is the kubeconfig the right one, and is it reachable from "
        "here?"
    )


@contextmanager
def open_api(spec: KubernetesSpec) -> Iterator[KubeApi]:
    """The API that a spec, or the surroundings, name. Raises ConfigError, or ClusterError where none answers."""
    loop = _Loop()
    written: set[str] = set()
    api = None
    try:
        api = _connected(spec, loop)
        yield KubeApi(api, loop, asyncio.Lock(), written)
    finally:
        loop.close(None if api is None else api._session)  # noqa: SLF001 - kr8s has no other way to end it
        for path in written:
            with suppress(OSError):
                Path(path).unlink()


def _connected(spec: KubernetesSpec, loop: _Loop) -> Any:
    import httpx
    import kr8s
    import kr8s.asyncio

    file = None if spec.kubeconfig is None else Path(spec.kubeconfig).expanduser()
    if file is not None and not file.is_file():
        raise ConfigError(f"there is no kubeconfig {file}: give kubeconfig = an existing file")
    given: dict[str, Any] = {"kubeconfig": file and str(file), "context": spec.context, "namespace": spec.namespace}
    try:
        with warnings.catch_warnings():
            # It knows the versions of a year, and what is asked of the API here is the same in all.
            warnings.simplefilter("ignore", UserWarning)
            return loop.run(kr8s.asyncio.api(**given))
    except kr8s.ServerError as error:
        raise ClusterError(
            f"the Kubernetes API of {file or _surroundings()} refused us ({printable(str(error))}): log in again, "
            "or give context = another context of the kubeconfig"
        ) from None
    except (httpx.HTTPError, kr8s.APITimeoutError, ConnectionError) as error:
        raise _unreachable(str(file or _surroundings()), error) from None
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{file or _surroundings()} leads to no Kubernetes API ({printable(str(error))}): log in with your "
            "cluster's own program, which writes a kubeconfig, or give kubeconfig = FILE and context = NAME"
        ) from None


def _surroundings() -> str:
    """Where a kubeconfig is looked for, unless a spec names one."""
    return os.environ.get("KUBECONFIG") or "~/.kube/config"
