from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore
import pytest
import xarray as xr
import zarr

import runs
from ndvi_scale import open_reader, open_store, store_digest
from ndvi_scale.errors import StoreError
from ndvi_scale.output import begin, check_ours
from ndvi_scale.readers import BlockingReader
from ndvi_scale.storage_options import SERVICES as STORAGE
from ndvi_scale.write import open_arrays, read_attributes, write_region

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import services
    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store

pytestmark = pytest.mark.slow  # every kind of store, most of them servers

SERVICES = {"s3": "seaweed_s3", "az": "azurite", "gs": "fake_gcs"}
"""Kind → fixture."""
ON_A_SERVER = [pytest.param(kind, marks=pytest.mark.slow) for kind in SERVICES]
KINDS = ["file", "memory", *ON_A_SERVER]


@dataclass(frozen=True)
class Location:
    """Where a test writes."""

    base: str
    options: Mapping[str, str]

    def store(self, name: str = "out.zarr", **changed: str) -> Store:
        """The store of that name; of an option that is changed to nothing, nothing is said."""
        options = {key: value for key, value in {**self.options, **changed}.items() if value}
        return open_store(f"{self.base}/{name}", options)


def location_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> Location:
    if kind == "file":
        return Location(str(folder / "deep"), {})
    if kind == "memory":
        return Location(f"memory://{folder}", {})
    service: Any = request.getfixturevalue(SERVICES[kind])
    bucket = service.container if kind == "az" else service.bucket
    return Location(f"{kind}://{bucket}/{folder.name}", service.options)


