from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
import zarr

import runs
from ndvi_scale import open_store, store_digest
from ndvi_scale.batch import check_ours
from ndvi_scale.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    import services
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The contract below holds for every kind of store."""
    if request.param == "file":
        return open_store(str(tmp_path / "deep" / "out.zarr"))
    endpoint: services.S3Endpoint = request.getfixturevalue("seaweed_s3")
    return open_store(f"s3://{endpoint.bucket}/{tmp_path.name}/out.zarr", dict(endpoint.options))


def test_an_empty_place_has_nothing(store: Store) -> None:
    assert store.get_state("plan.json") is None
    assert store.state_names() == []
    assert store.data_names() == []
    assert store.data_size() == (0, 0)
    store.delete()


def test_what_is_put_is_there(store: Store) -> None:
    assert store.put_state("ledger/1.jsonl", b"one")
    assert store.put_state("plan.json", b"two")
    assert store.get_state("ledger/1.jsonl") == b"one"
    assert store.state_names() == ["ledger/1.jsonl", "plan.json"]
    assert store.state_names("ledger/") == ["ledger/1.jsonl"]
    assert store.put_state("plan.json", b"three")
    assert store.get_state("plan.json") == b"three"


def test_create_never_replaces(store: Store) -> None:
    assert store.put_state("plan.json", b"first", create=True)
    assert not store.put_state("plan.json", b"second", create=True)
    assert store.get_state("plan.json") == b"first"


def test_state_and_data_lie_apart(store: Store) -> None:
    store.put_state("plan.json", b"{}")
    zarr.create_array(store.zarr(), name="a", shape=(4,), dtype="i2")
    assert store.state_names() == ["plan.json"]
    assert all(name.startswith(("a/", "zarr.json")) for name in store.data_names())
    store.delete()
    assert store.state_names() == store.data_names() == []


def test_a_store_travels(store: Store) -> None:
    store.put_state("x", b"1")
    assert pickle.loads(pickle.dumps(store)).get_state("x") == b"1"  # noqa: S301 - our own bytes


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a" / "out.zarr"))
    store.data_names()
    store.get_state("plan.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/x.zarr", "unknown store scheme 'ftp'.*file, s3"),
        ("s3://bucket", "names no object prefix.*never a bucket's root"),
        ("s3://bucket/", "names no object prefix"),
        ("s3:///name", "names no object prefix"),
        ("/", "root of a file system"),
    ],
)
def test_places_that_cannot_be(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        open_store(url)


def test_options_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"'endpoint' has no meaning for the local path"):
        open_store(str(tmp_path / "x.zarr"), {"endpoint": "http://127.0.0.1:1"})
    with pytest.raises(StoreError, match=r"storage options for s3://b/x cannot be used.*colour"):
        open_store("s3://b/x", {"colour": "red"})


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


def test_a_bucket_that_is_away_is_said() -> None:
    options = {"endpoint": "http://127.0.0.1:9", "access_key_id": "a", "secret_access_key": "b", "region": "x"}
    store = open_store("s3://bucket/out.zarr", options)
    with pytest.raises(StoreError, match=r"s3://bucket/out\.zarr cannot be read") as error:
        store.get_state("plan.json")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_s3_holds_what_a_folder_holds(sandbox: Sandbox, tmp_path: Path, seaweed_s3: services.S3Endpoint) -> None:
    plan, local = runs.finished_store(sandbox, tmp_path)
    options = dict(seaweed_s3.options)
    remote = open_store(f"s3://{seaweed_s3.bucket}/{tmp_path.name}/ndvi.zarr", options)
    report = runs.run(plan, remote)
    assert report.done == report.regions
    assert store_digest(remote) == store_digest(local)
    with xr.open_zarr(remote.zarr(read_only=True)) as there, xr.open_zarr(local.url) as here:
        np.testing.assert_array_equal(there["ndvi"].values, here["ndvi"].values)
    assert runs.run(plan, remote).computed == 0
    check_ours(remote)
    remote.delete()
    assert remote.data_names() == remote.state_names() == []
