"""What rows compute: days, regions, and sources that keep an emulated node waiting."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndvi_scale import open_reader
from ndvi_scale.bench.origin import Pace, serve
from ndvi_scale.bench.rows import Cell
from ndvi_scale.bench.workload import Sources, dates_of, days_of, plan_of, regions_of
from ndvi_scale.errors import ConfigError
from ndvi_scale.region import compute_region

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN = build_opener(ProxyHandler({})).open


def cell(**given: Any) -> Cell:
    fixed = {"study": "one", "kind": "strong", "cluster": "local", "workers": 1, "threads": 1, "chunk": 64}
    rest = {"shard": None, "store": "disk", "workload": "daily", "regions": 3, "tile": 64}
    return Cell(**fixed | rest | given)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    with Sources(tmp_path_factory.mktemp("sources"), lambda _: None, Pace(delay=0.01)) as made:
        yield made


@given(count=st.integers(1, 400))
def test_days_are_in_order_and_each_once(count: int) -> None:
    for workload in ("daily", "monthly"):
        days = days_of(workload, count)
        assert days == sorted(set(days))
        assert len(days) == count
    months = [(day.year, day.month) for day in days_of("monthly", count)]
    assert len(set(months)) == -(-count // 6)


@given(
    workload=st.sampled_from(["daily", "monthly"]),
    chunk=st.sampled_from([64, 256]),
    across=st.integers(1, 4),
    layers=st.integers(1, 30),
)
def test_dates_and_regions_are_each_others_inverse(workload: str, chunk: int, across: int, layers: int) -> None:
    dates = layers if workload == "daily" else 6 * layers
    regions = regions_of(workload, across * chunk, chunk, dates)
    assert regions == layers * across**2
    assert dates_of(cell(workload=workload, chunk=chunk, tile=across * chunk, regions=regions)) == dates


@pytest.mark.parametrize("workload", ["daily", "monthly"])
@pytest.mark.parametrize("source", ["origin", "files"])
def test_a_plan_has_the_regions_that_its_cell_says(sources: Sources, workload: str, source: str) -> None:
    asked = cell(workload=workload, source=source, regions=8, tile=128)
    plan = plan_of(asked, sources.items(asked, "tag"))
    assert len(plan.index) == 8
    assert len(plan.layers) == 2


def test_the_same_pixels_under_any_tag_and_from_files(sources: Sources) -> None:
    found = []
    for tag, source in (("a", "origin"), ("b", "origin"), ("c", "files")):
        asked = cell(source=source)
        plan, reader = plan_of(asked, sources.items(asked, tag)), open_reader()
        found.append([compute_region(plan, region, reader)[0]["ndvi"].tobytes() for region in plan.regions()])
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) > 1


def test_a_server_of_its_own_for_each_rate(sources: Sources) -> None:
    usual, slow = cell(), cell(seconds=0.4)
    assert sources.origin(usual) is sources.origin(cell(regions=5))
    assert sources.origin(usual) is not sources.origin(slow)


@pytest.mark.slow
def test_an_emulated_node_waits_for_its_bytes(sources: Sources) -> None:
    slow = cell(seconds=0.5)
    red = next(sources.archive(slow).rglob("red.tif")).relative_to(sources.archive(slow).parent)
    size = next(sources.archive(slow).rglob("red.tif")).stat().st_size
    url = f"{sources.origin(slow).url}/tag/{red}"
    began = time.perf_counter()
    with OPEN(Request(url, headers={"Range": f"bytes=0-{size - 1}"})) as answer:  # noqa: S310
        assert len(answer.read()) == size
    part = size / (size + (32 << 10))  # the rest of the time is the header's
    assert time.perf_counter() - began >= 0.45 * part


def test_an_origin_listens_where_the_table_says(tmp_path: Path) -> None:
    with (
        Sources(tmp_path, lambda _: None, Pace(host="192.0.2.77")) as far,
        pytest.raises(ConfigError, match=r"host '192.0.2.77'.*address of this machine"),
    ):
        far.origin(cell())


def test_an_origin_serves_a_folder_that_is_named_relatively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends what a run that was killed has left there."""
    monkeypatch.chdir(tmp_path)
    Path("root").mkdir()
    Path("root/a.bin").write_bytes(b"0123456789")

    def served(url: str) -> bytes:
        with OPEN(Request(f"{url}/tag/copy-1/a.bin", headers={"Range": "bytes=2-4"})) as answer:  # noqa: S310
            return answer.read()

    left = contextlib.ExitStack()
    first = left.enter_context(serve(Path("root"), Path("origin"), Pace(delay=0.0)))
    assert served(first.url) == b"234"
    with serve(Path("root"), Path("origin"), Pace(delay=0.0)) as second:
        assert served(second.url) == b"234"
        if first.kind == "nginx":
            with pytest.raises(OSError, match="refused"):
                served(first.url)
    left.close()
