"""A port of this machine's loopback that is a pod's: each connection to it is a websocket of the Kubernetes API.

kr8s opens the websockets. Its own forward is not used: where somebody's connection holds the port that it picks, it
does not listen and says nothing; and of a pod that is gone it asks the API without end or pause.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG = logging.getLogger(__name__)

PIECE: Final = 1 << 20
"""Bytes that are read from a connection at once."""

ON_THE_WAY: Final = 0.05
"""Seconds for connections that are being accepted: asyncio loses those whose server closes meanwhile."""

DATA: Final = 0
"""Channel of what is sent and received; the odd one is of what went wrong. Each begins with the port, once."""


class Forward:
    """Of one port of one pod; in the event loop that it is started in."""

    def __init__(self, api: Any, pod: Mapping[str, Any], port: int) -> None:
        self._api = api
        self._pod = pod["metadata"]
        self._port = port
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def start(self) -> int:
        """Listen; at which port."""
        self._server = await asyncio.start_server(self._accept, host="127.0.0.1", port=0)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self, drain: float) -> None:
        """Listen no more, and end the connections, which have `drain` seconds for it."""
        if self._server is not None:
            await asyncio.sleep(ON_THE_WAY)
            self._server.close()
            self._server = None
        for writer in self._serving.values():
            writer.close()
        if self._serving:
            # Not cancelled: httpcore leaves a socket open whose TLS handshake is.
            await asyncio.wait(list(self._serving), timeout=drain)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # it was on its way when the forward ended
            writer.close()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving[task] = writer
        task.add_done_callback(lambda done: self._serving.pop(done).close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        import httpx
        import httpx_ws
        import kr8s

        name, namespace = self._pod["name"], self._pod["namespace"]
        place = {"version": "v1", "url": f"pods/{name}/portforward", "namespace": namespace}
        try:
            async with self._api.open_websocket(**place, params={"ports": f"{self._port}"}) as websocket:
                await _either(_to_pod(reader, websocket), _from_pod(websocket, writer))
        except (OSError, RuntimeError, httpx.HTTPError, httpx_ws.HTTPXWSException, kr8s.APITimeoutError) as error:
            LOG.debug("port %d of pod %s: %s: %s", self._port, name, type(error).__name__, error)


async def _either(*ways: Any) -> None:
    """Until the first of them ends, however it does; the others then end, too."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(found, Exception):
                LOG.debug("a connection to a pod ended: %s: %s", type(found).__name__, found)


async def _to_pod(reader: asyncio.StreamReader, websocket: Any) -> None:
    while piece := await reader.read(PIECE):
        await websocket.send_bytes(bytes([DATA]) + piece)


async def _from_pod(websocket: Any, writer: asyncio.StreamWriter) -> None:
    begun: set[int] = set()
    while True:
        message = await websocket.receive_bytes()
        channel, content = message[0], message[1:]
        if channel not in begun:
            begun.add(channel)
        elif channel != DATA:
            raise ConnectionError(content.decode(errors="replace"))
        else:
            writer.write(content)
            await writer.drain()