@pytest.fixture(params=KINDS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """The contract below holds for every kind of store."""
    return location_of(request.param, request, tmp_path)


@pytest.fixture(params=ON_A_SERVER)
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """Those of them that are asked over HTTP and want credentials."""
    return location_of(request.param, request, tmp_path)


@pytest.fixture
def store(location: Location) -> Store:
    return location.store()


def test_an_empty_place_has_nothing(store: Store) -> None:
    assert store.get_state("plan.json") is None
    assert store.state_names() == []
    assert store.data_names() == []
    assert store.data_size() == (0, 0)
    assert read_attributes(store) is None
    store.delete()


def test_what_is_put_is_there(store: Store) -> None:
    assert store.put_state("ledger/1.jsonl", b"one")
    assert store.put_state("plan.json", b"two")
    assert store.get_state("ledger/1.jsonl") == b"one"
    assert store.state_names() == ["ledger/1.jsonl", "plan.json"]
    assert store.state_names("ledger/") == ["ledger/1.jsonl"]
    assert store.put_state("plan.json", b"three")
    assert store.get_state("plan.json") == b"three"
    assert store.get_state("plan") is None


def test_create_never_replaces(store: Store) -> None:
    assert store.put_state("plan.json", b"first", create=True)
    assert not store.put_state("plan.json", b"second", create=True)
    assert store.get_state("plan.json") == b"first"


def test_of_many_that_create_one_wins(store: Store) -> None:
    won: list[int] = []
    ready = threading.Barrier(8)

    def create(who: int) -> None:
        ready.wait()
        if store.put_state("ledger/0.jsonl", str(who).encode(), create=True):
            won.append(who)

    threads = [threading.Thread(target=create, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get_state("ledger/0.jsonl") == str(won[0]).encode()


def test_state_and_data_lie_apart(store: Store) -> None:
    store.put_state("plan.json", b"{}")
    array = zarr.create_array(store.zarr(), name="a", shape=(4,), dtype="i2")
    array[...] = 7
    assert store.state_names() == ["plan.json"]
    assert set(store.data_names()) == {"a/c/0", "a/zarr.json", "zarr.json"}
    count, size = store.data_size()
    assert count == 3
    assert size > sum(map(len, store.data_names()))
    store.delete()
    assert store.state_names() == store.data_names() == []


def test_neighbours_are_left_alone(location: Location) -> None:
    """Names that begin alike are other stores."""
    one, other = location.store("out.zarr"), location.store("out.zarr2")
    one.put_state("x", b"1")
    other.put_state("x", b"2")
    assert other.data_names() == []
    one.delete()
    assert other.get_state("x") == b"2"


def test_the_same_url_is_the_same_place(location: Location) -> None:
    location.store().put_state("x", b"1")
    assert location.store().get_state("x") == b"1"


def test_a_run_on_any_store_is_the_same(sandbox: Sandbox, location: Location, tmp_path: Path) -> None:
    plan, local = runs.finished_store(sandbox, tmp_path)
    store = location.store()
    report = runs.run(plan, store)
    assert report.done == report.regions
    assert store_digest(store) == store_digest(local)
    with xr.open_zarr(store.zarr(read_only=True)) as there, xr.open_zarr(local.url) as here:
        np.testing.assert_array_equal(there["ndvi"].values, here["ndvi"].values)
    with xr.open_zarr(store.zarr(read_only=True), chunks=None) as lazy:
        assert lazy.copy(deep=True).identical(lazy)
    assert store.data_size()[0] == local.data_size()[0]
    assert runs.run(plan, store).computed == 0
    check_ours(store)
    store.delete()
    assert store.data_names() == store.state_names() == []


class Cut(BlockingReader):
    """A real reader, stopped as by Ctrl-C after so many reads."""

    name = "cut"

    def __init__(self, reads: int) -> None:
        self.inner, self.left = open_reader(), reads

    def read(self, item_id: str, asset: Asset, window: Window) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.inner.read(item_id, asset, window)

    def layout(self, item_id: str, asset: Asset) -> Any:
        return self.inner.layout(item_id, asset)


def test_a_cut_run_is_taken_up_on_any_store(sandbox: Sandbox, location: Location, tmp_path: Path) -> None:
    plan, whole = runs.finished_store(sandbox, tmp_path)
    store = location.store()
    with pytest.raises(KeyboardInterrupt):
        runs.run(plan, store, workers=1, reader=Cut(60))
    assert (read_attributes(store) or {})["status"] == "incomplete"
    taken_up = location.store()  # as a new process would
    assert begin(taken_up, plan.config) == plan
    report = runs.run(plan, taken_up)
    assert 0 < report.computed < report.regions
    assert store_digest(taken_up) == store_digest(whole)


def test_zarr_format_2_on_any_store(sandbox: Sandbox, location: Location, tmp_path: Path) -> None:
    plan, local = runs.finished_store(sandbox, tmp_path, zarr_format=2, chunk=128)
    runs.run(plan, location.store())
    assert store_digest(location.store()) == store_digest(local)


VARIABLES = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "account_key": "AZURE_STORAGE_ACCOUNT_KEY",
    "bearer_token": "GOOGLE_BEARER_TOKEN",
}
"""Secret options of the services here, and what stands for them in the environment."""


@pytest.mark.parametrize("kind", ["file", *ON_A_SERVER])
def test_a_store_travels_without_its_keys(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = location_of(kind, request, tmp_path)
    for option, variable in VARIABLES.items():
        if option in location.options:
            monkeypatch.setenv(variable, location.options[option])
    plain = {key: value for key, value in location.options.items() if key not in VARIABLES}
    store = open_store(f"{location.base}/out.zarr", plain, group="one")
    store.put_state("x", b"1")
    sent = pickle.dumps(store)
    for option in VARIABLES.keys() & location.options:
        assert location.options[option].encode() not in sent + repr(store).encode()
    travelled: Store = pickle.loads(sent)  # noqa: S301 - our own bytes
    assert (travelled.url, travelled.get_state("x")) == (store.url, b"1")
    zarr.create_array(store.zarr(), name="a", shape=(4,), dtype="i2")[...] = 7
    array = zarr.open_array(store.zarr(read_only=True), path="a", mode="r")
    again = pickle.loads(pickle.dumps(array))  # noqa: S301
    assert list(again[...]) == [7] * 4


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        (
            "s3://b/x",
            {"key": "canary1", "secret": "canary2"},
            r"'key' of s3://b/x is secret.*AWS_ACCESS_KEY_ID.*AWS's",
        ),
        ("s3://b/x", {"skip_signature": "true", "proxy_url": "http://u:canary1@h"}, "'proxy_url' of s3://b/x"),
        ("gs://b/x", {"token": "canary1"}, "'token' of gs://b/x is secret.*GOOGLE_APPLICATION_CREDENTIALS"),
        (
            "az://c/x",
            {"account": "a", "sas": "sig=canary1"},
            "'sas' of az://c/x is secret.*AZURE_STORAGE_SAS_TOKEN",
        ),
    ],
)
def test_secret_options_do_not_leave_the_process(url: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(StoreError, match=words) as error:
        open_store(url, options).require_sendable()
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "environment", "options"),
    [
        (
            "s3://b/x",
            {"AWS_ENDPOINT_URL": "http://h:1", "AWS_REGION": "r"},
            {"endpoint": "http://h:1", "region": "r"},
        ),
        ("s3://b/x", {"AWS_ENDPOINT_URL": "http://one:two@h:1"}, {}),
        (
            "s3://b/x",
            {"AWS_ENDPOINT_URL": "http://h:1", "AWS_ENDPOINT_URL_S3": "http://h:2"},
            {"endpoint": "http://h:2"},
        ),
        ("gs://b/x", {"GOOGLE_BASE_URL": "http://h:1"}, {"base_url": "http://h:1"}),
        ("az://b/x", {"AZURE_STORAGE_ACCOUNT_NAME": "a"}, {"account_name": "a"}),
    ],
)
def test_where_it_is_goes_along(
    url: str, environment: dict[str, str], options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    origin = open_store(url).origin
    assert origin is not None
    assert origin.options == options


def test_every_option_that_holds_a_secret_is_marked() -> None:
    secret = {option.name for service in STORAGE.values() for option in service.all_options() if option.secret}
    assert secret == {
        *("access_key_id", "secret_access_key", "session_token", "sse_customer_key_base64"),
        *("service_account_key", "bearer_token", "account_key", "sas_key", "token", "client_secret"),
        *("encryption_key", "proxy_url"),
    }


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a" / "out.zarr"))
    store.data_names()
    store.get_state("plan.json")
    assert list(tmp_path.iterdir()) == []


# The memory of this process


@pytest.mark.slow
def test_memory_does_not_leave_its_process(tmp_path: Path) -> None:
    store = open_store(f"memory://{tmp_path}")
    with pytest.raises(StoreError, match=r"memory://.* is in this process alone.*: use threads"):
        pickle.dumps(store)
    with pytest.raises(StoreError, match="is in this process alone"):
        pickle.dumps(store.zarr())  # what a task for another process would carry


def test_memory_is_by_name(tmp_path: Path) -> None:
    open_store(f"memory://{tmp_path}/one").put_state("x", b"1")
    assert open_store(f"memory://{tmp_path}/one/").get_state("x") == b"1"
    assert open_store(f"memory://{tmp_path}/two").get_state("x") is None
    with pytest.raises(StoreError, match="does not exist: nothing was written"):
        open_store(f"memory://{tmp_path}/three").zarr(read_only=True)


# Bad places


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/x.zarr", "unknown store scheme 'ftp' in ftp://host/x.zarr.*file, memory, s3, gs, az"),
        ("gcs://bucket/x.zarr", r"unknown store scheme 'gcs'.*did you mean gs\?"),
        ("https://user:hunter2@host/x.zarr?sig=hunter2", "unknown store scheme 'https' in https://host/x.zarr:"),
        ("s3://bucket", r"names no object prefix: give s3://bucket/some/name.zarr, never a bucket's root"),
        ("s3://bucket/", "names no object prefix"),
        ("s3:///name", "names no object prefix"),
        ("gs://bucket/", "names no object prefix"),
        ("az://container", "names no object prefix: give az://container/"),
        ("s3://key:hunter2@bucket/x.zarr", "s3://bucket/x.zarr comes with a user.*never in a URL"),
        ("az://container/x.zarr?sig=hunter2", "az://container/x.zarr comes with.*storage options"),
        ("abfs://container@account.example.org/x.zarr", "is not abfs://container@account.dfs.core.windows.net/"),
        ("abfss://@account.dfs.core.windows.net/x.zarr", "is not abfss://container@account"),
        ("memory://", "names nothing: give memory://name"),
        ("/", "root of a file system"),
    ],
)
def test_places_that_cannot_be(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as error:
        open_store(url)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("url", ["x.zarr", "memory://x"])
def test_options_that_mean_nothing(url: str) -> None:
    with pytest.raises(StoreError, match=rf"'endpoint' has no meaning for {url}: leave it out"):
        open_store(url, {"endpoint": "http://127.0.0.1:1"})


def test_a_file_where_the_output_should_be(tmp_path: Path) -> None:
    (tmp_path / "x.zarr").write_text("")
    with pytest.raises(StoreError, match=r"x\.zarr is a file"):
        open_store(str(tmp_path / "x.zarr"))
    with pytest.raises(StoreError, match=r"x\.zarr is a file"):
        open_store(str(tmp_path / "x.zarr" / "below"))


@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="no folder that even root cannot write")  # noqa: PTH112
def test_a_place_that_cannot_be_written(sandbox: Sandbox) -> None:
    plan = runs.plan_of(sandbox)
    with pytest.raises(StoreError, match=r"/proc/ndvi\.zarr cannot be (written|opened)"):
        runs.run(plan, open_store("/proc/ndvi.zarr"))


