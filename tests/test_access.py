"""Access: tokens while they live, keys to their own places only, nothing of either in what is written."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pytest
from rasterio._env import get_gdal_config

import access_services
from ndvi_scale import access, sources, tokens
from ndvi_scale.access import Opening, open_access, require_keys
from ndvi_scale.errors import ConfigError, ReadError
from ndvi_scale.lattice import Window
from ndvi_scale.readers import READERS, open_reader
from ndvi_scale.readers.gdal import heard, with_access
from ndvi_scale.sources import Access, Limits
from test_readers import Stored, asset_of, cut, pixels, whole, write_cog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import services

pytestmark = pytest.mark.slow  # servers whose tokens have to die

CANARY = "canary-7f3a"
EODATA = "s3://eodata/Sentinel-2/B04.tif"
UNREACHABLE = "http://127.0.0.9:1"


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return write_cog(tmp_path_factory.mktemp("cog") / "cog.tif", pixels(700, 900), 128)


def rules(monkeypatch: pytest.MonkeyPatch, **changes: dict[str, Any]) -> None:
    """The known rules, some of them changed."""
    changed = [replace(rule, **changes.get(rule.name.replace("-", "_"), {})) for rule in sources.ACCESS]
    monkeypatch.setattr(sources, "ACCESS", tuple(changed))


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[access_services.SasService]:
    """A place for signed links that stands for the Planetary Computer."""
    for name in ("PC_SDK_SAS_URL", "PC_SDK_SUBSCRIPTION_KEY"):
        monkeypatch.setenv(name, "")
    with access_services.sas_service(tmp_path) as service:
        place = {"hosts": (access_services.BLOBS,), "token_url": service.token_url}
        rules(monkeypatch, planetary_computer=place)
        yield service


@pytest.fixture
def cdse(eodata_s3: access_services.KeyedS3, monkeypatch: pytest.MonkeyPatch) -> access_services.KeyedS3:
    """S3 that stands for CDSE's, with its keys in the environment."""
    rules(monkeypatch, cdse={"endpoint": eodata_s3.url})
    monkeypatch.setenv("CDSE_ACCESS_KEY_ID", eodata_s3.key)
    monkeypatch.setenv("CDSE_SECRET_ACCESS_KEY", eodata_s3.secret)
    return eodata_s3


def blob(service: access_services.SasService, cog: Stored, name: str) -> str:
    place = service.blobs.directory / "sentinel2-l2" / name
    place.parent.mkdir(exist_ok=True)
    shutil.copy(cog.path, place)
    return f"{service.blobs.url}/sentinel2-l2/{name}"


def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of somebody's AWS account, as they lie about in environments."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKIA-{CANARY}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"secret-{CANARY}")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"session-{CANARY}")


# Signed links


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_signed_link_is_made_at_the_moment_of_reading(
    azure: access_services.SasService, cog: Stored, name: str
) -> None:
    href = blob(azure, cog, "a.tif")
    data, _ = open_reader(name).read("item", asset_of(href, cog.shape), Window(100, 200, 300, 400))
    np.testing.assert_array_equal(data, cut(cog.dn, Window(100, 200, 300, 400)))
    assert [path for path, _ in azure.asked] == ["/token/127/sentinel2-l2"]
    assert azure.refused == []


def test_many_threads_share_one_request_for_a_token(azure: access_services.SasService, cog: Stored) -> None:
    azure.delay = 0.3
    hrefs = [blob(azure, cog, f"{number}.tif") for number in range(12)]
    reader = open_reader()
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda href: reader.read("i", asset_of(href, cog.shape), whole(cog.shape))[0], hrefs))
    assert all((data == cog.dn).all() for data in found)
    assert len(azure.asked) == 1


def test_two_containers_have_a_token_each(azure: access_services.SasService) -> None:
    rule = sources.access_of(f"{azure.blobs.url}/one/a.tif")
    assert rule is not None
    found = {name: tokens.TOKENS.token(rule, f"{azure.blobs.url}/{name}/a.tif") for name in ("one", "two", "one")}
    assert len(azure.asked) == 2
    assert found["one"] != found["two"]


