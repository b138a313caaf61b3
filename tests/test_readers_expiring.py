"""Links that die while a run lasts: they are made when a block is read, by a token that is asked for seldom.

A whole minute, as the issue has it: ``NDVI_SCALE_EXPIRING_S=60 pytest --timeout=200`` on this file.
Times scale with it: links that live 5 s of 60, a request for a token in 60.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import access_services
import runs
from crafted_tiffs import apart, pixels, write_tiff
from ndvi_scale import RunConfig, build_plan, open_ndvi, open_reader, open_store, search_items, sources
from ndvi_scale.errors import ReadError
from ndvi_scale.lattice import Window
from ndvi_scale.readers.cog import CogReader
from ndvi_scale.readers.patience import Patience
from test_readers import asset_of, whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from access_services import SasService
    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox

pytestmark = pytest.mark.slow

RUN_S = float(os.environ.get("NDVI_SCALE_EXPIRING_S", "6"))
LINK_S = RUN_S / 12
"""5 s of a minute."""
TOKEN_S = max(4.0, LINK_S)
"""The same of tokens, but not so short that a read on a busy machine takes longer than what is left of one."""
NAMES = ("cog", "rasterio")


@pytest.fixture
def azure(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[SasService]:
    """The sandbox as blobs behind a place that signs, which stands for the Planetary Computer."""
    for name in ("PC_SDK_SAS_URL", "PC_SDK_SUBSCRIPTION_KEY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("ndvi_scale.readers.blocks.CACHE_BYTES", 0)  # every region asks for its blocks
    shutil.copytree(sandbox.items.parent, tmp_path / "blobs" / "sentinel2-l2")
    with access_services.sas_service(tmp_path / "blobs") as service:
        rules = {rule.name: rule for rule in sources.ACCESS}
        here: dict[str, Any] = {"hosts": (access_services.BLOBS,), "token_url": service.token_url}
        rules["planetary-computer"] = replace(rules["planetary-computer"], **here)
        monkeypatch.setattr(sources, "ACCESS", tuple(rules.values()))
        yield service


def signed_plan(service: SasService, sandbox: Sandbox, folder: Path) -> Plan:
    """A plan from items whose links a search has signed, for `LINK_S`."""
    document = json.loads(sandbox.items.read_text())
    for feature in document["features"]:
        for asset in feature["assets"].values():
            path = asset["href"].removeprefix("./")
            asset["href"] = f"{service.blobs.url}/sentinel2-l2/{path}?{service.issue(LINK_S)['token']}"
    (folder / "items.json").write_text(json.dumps(document))
    return build_plan(search_items(folder / "items.json"), RunConfig(crs="EPSG:32631", chunk=64))


def slowly(service: SasService, plan: Plan, folder: Path, name: str) -> np.ndarray:
    """A run that lasts `RUN_S`, its regions and what they ask for spread over that time."""
    store, started = open_store(str(folder / "ndvi.zarr")), time.monotonic()
    pause = RUN_S / len(plan.index)
    report = runs.run(plan, store, reader=open_reader(name), on_done=lambda _: time.sleep(pause))
    assert not report.failed, report.failed
    assert time.monotonic() - started >= RUN_S
    if name == "cog":  # GDAL keeps blocks of its own
        assert service.blobs.count() >= len(plan.index) > 3 * RUN_S / LINK_S
    return codes(store)


def codes(store: Any) -> np.ndarray:
    return np.asarray(zarr.open_array(store.zarr(read_only=True), path="ndvi", mode="r")[:])


@pytest.fixture
def expected(sandbox: Sandbox, tmp_path: Path) -> np.ndarray:
    """The same pixels from a disk."""
    store = open_store(str(tmp_path / "expected.zarr"))
    runs.run(runs.plan_of(sandbox), store, reader=open_reader("rasterio"))
    return codes(store)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_outlives_the_links_of_its_items_with_one_request_for_a_token(
    azure: SasService, sandbox: Sandbox, tmp_path: Path, expected: np.ndarray, name: str
) -> None:
    """Links made by the search are dead after a twelfth of the run; tokens live on, as the provider's do."""
    azure.lifetime = 10 * RUN_S
    plan = signed_plan(azure, sandbox, tmp_path)
    np.testing.assert_array_equal(slowly(azure, plan, tmp_path, name), expected)
    assert azure.refused == []
    assert len(azure.asked) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_run_outlives_tokens_that_die_as_fast_as_links(
    azure: SasService, sandbox: Sandbox, tmp_path: Path, expected: np.ndarray, name: str
) -> None:
    """No token lasts: each is asked for after four fifths of the life of the one before, and nothing is refused."""
    azure.lifetime = TOKEN_S
    plan = signed_plan(azure, sandbox, tmp_path)
    np.testing.assert_array_equal(slowly(azure, plan, tmp_path, name), expected)
    assert azure.refused == []
    assert 0.8 * RUN_S / TOKEN_S <= len(azure.asked) <= RUN_S / (0.8 * TOKEN_S) + 2


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_outlives_the_links_that_it_was_built_from(
    azure: SasService, sandbox: Sandbox, tmp_path: Path, expected: np.ndarray, name: str
) -> None:
    """Nothing is signed while a graph is built, and nothing that signs is in it."""
    azure.lifetime = 3600.0
    lazy = open_ndvi(signed_plan(azure, sandbox, tmp_path), reader=open_reader(name))
    assert azure.asked == []
    time.sleep(1.5 * LINK_S)
    found = lazy.compute(scheduler="threads", num_workers=2).to_numpy()
    np.testing.assert_array_equal(np.isnan(found), expected == expected.min())
    assert azure.refused == []
    assert len(azure.asked) == 1