# Credentials and addresses


WRONG = {
    "s3": ({"aws_secret_access_key": "hunter2"}, "SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"),
    "az": ({"account_key": "aHVudGVyMg=="}, "403 Forbidden.*AZURE_STORAGE_ACCOUNT_KEY"),
    "gs": ({"bearer_token": "hunter2"}, "401 Unauthorized.*GOOGLE_APPLICATION_CREDENTIALS"),
}


def test_wrong_keys_are_said(sandbox: Sandbox, remote: Location) -> None:
    changed, words = WRONG[remote.base.partition(":")[0]]
    started, store = time.monotonic(), remote.store(**changed)
    with pytest.raises(StoreError, match=rf"{store.url} cannot be listed: .*{words}") as listing:
        store.data_names()
    with pytest.raises(StoreError, match=words) as writing:
        store.put_state("x", b"1")
    with pytest.raises(StoreError, match=words) as running:
        runs.run(runs.plan_of(sandbox), store)
    assert time.monotonic() - started < 5
    for error in (listing, writing, running):
        assert "\n" not in str(error.value)
        assert "hunter2" not in str(error.value)
        assert "aHVudGVyMg" not in str(error.value)


def test_a_bucket_that_is_not_there_is_said(remote: Location) -> None:
    scheme, _, rest = remote.base.partition("://")
    elsewhere = Location(f"{scheme}://no-such-place/{rest.partition('/')[2]}", remote.options)
    started, store = time.monotonic(), elsewhere.store()
    words = "there is no such (bucket|container).*make it, or correct its name"
    with pytest.raises(StoreError, match=rf"{store.url} cannot be listed: {words}"):
        store.data_names()
    with pytest.raises(StoreError, match=words):
        store.get_state("plan.json")
    # SeaweedFS would make the bucket, and says that these keys may not.
    with pytest.raises(StoreError, match=f"{words}|AccessDenied"):
        store.put_state("plan.json", b"1")
    assert time.monotonic() - started < 5