@pytest.mark.slow
def test_a_run_outlives_its_tokens(azure: access_services.SasService, cog: Stored) -> None:
    azure.lifetime = 1.5
    href, reader, started, reads = blob(azure, cog, "long.tif"), open_reader(), time.monotonic(), 0

    def read(number: int) -> bool:
        window = Window(number % 5 * 100, number % 7 * 100, 120, 130)
        return bool((reader.read("i", asset_of(href, cog.shape), window)[0] == cut(cog.dn, window)).all())

    with ThreadPoolExecutor(3) as pool:
        while time.monotonic() - started < 5 * azure.lifetime:
            assert all(pool.map(read, range(reads, reads + 30)))
            reads += 30
    assert azure.refused == []
    assert 5 <= len(azure.asked) <= 8  # one every 1.2 s


@pytest.mark.parametrize(("name", "opened"), [("rasterio", True), ("rasterio", False), ("stackstac", False)])
def test_a_token_that_is_refused_is_renewed_once(
    azure: access_services.SasService, cog: Stored, monkeypatch: pytest.MonkeyPatch, name: str, *, opened: bool
) -> None:
    monkeypatch.setattr(tokens, "YOUNG_S", 0.0)
    reader, href = open_reader(name), blob(azure, cog, f"revoked-{name}-{opened}.tif")
    asset = asset_of(href, cog.shape)
    if opened:
        reader.read("item", asset, Window(0, 0, 10, 10))
    else:
        open_access(href)
    azure.revoke()
    data, _ = reader.read("item", asset, Window(500, 500, 200, 200))
    np.testing.assert_array_equal(data, cut(cog.dn, Window(500, 500, 200, 200)))
    assert len(azure.asked) == 2
    assert azure.refused


def test_a_blob_that_is_refused_whatever_the_token(
    azure: access_services.SasService, cog: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "YOUNG_S", 0.0)
    href = blob(azure, cog, "forbidden.tif")
    azure.blobs.fail("/sentinel2-l2/forbidden.tif", 403)
    with pytest.raises(ReadError, match="refused the signed link, also a new one") as caught:
        open_reader().read("item", asset_of(href, cog.shape), Window(0, 0, 10, 10))
    assert not caught.value.permanent
    assert len(azure.asked) == 2


def test_refused_reads_do_not_storm_the_token_endpoint(azure: access_services.SasService, cog: Stored) -> None:
    href, reader = blob(azure, cog, "storm.tif"), open_reader()
    azure.blobs.fail("/sentinel2-l2/storm.tif", 403)
    for _ in range(5):
        with pytest.raises(ReadError):
            reader.read("item", asset_of(href, cog.shape), Window(0, 0, 10, 10))
    assert len(azure.asked) <= 2


@pytest.mark.parametrize("status", [401, 404])
def test_an_endpoint_that_gives_no_token(azure: access_services.SasService, cog: Stored, status: int) -> None:
    azure.status = status
    with pytest.raises(ReadError, match=f"no token for 127/sentinel2-l2 .*{status}") as caught:
        open_reader().read("item", asset_of(blob(azure, cog, "a.tif"), cog.shape), Window(0, 0, 10, 10))
    assert not caught.value.permanent