# Tokens that die on the way


def scattered(service: SasService) -> tuple[Any, np.ndarray]:
    """A file of many blocks that do not lie one after another, so that each is a request."""
    dn = pixels((1024, 1024))
    path = write_tiff(
        service.blobs.directory / "sentinel2-l2" / "many.tif",
        dn,
        tiled=True,
        blockxsize=64,
        blockysize=64,
        compress="deflate",
    )
    apart(path)
    return asset_of(f"{service.blobs.url}/sentinel2-l2/many.tif", dn.shape), dn


def test_a_request_that_waits_its_turn_is_signed_when_its_turn_comes(azure: SasService) -> None:
    """256 requests, of which 32 are in flight: the last wait longer than a token is good for when it is renewed."""
    asset, dn = scattered(azure)
    azure.lifetime, azure.pause = 2.5, 0.3
    data, _ = open_reader("cog").read("item", asset, whole(dn.shape))
    np.testing.assert_array_equal(data, dn)
    assert azure.refused == []


def test_a_token_that_is_taken_back_is_asked_for_once_by_all(
    azure: SasService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndvi_scale.tokens.YOUNG_S", 0.0)
    asset, dn = scattered(azure)
    reader = open_reader("cog")
    reader.read("item", asset, Window(0, 0, 1, 1))
    azure.revoke()
    azure.pause = 0.02
    with ThreadPoolExecutor(4) as pool:
        rows = [Window(row, 0, 256, 1024) for row in range(0, 1024, 256)]
        found = list(pool.map(lambda window: reader.read("item", asset, window)[0], rows))
    np.testing.assert_array_equal(np.concatenate(found), dn)
    assert azure.refused
    assert len(azure.asked) == 2


def test_what_is_refused_whatever_the_token_is_one_error(azure: SasService) -> None:
    asset, dn = scattered(azure)
    azure.blobs.fail("/sentinel2-l2/many.tif", 403)
    for _ in range(3):
        with pytest.raises(ReadError, match="refused the signed link") as caught:
            open_reader("cog").read("item", asset, whole(dn.shape))
        assert "canary" not in repr(caught.value)
        assert not caught.value.permanent
    assert len(azure.asked) <= 2


def test_an_endpoint_that_is_away_for_a_moment(azure: SasService) -> None:
    asset, dn = scattered(azure)
    azure.status = 503
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(open_reader("cog").read, "item", asset, whole(dn.shape))
        time.sleep(0.8)
        azure.status = 200
        np.testing.assert_array_equal(reading.result()[0], dn)
    assert azure.refused == []


@pytest.mark.parametrize("status", [401, 503])
def test_an_endpoint_that_gives_no_more_tokens_is_not_stormed(
    azure: SasService, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of requests want the same token: they hear of its failure together."""
    monkeypatch.setattr("ndvi_scale.tokens._TRIES_AGAIN", 1)
    asset, dn = scattered(azure)
    reader = CogReader(Patience(tries=3, first_wait=0.1))
    reader.read("item", asset, Window(0, 0, 1, 1))
    time.sleep(1.1)
    azure.revoke()
    azure.asked.clear()
    azure.status = status
    started = time.monotonic()
    with pytest.raises(ReadError, match="no token for") as caught:
        reader.read("item", asset, whole(dn.shape))
    assert not caught.value.permanent
    assert "canary" not in repr(caught.value)
    time.sleep(1.0)  # others that were on their way
    assert len(azure.asked) <= 5 * (time.monotonic() - started) + 2
