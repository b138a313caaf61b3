"""The part of Google Cloud Storage's XML API that fake-gcs-server lacks, as a front before it.

obstore speaks the XML API. fake-gcs-server 1.54 lists and reads by it, but takes uploads by the JSON API alone,
answers 500 for a bucket that is absent, and looks at no token. The front turns a PUT into the JSON API's upload
with the same precondition, says what is absent as Google does, and refuses wrong tokens; all the rest, and every
object, is the server's.
"""

from __future__ import annotations

import contextlib
import json
import threading
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HOP = {"connection", "transfer-encoding", "content-length", "date", "host", "authorization"}
"""Headers that are not passed on."""


@contextlib.contextmanager
def xml_front(server: str, token: str) -> Iterator[str]:
    """Serve the XML API before a fake-gcs-server; yields the URL. What bears no token is let through."""
    handler = type("Front", (_Front,), {"backend": urlsplit(server).netloc, "token": token})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as front:
        front.daemon_threads, front.block_on_close = True, False
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{front.server_address[1]}"
        finally:
            front.shutdown()
            thread.join()


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    backend: str
    token: str

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
        """Keep the tests' output clean."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket, _, name = urlsplit(self.path).path.lstrip("/").partition("/")
        if self.headers.get("Authorization", "Bearer ").removeprefix("Bearer ").strip() not in {"", self.token}:
            self._refuse(HTTPStatus.UNAUTHORIZED, "InvalidAuthentication")
        elif self._ask("GET", f"/storage/v1/b/{bucket}")[0] == HTTPStatus.NOT_FOUND:
            self._refuse(HTTPStatus.NOT_FOUND, "NoSuchBucket")
        elif self.command == "PUT":
            self._put(bucket, name, body)
        else:
            passed = {key: value for key, value in self.headers.items() if key.lower() not in _HOP}
            self._reply(*self._ask(self.command, self.path, body, passed))

    def _put(self, bucket: str, name: str, body: bytes) -> None:
        condition = self.headers.get("x-goog-if-generation-match")
        # Of the JSON API's simple uploads, the one in parts is the one whose precondition the server heeds.
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        path += f"&ifGenerationMatch={condition}" if condition else ""
        parts = (
            b"--part\r\nContent-Type: application/json\r\n\r\n" + json.dumps({"name": unquote(name)}).encode(),
            b"\r\n--part\r\nContent-Type: application/octet-stream\r\n\r\n" + body,
            b"\r\n--part--\r\n",
        )
        headers = {"Content-Type": "multipart/related; boundary=part"}
        status, _, answer = self._ask("POST", path, b"".join(parts), headers)
        if status != HTTPStatus.OK:
            self._refuse(status, "PreconditionFailed" if status == HTTPStatus.PRECONDITION_FAILED else "Failed")
            return
        made = json.loads(answer)
        self._reply(status, {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]}, b"")

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>".encode()
        self._reply(status, {"Content-Type": "application/xml"}, b"" if self.command == "HEAD" else body)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(self.backend, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, dict(answer.getheaders()), content
        finally:
            connection.close()

    def _reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        length = next((value for key, value in headers.items() if key.lower() == "content-length"), len(body))
        for key, value in headers.items():
            if key.lower() not in _HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