def test_the_variables_of_microsofts_sdk(
    azure: access_services.SasService, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules(monkeypatch, planetary_computer={"hosts": (access_services.BLOBS,), "token_url": UNREACHABLE})
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{azure.token_url}/")
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", CANARY)
    opening = open_access(f"{azure.blobs.url}/sentinel2-l2/a.tif?kept=1")
    assert opening.path.startswith(f"/vsicurl/{azure.blobs.url}/sentinel2-l2/a.tif?kept=1&st=")
    assert azure.asked[0][1]["Ocp-Apim-Subscription-Key"] == CANARY
    assert "secret" not in repr(opening)


def test_a_token_never_goes_over_the_wire_in_the_clear(
    azure: access_services.SasService, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules(monkeypatch, planetary_computer={"hosts": ("tiles.example.org",), "token_url": azure.token_url})
    opening = open_access("http://tiles.example.org/c/a.tif")
    assert opening.path.startswith("/vsicurl/https://tiles.example.org/c/a.tif?st=")


def test_an_endpoint_that_redirects_gets_no_subscription_key_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", CANARY)
    with (
        access_services.listening() as other,
        access_services.listening(access_services.TOKENS, redirect_to=other.url) as endpoint,
    ):
        monkeypatch.setenv("PC_SDK_SAS_URL", endpoint.url)
        rules(monkeypatch, planetary_computer={"hosts": (access_services.BLOBS,)})
        with pytest.raises(ConnectionError, match="redirects"):
            open_access(f"http://{access_services.BLOBS}/sentinel2-l2/a.tif")
        assert CANARY in endpoint.everything
        assert other.paths == []


def test_a_token_is_not_sent_across_a_redirect(
    azure: access_services.SasService, cog: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        access_services.listening() as other,
        access_services.listening("127.0.0.5", redirect_to=other.url) as blobs,
    ):
        place = {"hosts": ("127.0.0.5",), "token_url": azure.token_url}
        rules(monkeypatch, planetary_computer=place)
        with pytest.raises(ReadError):
            open_reader().read("i", asset_of(f"{blobs.url}/c/a.tif", cog.shape), Window(0, 0, 9, 9))
        assert "sig=" in blobs.everything
        assert other.paths
        assert "sig" not in other.everything
        assert "canary" not in other.everything


# Keys


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("elsewhere", [True, False])
def test_cdse_is_read_with_its_own_keys(
    cdse: access_services.KeyedS3, cog: Stored, monkeypatch: pytest.MonkeyPatch, name: str, *, elsewhere: bool
) -> None:
    cdse.put(f"{name}.tif", cog.path)
    aws_keys(monkeypatch)
    reader, asset = open_reader(name), asset_of(f"s3://eodata/{name}.tif", cog.shape)
    if elsewhere:
        with ThreadPoolExecutor(1) as pool:
            data, _ = pool.submit(reader.read, "item", asset, whole(cog.shape)).result()
    else:
        data, _ = reader.read("item", asset, whole(cog.shape))
    np.testing.assert_array_equal(data, cog.dn)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_keys(
    cdse: access_services.KeyedS3, cog: Stored, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    name = {"key": "CDSE_ACCESS_KEY_ID", "secret": "CDSE_SECRET_ACCESS_KEY"}[wrong]
    monkeypatch.setenv(name, f"wrong-{CANARY}")
    cdse.put(f"wrong-{wrong}.tif", cog.path)
    with pytest.raises(ReadError) as caught:
        open_reader().read("item", asset_of(f"s3://eodata/wrong-{wrong}.tif", cog.shape), Window(0, 0, 9, 9))
    said = str(caught.value)
    assert "refused the keys in CDSE_ACCESS_KEY_ID and CDSE_SECRET_ACCESS_KEY" in said, said
    assert "eodata-s3keysmanager" in said
    assert CANARY not in said
    assert not caught.value.permanent


@pytest.mark.slow
def test_an_object_that_is_not_there(cdse: access_services.KeyedS3, cog: Stored) -> None:
    with pytest.raises(ReadError) as caught:
        open_reader().read("item", asset_of("s3://eodata/absent.tif", cog.shape), Window(0, 0, 9, 9))
    assert caught.value.permanent, str(caught.value)


@pytest.mark.parametrize("missing", ["CDSE_ACCESS_KEY_ID", "CDSE_SECRET_ACCESS_KEY"])
def test_missing_keys_are_named_before_anything_is_read(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    aws_keys(monkeypatch)
    for name in ("CDSE_ACCESS_KEY_ID", "CDSE_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv(missing, "")
    require_keys(["https://sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif", "s3://elsewhere/a.tif", "/a.tif"])
    with pytest.raises(ConfigError, match=rf"^{missing} not set: .*eodata-s3keysmanager"):
        require_keys([EODATA])
    with pytest.raises(ConfigError, match=missing) as caught:
        open_reader().read("item", asset_of(EODATA, (9, 9)), Window(0, 0, 9, 9))
    assert CANARY not in str(caught.value)


def listened(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Rules whose S3 is a server that listens."""
    rules(
        monkeypatch,
        cdse={"endpoint": url},
        sentinel_s2_l2a={"endpoint": url},
        earth_search={"endpoint": url},
    )


def sent(monkeypatch: pytest.MonkeyPatch, href: str, *, redirect_to: str = "") -> access_services.Seen:
    """What a server is sent when an asset is read from it, whatever keys lie about."""
    aws_keys(monkeypatch)
    monkeypatch.setenv("CDSE_ACCESS_KEY_ID", "cdse-key")
    monkeypatch.setenv("CDSE_SECRET_ACCESS_KEY", "cdse-secret")
    with access_services.listening(redirect_to=redirect_to) as server:
        listened(monkeypatch, server.url)
        monkeypatch.setenv("AWS_S3_ENDPOINT", server.url.removeprefix("http://"))
        monkeypatch.setenv("AWS_HTTPS", "NO")
        monkeypatch.setenv("AWS_VIRTUAL_HOSTING", "FALSE")
        monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
        with pytest.raises(ReadError):
            open_reader().read("i", asset_of(href.format(server.url), (9, 9)), Window(0, 0, 9, 9))
        assert server.paths, "it was not asked"
        return server


@pytest.mark.parametrize("href", ["{}/a.tif", "s3://unknown/a.tif", "s3://sentinel-cogs/a.tif"])
def test_what_needs_no_keys_gets_none(monkeypatch: pytest.MonkeyPatch, href: str) -> None:
    seen = sent(monkeypatch, href)
    assert all("authorization" not in headers for headers in seen.headers)
    assert all("x-amz-request-payer" not in headers for headers in seen.headers)
    assert CANARY not in seen.everything
    assert "cdse-" not in seen.everything


def test_cdse_gets_its_key_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = sent(monkeypatch, "s3://eodata/cdse-only.tif")
    assert all("Credential=cdse-key/" in headers["authorization"] for headers in seen.headers)
    assert seen.paths[0].startswith("/eodata/cdse-only.tif")  # the bucket in the path
    assert CANARY not in seen.everything
    assert "cdse-secret" not in seen.everything


def test_who_pays_is_said_with_the_keys_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = sent(monkeypatch, "s3://sentinel-s2-l2a/tiles/a.jp2.tif")
    assert all(f"Credential=AKIA-{CANARY}/" in headers["authorization"] for headers in seen.headers)
    assert all(headers["x-amz-request-payer"] == "requester" for headers in seen.headers)
    assert all(headers["x-amz-security-token"] == f"session-{CANARY}" for headers in seen.headers)
    assert f"secret-{CANARY}" not in seen.everything


def test_keys_are_not_sent_across_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    with access_services.listening("127.0.0.5") as other:
        seen = sent(monkeypatch, "s3://eodata/moved.tif", redirect_to=other.url)
        assert "authorization" in seen.everything
        assert all("authorization" not in headers for headers in other.headers)
        assert "cdse-key" not in other.everything


def test_keys_are_in_no_other_threads_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """rasterio sets options for the whole process when it is the main thread that asks."""
    monkeypatch.setenv("CDSE_ACCESS_KEY_ID", "cdse-key")
    monkeypatch.setenv("CDSE_SECRET_ACCESS_KEY", "cdse-secret")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    found = {}

    def look(opening: Opening, _: object) -> None:
        found["here"] = get_gdal_config("AWS_SECRET_ACCESS_KEY")
        other = threading.Thread(target=lambda: found.update(there=get_gdal_config("AWS_SECRET_ACCESS_KEY")))
        other.start()
        other.join()

    assert threading.current_thread() is threading.main_thread()
    with_access("item", asset_of(EODATA, (9, 9)), look)
    assert found == {"here": "cdse-secret", "there": None}
    assert get_gdal_config("AWS_SECRET_ACCESS_KEY") is None


# Other places


def test_buckets_of_other_clouds_are_read_anonymously(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account")
    assert open_access("gs://bucket/a.tif").path == "/vsigs/bucket/a.tif"
    assert open_access("az://container/a.tif").path == "/vsiaz/container/a.tif"
    options = open_access("gs://bucket/a.tif").options
    assert (options["GS_NO_SIGN_REQUEST"], options["AZURE_NO_SIGN_REQUEST"]) == ("YES", "YES")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT")
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT"):
        open_access("az://container/a.tif")


@pytest.mark.parametrize("scheme", ["abfs", "abfss", "az"])
def test_a_container_with_its_account_is_a_blob(azure: access_services.SasService, scheme: str) -> None:
    opening = open_access(f"{scheme}://tiles@account.dfs.core.windows.net/a/b.tif")
    assert opening.path == "/vsicurl/https://account.blob.core.windows.net/tiles/a/b.tif"
    assert not opening.token


def test_local_files_are_opened_as_they_are() -> None:
    assert open_access("/data/a b.tif") == Opening("/data/a b.tif")
    assert open_access("file:///data/a%20b.tif") == Opening("/data/a b.tif")


def test_google_anonymously_over_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GS_ACCESS_KEY_ID", CANARY)
    monkeypatch.setenv("GS_SECRET_ACCESS_KEY", CANARY)
    with access_services.listening() as server:
        monkeypatch.setenv("CPL_GS_ENDPOINT", f"{server.url}/")
        with pytest.raises(ReadError):
            open_reader().read("i", asset_of("gs://bucket/a.tif", (9, 9)), Window(0, 0, 9, 9))
        assert unquote(server.paths[0]).startswith("/bucket/a.tif")
        assert CANARY not in server.everything


# What is written


def test_no_secret_in_logs_and_messages(
    azure: access_services.SasService,
    cog: Stored,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(heard, "_shown_from", {})
    for name in (
        "",
        "rasterio",
        "rasterio._env",
        "rasterio._err",
        "rasterio._base",
        "rasterio._io",
        "rasterio.env",
    ):
        caplog.set_level(logging.DEBUG, logger=name)  # whatever a command line in this process has set
    monkeypatch.setitem(access._ANONYMOUS, "GDAL_HTTP_MAX_RETRY", "1")
    monkeypatch.setenv("CPL_DEBUG", "ON")
    monkeypatch.setenv("CDSE_ACCESS_KEY_ID", f"key-{CANARY}")
    monkeypatch.setenv("CDSE_SECRET_ACCESS_KEY", f"secret-{CANARY}")
    rules(monkeypatch, cdse={"endpoint": UNREACHABLE})
    reader, href = open_reader("rasterio"), blob(azure, cog, "log.tif")
    reader.read("item", asset_of(href, cog.shape), Window(0, 0, 300, 300))
    azure.blobs.fail("/sentinel2-l2/log.tif", 429)
    messages = []
    for wanted, window in ((href, Window(400, 400, 300, 300)), (f"{href}.absent", Window(0, 0, 9, 9))):
        with pytest.raises(ReadError) as caught:
            reader.read("item", asset_of(wanted, cog.shape), window)
        messages.append(str(caught.value))
    with pytest.raises(ReadError) as caught:
        reader.read("item", asset_of("s3://eodata/log.tif", cog.shape), Window(0, 0, 9, 9))
    text = "\n".join([*messages, str(caught.value), caplog.text])
    assert "rasterio" in caplog.text
    assert "sig=" not in text
    assert "canary" not in text


# Limits


def test_the_limits_of_a_rule_reach_gdal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDSE_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("CDSE_SECRET_ACCESS_KEY", "b")
    assert open_access(EODATA).options["GDAL_HTTP_MULTIRANGE"] == "SERIAL"
    assert "GDAL_HTTP_MULTIRANGE" not in open_access("https://example.org/a.tif").options


def test_a_slow_rule_slows_its_reads(
    range_http: services.RangeServer, cog: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    range_http.reset()
    shutil.copy(cog.path, range_http.directory / "slow-rule.tif")
    slow = Access("slow", hosts=("127.0.0.1",), limits=Limits(connections=2, requests_a_minute=60 * 20))
    monkeypatch.setattr(sources, "ACCESS", (slow,))
    reader, asset = open_reader(), asset_of(f"{range_http.url}/slow-rule.tif", cog.shape)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        traffic = list(
            pool.map(lambda row: reader.read("i", asset, Window(row, 0, 128, 128))[1], range(256, 640, 128))
        )
    requests = sum(each.requests for each in traffic)
    assert time.monotonic() - started >= (requests - traffic[-1].requests) / 20
