"""No credential of a store is found in anything written, printed, logged or shown."""

from __future__ import annotations

import base64
import json
import logging
import threading
import traceback
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import obstore
import pytest

import runs
import services
from ndvi_scale import open_store
from ndvi_scale.cli import cli, main
from ndvi_scale.errors import NdviScaleError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store

pytestmark = pytest.mark.slow  # whole runs of the command line against servers

CANARY = "c4n4ry0123456789c4n4ry0123456789"  # 32 bytes, as encryption keys are
ENCODED = base64.b64encode(CANARY.encode()).decode()
SAS = f"sv=2020-08-04&sp=rwdl&sig={CANARY}"
KEY_FILE = json.dumps({"private_key": CANARY, "private_key_id": CANARY, "client_email": "a@b"})

BY_OPTION: list[tuple[str, dict[str, str]]] = [
    ("s3", {"access_key_id": CANARY, "secret_access_key": CANARY}),
    ("s3", {"key": "a", "secret": CANARY, "session_token": CANARY}),
    ("s3", {"key": "a", "secret": "b", "server_side_encryption": "sse-c", "sse_customer_key_base64": ENCODED}),
    ("s3", {"key": "a", "secret": "b", "proxy_url": f"http://user:{CANARY}@ECHO"}),
    ("gs", {"bearer_token": CANARY}),
    ("gs", {"service_account_key": KEY_FILE}),
    ("gs", {"service_account_key": f'"{CANARY}"'}),
    ("az", {"account_name": "a", "account_key": ENCODED}),
    ("az", {"account_name": "a", "account_key": f"{CANARY}!"}),
    ("az", {"account_name": "a", "sas_key": SAS}),
    ("az", {"account_name": "a", "sas_key": CANARY}),
    ("az", {"account_name": "a", "token": CANARY}),
    ("az", {"account_name": "a", "encryption_key": ENCODED, "account_key": ENCODED}),
    (
        "az",
        {
            "account_name": "a",
            "client_id": "i",
            "tenant_id": "t",
            "client_secret": CANARY,
            "authority_host": "http://ECHO",
        },
    ),
]
BY_VARIABLE: list[tuple[str, dict[str, str]]] = [
    ("s3", {"AWS_ACCESS_KEY_ID": CANARY, "AWS_SECRET_ACCESS_KEY": CANARY, "AWS_SESSION_TOKEN": CANARY}),
    ("gs", {"GOOGLE_BEARER_TOKEN": CANARY}),
    ("gs", {"GOOGLE_SERVICE_ACCOUNT_KEY": f'{{"private_key": "{CANARY}'}),
    ("gs", {"GOOGLE_SERVICE_ACCOUNT_KEY": f'["{CANARY}"]'}),
    ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": ENCODED}),
    ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_SAS_TOKEN": SAS}),
    ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_TOKEN": CANARY}),
]


def name_of(value: str | dict[str, str]) -> str:
    return value if isinstance(value, str) else "-".join(value)


def assert_clean(text: str, *secrets: str) -> None:
    for secret in secrets or (CANARY,):
        assert secret not in text
        assert quote(secret, safe="") not in text
        assert base64.b64encode(secret.encode()).decode() not in text
        assert base64.b64encode(f"user:{secret}".encode()).decode() not in text


class _Echo(BaseHTTPRequestHandler):
    """Refuses everything, and tells everybody what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = " ".join([self.path, *(f"{key}: {value}" for key, value in self.headers.items())]).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
        """Keep the tests' output clean."""


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with services.QuietServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Witness:
    """Hears everything that is printed or logged."""

    log: pytest.LogCaptureFixture
    files: pytest.CaptureFixture[str]

    def heard(self) -> str:
        """All since the test began."""
        return "".join(self.files.readouterr()) + self.log.text


@pytest.fixture
def witness(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Witness:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "numba")  # megabytes on its compiler
    return Witness(caplog, capfd)


def said_by(store: Store, plan: Any) -> str:
    """All that is shown of a store and by what fails with it."""
    texts = [repr(store), str(store), repr(store.data), repr(store.zarr())]
    calls = (
        lambda: store.get_state("x"),
        lambda: store.put_state("x", b"1", create=True),
        store.data_names,
        lambda: runs.run(plan, store),
    )
    for call in calls:
        with pytest.raises(StoreError) as error:
            call()
        texts += [str(error.value), repr(error.value), repr(error.value.__dict__)]
    return "\n".join(texts)


def assert_nothing_is_shown(kind: str, options: Mapping[str, str], sandbox: Sandbox, witness: Witness) -> None:
    try:
        shown = said_by(open_store(f"{kind}://place/out.zarr", options), runs.plan_of(sandbox))
    except StoreError as error:
        shown = f"{error} {error.__cause__}"
    assert_clean(shown + witness.heard())


