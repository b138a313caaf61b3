"""What is shown: every fact of items, plans and runs, as text and as JSON."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pystac
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

import runs
from ndvi_scale import report
from ndvi_scale.batch import RunReport
from ndvi_scale.estimate import Estimate, estimate_plan
from ndvi_scale.forecast import Calibration, Site, Work, look_ahead
from ndvi_scale.granules import Dropped
from ndvi_scale.guard import Verdict
from ndvi_scale.lattice import Region
from ndvi_scale.readers import Traffic, open_reader
from ndvi_scale.region import RegionRecord
from ndvi_scale.search import search_items

if TYPE_CHECKING:
    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox


def shown(table: Any, width: int = 240) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def plan(sandbox: Sandbox) -> Plan:
    return runs.plan_of(sandbox)


OUTCOME = RunReport(
    regions=12,
    done=9,
    failed={Region(0, 1, 2): "cannot read red.tif of item S2A_A"},
    valid=600,
    pixels=1000,
    traffic=Traffic(321, 4_560_000),
    counters={"valid": 600, "nodata": 111_222, "masked": 333, "saturated": 0, "land": 44, "out_of_range": 5},
    skipped={"S2A_B": "its nir.tif is gone"},
    seconds=12.34,
    computed=7,
)


# Sizes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.44, "59.4 s"),
        (59.7, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_every_number_of_a_forecast_is_shown() -> None:
    known = Calibration("[x]", (1, 2), 5, 2.0, 0.01, 0.1, 0.1, 0.01, (1.0, 1.0), 0.1, startup=(3.0, 0.5))
    outlook = look_ahead(known, Work(100_000, 4e6, 1e6, 10), Site(0, price=0.1))
    told = "".join(shown(table) for table in report.outlook_tables(outlook))
    assert "USD" in told
    for one in outlook.forecasts:
        for part in (one.wall, one.low, one.high, one.startup):
            assert report.duration(part) in told
        assert report.money(one.cost or 0) in told
        assert one.limit in told
    for text in outlook.assumptions:
        assert text in told
    assert f"beyond {outlook.scheduler_limit} workers scheduler and driver are the limit" in told
    assert [report.money(amount) for amount in (0.0042, 0.5, 12.3)] == ["0.0042", "0.5", "12.30"]
    free = look_ahead(known, Work(10, 4e6, 1e6, 10), Site(2))
    assert "USD" not in "".join(shown(table) for table in report.outlook_tables(free))
    assert report.outlook_json(outlook)["forecast"]["sizes"][0]["workers"] == 1
    assert not list(report.outlook_tables(None))
    assert report.outlook_json(None) == {}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (45_600_000, "45.6 MB"),
        (7_890_000_000, "7.89 GB"),
        (12e12, "12 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert report.size(count) == text


@given(st.floats(0, 9e14) | st.integers(0, 9 * 10**14))
@example(999.7)
@example(999_600)
def test_any_size_is_plain_and_right(count: float) -> None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-\d+)?) (B|kB|MB|GB|TB)", report.size(count))
    assert match, report.size(count)
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[match[2]]
    assert float(match[1]) * factor == pytest.approx(count, rel=0.006)


# Items


def test_items(sandbox: Sandbox) -> None:
    items = search_items(sandbox.items)
    text = shown(report.items_table(items))
    assert f"{len(items)} items" in text
    for item in items:
        line = next(line for line in text.splitlines() if item.id in line)
        tile = item.properties["grid:code"].removeprefix("MGRS-")
        cloud = f"{item.properties['eo:cloud_cover']:.1f}"
        assert f"{item.datetime:%Y-%m-%d %H:%M}" in line
        for word in (tile, cloud, item.properties["s2:processing_baseline"]):
            assert re.search(rf"\s{re.escape(word)}\s", line), (word, line)


def test_an_item_that_says_little() -> None:
    bare = pystac.Item(
        "bare", None, None, None, {"start_datetime": "2021-01-01T00:00:00Z", "end_datetime": "2021-01-01T00:00:00Z"}
    )
    assert re.search(r"bare\s+\?", shown(report.items_table([bare])))


def test_a_long_listing_says_that_it_goes_on(sandbox: Sandbox) -> None:
    items = search_items(sandbox.items) * 6
    text = shown(report.items_table(items))
    assert f"{len(items)} items" in text
    assert f"… and {len(items) - 40} more" in text
    assert text.count("_L2A") == 40


# Plans


def test_a_plan(plan: Plan) -> None:
    estimate = estimate_plan(plan, open_reader())
    text = shown(report.plan_table(plan, estimate, 3))
    for fact in (
        "7 used, 4 dropped",
        "3, 2021-04-02 to 2021-05-05",
        "350 x 256 pixels of 10 m, EPSG:32631",
        f"{len(plan.index)} of 64 x 64 pixels",
        "no_data, saturated_or_defective, cloud_shadow, cloud_medium_probability",
        "-1000 DN for 3 items: declared by the asset, baseline 05.00",
        "0 DN for 2 items: baseline 03.01 is before 04.00",
        "0 DN for 2 items: earthsearch:boa_offset_applied is true",
        f"{report.size(estimate.traffic.bytes)} in {estimate.traffic.requests} requests",
        f"{report.size(estimate.output_bytes)} before compression",
        f"at most {report.size(estimate.memory(3))} for 3 regions in flight",
    ):
        assert fact in text, fact


def test_shards(sandbox: Sandbox) -> None:
    plan = runs.plan_of(sandbox, chunk=128, shard=256)
    assert f"{len(plan.index)} of 256 x 256 pixels in chunks of 128 x 128" in shown(
        report.plan_table(plan, None, 1)
    )
    facts = report.plan_json(plan, None)
    assert (facts["chunk"], facts["shard"]) == ([128, 128], [256, 256])


def test_a_plan_without_estimate_promises_nothing(plan: Plan) -> None:
    text = shown(report.plan_table(replace(plan, config=replace(plan.config, mask=())), None, 3))
    assert re.search(r"mask\s+none", text)
    assert "to read" not in text
    assert "memory" not in text


def test_what_was_dropped(plan: Plan) -> None:
    text = shown(report.dropped_table(plan))
    assert "4 items dropped" in text
    for dropped in plan.dropped:
        assert re.search(rf"{dropped.id}\s+{re.escape(dropped.reason)}", text)


def test_a_plan_for_programs(plan: Plan) -> None:
    estimate = estimate_plan(plan, open_reader())
    facts = report.plan_json(plan, estimate)
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == {
        *("plan", "items", "dropped", "days", "layers", "shape", "crs", "transform", "chunk", "shard", "regions"),
        *("bytes", "requests", "output_bytes", "region_memory"),
    }
    assert facts["plan"] == plan.id
    assert facts["items"] == [granule.id for granule in plan.granules]
    assert facts["dropped"] == {dropped.id: dropped.reason for dropped in plan.dropped}
    assert facts["days"] == ["2021-04-02", "2021-04-20", "2021-05-05"]
    assert (facts["shape"], facts["chunk"], facts["crs"]) == ([3, 350, 256], [64, 64], "EPSG:32631")
    assert facts["transform"] == [10, 0, 312_400, 0, -10, 4_796_860]
    assert facts["shard"] is None
    assert facts["regions"] == len(plan.index)
    assert facts["bytes"] == estimate.traffic.bytes
    assert facts["region_memory"] == estimate.region_memory
    assert set(report.plan_json(plan, None)) == set(facts) - {"bytes", "requests", "output_bytes", "region_memory"}


# Runs


def test_a_run() -> None:
    text = shown(report.run_table(OUTCOME, Estimate(Traffic(300, 4_000_000), 10, 10)))
    for fact in (
        "9 of 12 done, 7 now",
        "1,000, 60.0% with NDVI",
        "4.56 MB (planned 4 MB) in 321 requests",
        "12.3 s",
        "nodata 111,222, masked by SCL 333, |NDVI| > 1 5",
        "S2A_B: its nir.tif is gone",
    ):
        assert fact in text, fact
    assert re.search(r"failed \(0, 1, 2\)\s+cannot read red.tif of item S2A_A", text)
    assert "saturated" not in text  # there were none


def test_a_run_that_had_nothing_to_do() -> None:
    idle = replace(OUTCOME, computed=0, seconds=0.0, pixels=0, valid=0, failed={}, skipped={}, counters={})
    text = shown(report.run_table(idle, None))
    assert "0, 0.0% with NDVI" in text
    for absent in ("time", "planned", "unusable", "failed", "left out"):
        assert absent not in text


@pytest.mark.parametrize(
    "text", ["cannot read [/vsicurl/https://a.b/c.tif]", "a [bold]file[/bold]", "rows [1, 2]", "x \\[y]"]
)
def test_words_in_brackets_are_words(plan: Plan, text: str) -> None:
    """Messages quote paths and the words of other programs: none of them is markup of ours."""
    failed = replace(OUTCOME, failed={Region(0, 0, 0): text}, skipped={"S2A_B": text})
    assert shown(report.run_table(failed, None)).count(text) == 2
    dropped = replace(plan, dropped=(Dropped("S2A_C", text),))
    assert text in shown(report.dropped_table(dropped))
    assert text in shown(report.info_table({"status": text, "stored_bytes": 1, "objects": 1, "plan": "a"}))


def test_a_run_for_programs() -> None:
    facts = report.report_json(OUTCOME)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["complete"] is False
    assert facts["failed"] == {"(0, 1, 2)": "cannot read red.tif of item S2A_A"}
    assert (facts["bytes"], facts["requests"]) == (4_560_000, 321)
    for name in ("regions", "done", "pixels", "valid", "counters", "skipped"):
        assert facts[name] == getattr(OUTCOME, name)
    assert report.report_json(replace(OUTCOME, done=12))["complete"] is True
    assert facts["offset_guard"] == {}


VERDICTS = tuple(
    Verdict(item_id, judgement, -1000, "05.09", 20_000, dark, f"{dark} are dark")  # type: ignore[arg-type]
    for item_id, judgement, dark in (("a", "agrees", 3), ("b", "conflict", 9000), ("c", "undecided", 2000))
)


def test_verdicts_on_offsets_are_counted_named_and_told() -> None:
    judged = replace(OUTCOME, verdicts=VERDICTS)
    text = shown(report.run_table(judged, None))
    assert "pixels agree for 1, contradict for 1, tell nothing for 1" in text
    (line,) = report.conflict_lines(judged)
    assert line.startswith("item b (baseline 05.09): 9000 are dark. Its NDVI follows that offset")
    assert report.report_json(judged)["offset_guard"]["b"] == {
        "judgement": "conflict",
        "offset": -1000,
        "baseline": "05.09",
        "land": 20_000,
        "dark": 9000,
        "evidence": "9000 are dark",
    }
    json.dumps(report.report_json(judged))


def test_many_conflicts_end_in_a_count() -> None:
    many = replace(OUTCOME, verdicts=tuple(replace(VERDICTS[1], item_id=f"i{n}") for n in range(43)))
    lines = report.conflict_lines(many)
    assert len(lines) == report.MOST_ROWS + 1
    assert lines[-1] == "… and 3 more items"
    assert report.conflict_lines(OUTCOME) == []


def test_an_output() -> None:
    facts = {"status": "complete", "stored_bytes": 1_500_000, "objects": 77, "plan": "abc"}
    text = shown(report.info_table(facts))
    assert all(fact in text for fact in ("complete", "1.5 MB in 77 objects", "abc"))
    assert "digest" not in text
    assert "fedcba" in shown(report.info_table({**facts, "store_digest": "fedcba"}))


# The bar


RECORD = RegionRecord(Region(0, 0, 0), 5, {}, Traffic(1, 2_000_000), 0.1)


def test_the_bar_counts_regions() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with report.progress(console, total=5, done=2) as advance:
        advance(RECORD, 64)
        advance(RECORD, 64)
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert "4/5 regions" in written
    assert "B/s" in written
    assert "Mpx/s" in written


def test_no_bar_in_a_log() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=120)
    with report.progress(console, total=5, done=0) as advance:
        advance(RECORD, 64)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().strip() == ""


# Items of others

HOSTILE = "S2A\nError: forged \x1b[2J\x07 [/bold] x [red]y"
PLAIN = r"S2A\nError: forged \x1b[2J\x07 [/bold] x [red]y"


def test_what_an_item_says_steers_no_terminal(plan: Plan) -> None:
    item = pystac.Item(HOSTILE, None, None, dt.datetime(2021, 1, 1, tzinfo=dt.UTC), {})
    red = replace(plan.granules[0].red, evidence=HOSTILE)
    bad = replace(
        plan,
        granules=(replace(plan.granules[0], red=red), *plan.granules[1:]),
        dropped=(Dropped(HOSTILE, HOSTILE),),
    )
    outcome = replace(OUTCOME, skipped={HOSTILE: HOSTILE}, failed={Region(0, 1, 2): HOSTILE})
    for table in (
        report.items_table([item]),
        report.plan_table(bad, None, 1),
        report.dropped_table(bad),
        report.run_table(outcome, None),
    ):
        text = shown(table)
        assert PLAIN in text
        assert "\x1b" not in text
        assert "\x07" not in text


@pytest.mark.parametrize(
    "properties",
    [
        {"eo:cloud_cover": "50"},
        {"eo:cloud_cover": 10**400},
        {"mgrs:utm_zone": "x", "mgrs:latitude_band": "T", "mgrs:grid_square": "CJ"},
        {"mgrs:grid_square": "CJ"},
    ],
)
def test_a_field_that_makes_no_sense_is_blank(properties: dict[str, Any]) -> None:
    item = pystac.Item("odd", None, None, dt.datetime(2021, 1, 1, tzinfo=dt.UTC), properties)
    assert re.search(r"^odd +2021-01-01 00:00 *$", shown(report.items_table([item])), re.MULTILINE)


@pytest.mark.parametrize("bbox", [["1", "2", "3", "4"], [None], [10**400]])
def test_a_bbox_that_is_none_is_blank(bbox: Any) -> None:
    item = pystac.Item("odd", None, bbox, dt.datetime(2021, 1, 1, tzinfo=dt.UTC), {})
    assert re.search(r"^odd +2021-01-01 00:00 *$", shown(report.items_table([item])), re.MULTILINE)