ENDPOINT = {"s3": "endpoint", "gs": "base_url", "az": "endpoint"}
KEYS = {
    "s3": {"access_key_id": "a", "secret_access_key": "b"},
    "gs": {"token": "b"},
    "az": {"account": "a", "account_key": "Yg=="},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERVICES)
def test_an_address_where_nobody_is_is_said(kind: str) -> None:
    store = open_store(f"{kind}://place/out.zarr", {ENDPOINT[kind]: "http://127.0.0.1:9", **KEYS[kind]})
    started = time.monotonic()
    with pytest.raises(
        StoreError, match=rf"{kind}://place/out\.zarr cannot be read: .*error sending request"
    ) as error:
        store.get_state("plan.json")
    assert time.monotonic() - started < 20
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_nobody_s_keys_are_needed_where_none_are(seaweed_s3: services.S3Endpoint, tmp_path: Path) -> None:
    options = {"endpoint": seaweed_s3.url, "anon": "true"}
    store = open_store(f"s3://{seaweed_s3.bucket}/{tmp_path.name}/out.zarr", options)
    assert store.put_state("x", b"1")
    assert store.get_state("x") == b"1"


@pytest.mark.slow
def test_google_without_credentials(
    fake_gcs: services.GcsEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore would look for credentials before a put, though told to sign nothing."""
    monkeypatch.setenv("GOOGLE_BASE_URL", fake_gcs.url)
    store = open_store(f"gs://{fake_gcs.bucket}/{tmp_path.name}/out.zarr", {"skip_signature": "True"})
    assert store.put_state("x", b"1", create=True)
    assert pickle.loads(pickle.dumps(store)).get_state("x") == b"1"  # noqa: S301


@pytest.mark.slow
def test_azure_by_signature_and_by_the_url_s_account(
    azurite: services.AzureEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"account": azurite.account, "endpoint": azurite.url, "sas_token": f"?{azurite.sas()}"}
    store = open_store(f"az://{azurite.container}/{tmp_path.name}/out.zarr", options)
    assert store.put_state("x", b"1", create=True)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.key)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite.url)
    place = f"{azurite.container}@{azurite.account}.dfs.core.windows.net"
    assert open_store(f"abfs://{place}/{tmp_path.name}/out.zarr").get_state("x") == b"1"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azurite.account)
    store = open_store(f"az://{azurite.container}/{tmp_path.name}/out.zarr")
    assert store.get_state("x") == b"1"
    assert azurite.account in repr(store)  # obstore panics when it took the account from the variable itself


@pytest.mark.slow
def test_keys_of_a_profile(
    seaweed_s3: services.S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "config"
    settings.write_text(
        f"[profile ceph]\naws_access_key_id = {seaweed_s3.access_key}\nregion = us-east-1\n"
        f"aws_secret_access_key = {seaweed_s3.secret_key}\nendpoint_url = {seaweed_s3.url}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(settings))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    url = f"s3://{seaweed_s3.bucket}/{tmp_path.name}/out.zarr"
    assert open_store(url, {"profile": "ceph"}).put_state("x", b"1", create=True)
    monkeypatch.setenv("AWS_PROFILE", "ceph")
    store = open_store(url)
    assert store.get_state("x") == b"1"
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_CONFIG_FILE")
    assert seaweed_s3.secret_key.encode() not in pickle.dumps(store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed_s3.access_key)  # a worker has them in another way
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed_s3.secret_key)
    assert pickle.loads(pickle.dumps(store)).get_state("x") == b"1"  # noqa: S301


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("gs://b/x", {"service_account": "/no/such/key.json"}, "/no/such/key.json.*check the credentials"),
        ("gs://b/x", {"service_account_key": '"hunter2"'}, "cannot be opened with these settings.*decode"),
        ("az://c/x", {}, "[Aa]ccount.*AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://c/x", {"account": "a", "key": "hunter2!"}, "Invalid Access Key"),
        ("s3://b/x", {"profile": "p", "key": "k"}, "both profile and access_key_id"),
    ],
)
def test_settings_that_do_not_fit(url: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(StoreError, match=words) as error:
        open_store(url, options)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_token_of_other_keys_is_not_mixed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hunter2")
    with pytest.raises(StoreError, match="AWS_SESSION_TOKEN in the environment is not of the keys given") as error:
        open_store("s3://b/x", {"key": "a", "secret": "b"})
    assert "hunter2" not in str(error.value)
    open_store("s3://b/x", {"key": "a", "secret": "b", "token": "c"})
    open_store("s3://b/x")


@pytest.mark.slow
def test_no_credentials_anywhere_is_said() -> None:
    """The last resort, the machine's role, is asked at an address that every cloud has; here nobody is there."""
    code = (
        "from ndvi_scale import open_store\n"
        "try: open_store('s3://bucket/x.zarr', {'metadata_endpoint': 'http://127.0.0.1:9/169.254.169.254'})"
        ".put_state('x', b'1')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "StoreError s3://bucket/x.zarr cannot be written: no credentials were found" in done.stdout


def test_a_region_that_cannot_be_stored_is_said_in_a_line(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, store = runs.finished_store(sandbox, tmp_path)
    region = next(iter(plan.regions()))
    arrays = open_arrays(store, plan)
    values = np.ones(plan.region_geobox(region).shape, "i2")
    (tmp_path / "ndvi.zarr/ndvi").rename(tmp_path / "away")
    (tmp_path / "ndvi.zarr/ndvi").write_text("in the way")
    with pytest.raises(StoreError, match=r"region \(0, 0, 0\) of ndvi cannot be written: ") as error:
        write_region(arrays, plan, region, {"ndvi": values})
    assert "\n" not in str(error.value)
    with pytest.raises(StoreError, match="cannot be read: "):
        store_digest(store)


def test_what_obstore_says_needs_shortening() -> None:
    """The reason for `brief`: gone when obstore's messages are one line."""
    with pytest.raises(FileNotFoundError) as error:
        obstore.get(obstore.store.MemoryStore(), "absent")
    assert "Debug source" in str(error.value)