def address(kind: str, url: str) -> dict[str, str]:
    return {"base_url" if kind == "gs" else "endpoint": url}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), BY_OPTION, ids=name_of)
def test_options_are_not_shown(
    kind: str,
    options: dict[str, str],
    sandbox: Sandbox,
    echo: str,
    witness: Witness,
) -> None:
    given = {key: value.replace("http://ECHO", echo) for key, value in options.items()}
    given = {key: value.replace("ECHO", echo.removeprefix("http://")) for key, value in given.items()}
    assert_nothing_is_shown(kind, {**address(kind, echo), **given}, sandbox, witness)


@pytest.mark.parametrize(("kind", "variables"), BY_VARIABLE, ids=name_of)
def test_variables_are_not_shown(
    kind: str,
    variables: dict[str, str],
    sandbox: Sandbox,
    echo: str,
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert_nothing_is_shown(kind, address(kind, echo), sandbox, witness)


def test_the_echo_would_be_found(echo: str) -> None:
    """What obstore itself says of this server does hold the token, so the tests above can fail."""
    store = obstore.store.GCSStore(
        "place", config={"base_url": echo, "bearer_token": CANARY}, client_options={"allow_http": True}
    )
    with pytest.raises(Exception, match=CANARY):
        obstore.get(store, "x")


VARIABLES = {
    "aws_endpoint": "AWS_ENDPOINT_URL",
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_region": "AWS_REGION",
    "aws_allow_http": "AWS_ALLOW_HTTP",
    "account_name": "AZURE_STORAGE_ACCOUNT_NAME",
    "account_key": "AZURE_STORAGE_ACCOUNT_KEY",
    "endpoint": "AZURE_STORAGE_ENDPOINT",
    "base_url": "GOOGLE_BASE_URL",
    "bearer_token": "GOOGLE_BEARER_TOKEN",
}


def loud(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Call the command line; the traceback, which a person may ask for, of what failed."""
    monkeypatch.setattr("sys.argv", ["ndvi-scale", "-v", "--traceback", *arguments])
    try:
        main()
    except NdviScaleError as error:
        return "".join(traceback.format_exception(error))
    return ""


def everything_in(store: Store) -> str:
    """Names and contents of all objects."""
    texts = []
    for place in (store.data, store.state):
        root = place.existing()
        assert root is not None
        names = [entry["path"] for batch in obstore.list(root) for entry in batch]
        assert names
        texts += [name + bytes(obstore.get(root, name).bytes()).decode("latin-1") for name in names]
    return "\n".join(texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "how"), [("s3", "options"), ("s3", "variables"), ("az", "options"), ("gs", "options")]
)
def test_nothing_is_written_or_said_by_runs(
    kind: str,
    how: str,
    sandbox: Sandbox,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    witness: Witness,
) -> None:
    """A run that ends well, one that is refused, and looks at both, with credentials that work."""
    service: Any = request.getfixturevalue({"s3": "seaweed_s3", "az": "azurite", "gs": "fake_gcs"}[kind])
    secret: str = getattr(service, {"s3": "secret_key", "az": "key", "gs": "token"}[kind])
    bucket = service.container if kind == "az" else service.bucket
    url = f"{kind}://{bucket}/{tmp_path.name}/ndvi.zarr"
    flags = []
    for key, value in service.options.items():
        if how == "variables":
            monkeypatch.setenv(VARIABLES[key], value)
        else:
            flags += ["--storage-option", f"{key}={value}"]
    box = ",".join(f"{degrees:.5f}" for degrees in sandbox.bbox)
    run = ["run", "--catalog", str(sandbox.catalog), "--bbox", box, "--crs", "EPSG:32631", "--chunk", "128"]

    for words, well in (
        ([*run, "--out", url], True),
        (["info", url, "--json"], True),
        (["status", url], True),
        ([*run, "--out", url, "--mask", "land"], False),
        (["status", f"{url}.elsewhere"], False),
    ):
        said = loud([*words, *flags], monkeypatch)
        assert (not said) is well, said
        assert_clean(said + witness.heard(), secret)
    assert_clean(everything_in(open_store(url, service.options)), secret)


@pytest.mark.parametrize("word", [CANARY, f"secret_access_key:{CANARY}", f"={CANARY}"])
def test_a_mistyped_option_is_not_repeated(word: str) -> None:
    with pytest.raises(NdviScaleError) as error:
        cli(
            ["status", "s3://b/x.zarr", "--storage-option", "region=x", "--storage-option", word],
            standalone_mode=False,
        )
    assert_clean(str(error.value))
