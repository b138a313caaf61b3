"""What a run is asked for: defaults, the digest, TOML, and every refusal."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ndvi_scale.aoi import Aoi, parse_bbox
from ndvi_scale.config import MAX_CHUNK, RunConfig, config_differences, extends, make_config, read_config
from ndvi_scale.errors import ConfigError

HOME = parse_bbox("1,43,2,44")
TRIANGLE = {"type": "Polygon", "coordinates": [[[1, 43], [2, 43], [2, 44], [1, 43]]]}
CHANGES: dict[str, Any] = {
    "catalog": "earth-search",
    "collection": "sentinel-2-c1-l2a",
    "aoi": HOME,
    "datetime": "2023-06",
    "cloud_cover": 20.0,
    "mask": (0, 1, 8),
    "mask_filters": ("opening:2", "dilation:5"),
    "period": "month",
    "reducer": "p90",
    "out_of_range": "clip",
    "offset": 0,
    "assets": (("red", "B4"), ("nir", "B5"), ("scl", "QA")),
    "crs": "EPSG:32631",
    "grid": "per-zone",
    "tiles": ("31TCJ",),
    "resolution": 10.0,
    "overviews": True,
    "clip": False,
    "chunk": 1024,
    "shard": 4096,
    "dtype": "float32",
    "zarr_format": 2,
    "on_error": "skip",
}
ALL_AT_ONCE = {**CHANGES, "zarr_format": 3}
"""Format 2 has no shards."""


def says(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    assert all(part in str(error.value) for part in parts), str(error.value)


def toml(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


# Values


def test_defaults() -> None:
    config = RunConfig()
    assert config.mask == (0, 1, 3, 8, 9, 10)
    assert (config.chunk, config.dtype, config.zarr_format) == (2048, "int16", 3)
    assert (config.out_of_range, config.on_error, config.clip) == ("mask", "raise", True)
    unset = ("collection", "aoi", "datetime", "cloud_cover", "offset", "crs", "resolution")
    assert [getattr(config, name) for name in unset] == [None] * len(unset)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().chunk = 64  # type: ignore[misc]


def test_digest_is_that_of_equal_values() -> None:
    assert RunConfig(**ALL_AT_ONCE).digest() == RunConfig(**ALL_AT_ONCE).digest()
    assert len(RunConfig().digest()) == 64


def test_every_field_is_tried_below() -> None:
    assert set(CHANGES) == {field.name for field in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_changes_the_digest(name: str) -> None:
    before = RunConfig(period="year") if name in {"period", "reducer"} else RunConfig()
    changed = dataclasses.replace(before, **{name: CHANGES[name]})
    assert changed.digest() != before.digest()
    assert [line.partition(":")[0] for line in config_differences(before, changed)] == [name]


def test_a_period_changes_the_digest() -> None:
    changed = RunConfig(period="month")
    assert changed.digest() != RunConfig().digest()
    assert config_differences(RunConfig(), changed) == (
        'period: null there, "month" asked',
        'reducer: null there, "median" asked',
    )


def test_a_run_begun_before_there_were_shards_is_the_same_run() -> None:
    config = RunConfig(chunk=1024, crs="EPSG:32631")
    assert config.digest() == "841588bdd99de868d7cdc7e9cc02fd67f4371c37d5d14c565536408b0eb42a81"
    stored = {name: value for name, value in config.as_dict().items() if name != "shard"}
    assert RunConfig.from_dict(stored) == config


def test_offset_none_and_zero_differ() -> None:
    assert RunConfig(offset=0).digest() != RunConfig(offset=None).digest()


@pytest.mark.parametrize("name", ["cloud_cover", "resolution"])
def test_whole_numbers_are_the_same_as_int_and_float(name: str) -> None:
    """TOML gives `20`, a flag 20.0: resuming must not depend on which of them it was."""
    whole, point = RunConfig(**{name: 20}), RunConfig(**{name: 20.0})
    assert config_differences(whole, point) == ()
    assert whole.digest() == point.digest()


@pytest.mark.parametrize(
    "given",
    [{"scl": "QA", "red": "B4"}, ["scl=QA", "red=B4"], ("red = B4", "scl=QA"), (("red", "B4"), ("scl", "QA"))],
)
def test_assets_are_the_same_in_every_form_and_order(given: Any) -> None:
    assert make_config({"assets": given}).assets == (("red", "B4"), ("scl", "QA"))


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["green=B3"], ("asset band 'green' is unknown", "red, nir, scl")),
        ({"RED": "B4"}, ("asset band 'RED' is unknown", "red, nir, scl")),
        (["red"], ("asset ('red', '')", "BAND=KEY")),
        (["=B4"], ("asset ('', 'B4')", "BAND=KEY")),
        ({"red": 4}, ("asset ('red', 4)", "BAND=KEY")),
        (("red", "B4"), ("asset ('red', '')", "--asset red=B4")),
        ([3], ("asset 3", "BAND=KEY")),
        (["red=B4", "red=B5"], ("asset 'red' is given 2 times", "keep one")),
        ("red=B4", ("assets 'red=B4'", "BAND=KEY")),
    ],
)
def test_assets_refused(given: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"assets": given})
    says(caught, *parts)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("earth-search", "earth-search"),
        ("/data/a?b@c.json", "/data/a?b@c.json"),
        ("https://h:8/api/v1", "https://h:8/api/v1"),
        ("https://user:CANARY@h:8/api?sig=CANARY", "https://h:8/api"),
        ("https://h/api?token=CANARY#CANARY", "https://h/api"),
    ],
)
def test_no_secret_of_a_catalog_is_kept(given: str, kept: str) -> None:
    config = RunConfig(catalog=given)
    assert config.catalog == make_config({"catalog": given}).catalog == kept
    assert "CANARY" not in repr(config)
    assert config.digest() == RunConfig(catalog=given.replace("CANARY", "another")).digest()
    assert RunConfig.from_dict({**config.as_dict(), "catalog": given}) == config


def test_a_catalog_that_is_no_url() -> None:
    """The search says so; here it only must not be kept with what may be secret in it."""
    assert RunConfig(catalog="https://[me:CANARY@h?sig=CANARY").catalog == "https://h"


def test_where_the_aoi_came_from_does_not_count() -> None:
    file, text = (RunConfig(aoi=Aoi(HOME.geometry, source)) for source in ("home.geojson", "1,43,2,44"))
    assert file.digest() == text.digest()
    assert config_differences(file, text) == ()


@pytest.mark.parametrize(
    ("before", "now", "longer"),
    [
        ("2023-06/2023-07", "2023-06/2023-08", True),
        ("2023-06/2023-07", "2023-06/..", True),
        ("2023-06/..", "2023-06/..", True),
        ("2023-06/2023-07", "2023-06-01/2023-07-31", True),
        ("2023-06/2023-07", "2023-05/2023-08", False),
        ("2023-06/2023-07", "2023-07/2023-08", False),
        ("2023-06/2023-07", "2023-06", False),
        ("2023-06/..", "2023-06/2023-08", False),
        (None, "2023-06/..", False),
        ("../2023-06", None, True),
    ],
)
def test_what_extends_a_run_has_the_same_start_and_a_later_end(
    before: str | None, now: str | None, *, longer: bool
) -> None:
    old, new = (RunConfig(datetime=text) for text in (before, now))
    assert extends(old, new) is longer
    assert extends(old, new, later=False) is (before == now)
    assert not extends(old, RunConfig(datetime=now, chunk=64))


def test_other_saved_items_extend_a_run_where_that_is_asked(tmp_path: Path) -> None:
    old, new, api = (RunConfig(catalog=name) for name in ("items 1a", "items 2b", "earth-search"))
    assert extends(old, new, other_items=True)
    assert not extends(old, new)
    assert not extends(old, api, other_items=True)


def test_differences_say_both_values() -> None:
    assert config_differences(RunConfig(chunk=1024), RunConfig(chunk=2048)) == ("chunk: 1024 there, 2048 asked",)
    assert config_differences(RunConfig(), RunConfig(crs="EPSG:32631")) == ('crs: null there, "EPSG:32631" asked',)


def test_differences_shorten_long_values() -> None:
    round_area = shapely.Point(1.5, 43.5).buffer(0.1)
    (line,) = config_differences(RunConfig(), RunConfig(aoi=Aoi(round_area, "x")))
    assert len(line) < 100
    assert "…" in line


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "catalog": st.text(max_size=8),
            "collection": st.none() | st.text(max_size=8),
            "aoi": st.none() | st.just(HOME) | st.just(Aoi(shapely.Point(1, 43).buffer(0.01), "a disc")),
            "datetime": st.none() | st.text(max_size=8),
            "cloud_cover": st.none() | st.floats(0, 100),
            "assets": st.dictionaries(st.sampled_from(["red", "nir", "scl"]), st.text(min_size=1, max_size=8)).map(
                lambda keys: tuple(keys.items())
            ),
            "mask": st.sets(st.integers(0, 11)).map(lambda classes: (*sorted(classes - {8}), 8)),
            "mask_filters": st.sampled_from([(), ("opening:2", "dilation:5"), ("erosion:1",)]),
            "out_of_range": st.sampled_from(["mask", "clip"]),
            "offset": st.none() | st.integers(-32768, 32767),
            "crs": st.sampled_from([None, "EPSG:32631", "EPSG:2154"]),
            "resolution": st.none() | st.floats(1e-3, 1e6),
            "overviews": st.booleans(),
            "clip": st.booleans(),
            "chunk": st.integers(1, MAX_CHUNK // 2).map(lambda half: 2 * half),
            "dtype": st.sampled_from(["int16", "float32"]),
            "zarr_format": st.sampled_from([2, 3]),
            "on_error": st.sampled_from(["raise", "skip"]),
        },
    )
)
def test_a_dictionary_and_back(values: dict[str, Any]) -> None:
    config = RunConfig(**values)
    again = RunConfig.from_dict(json.loads(json.dumps(config.as_dict())))
    assert again.digest() == config.digest()
    assert again.as_dict() == config.as_dict()
    for field in dataclasses.fields(RunConfig):
        before, after = getattr(config, field.name), getattr(again, field.name)
        if field.name == "aoi" and before is not None:
            assert after.geometry.equals_exact(before.geometry, 0)
        else:
            assert after == before


# Refusals: value, rule, remedy


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        *(
            ("chunk", chunk, (f"chunk {chunk} ", "even number of pixels up to 16384", "multiples of 1024"))
            for chunk in (0, -2, 1023, MAX_CHUNK + 2, 512.0, True, "512", None)
        ),
        *(
            ("resolution", size, (f"resolution {size} ", "is not a size", "metres above 0"))
            for size in (0, -10.0, float("nan"), float("inf"))
        ),
        ("crs", "EPSG:99999", ("crs 'EPSG:99999'", "is unknown", "EPSG:32631")),
        ("crs", "", ("crs ''", "is unknown", "EPSG:32631")),
        ("crs", "EPSG:4326", ("crs 'EPSG:4326' (WGS 84)", "is not projected", "EPSG:32631")),
        *(
            ("cloud_cover", percent, (f"cloud cover {percent} ", "not a percentage", "0 to 100"))
            for percent in (-0.1, 100.5, float("nan"))
        ),
        ("dtype", "uint8", ("dtype 'uint8'", "is unknown", "int16, float32")),
        ("zarr_format", 4, ("zarr-format 4", "is unknown", "2, 3")),
        ("out_of_range", "drop", ("out-of-range 'drop'", "is unknown", "mask, clip")),
        ("on_error", "ignore", ("on-error 'ignore'", "is unknown", "raise, skip")),
    ],
)
def test_refused(field: str, value: Any, said: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(**{field: value})
    says(caught, *said)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [0, 0.0, 100])
def test_cloud_cover_includes_its_ends(value: float) -> None:
    assert RunConfig(cloud_cover=value).cloud_cover == value


@pytest.mark.parametrize("value", [2, MAX_CHUNK])
def test_chunk_includes_its_ends(value: int) -> None:
    assert RunConfig(chunk=value).chunk == value


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"chunk": 1024, "shard": 3000}, ("shard 3000", "chunks of 1024", "give 2048 or 3072")),
        ({"shard": 2048}, ("shard 2048", "chunks of 2048", "give 4096", "smaller chunk")),
        ({"shard": 512}, ("shard 512", "chunks of 2048", "give 4096", "smaller chunk")),
        ({"chunk": 8194, "shard": 16384}, ("shard 16384", "chunks of 8194", "leave it out")),
        ({"chunk": 64, "shard": 2048}, ("chunk 64", "128 pixels", "256 or 512")),
        ({"chunk": 512, "shard": 2048, "zarr_format": 2}, ("shard 2048", "zarr-format 2", "leave one")),
        *(
            ({"chunk": 512, "shard": shard}, (f"shard {shard} ", "even number of pixels up to 16384"))
            for shard in (0, -1024, 1023, MAX_CHUNK + 512, 1024.0, True, "1024")
        ),
    ],
)
def test_shards_refused(values: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(**values)
    says(caught, *said)


@given(
    chunk=st.integers(64, 2500).map(lambda half: 2 * half), shard=st.integers(1, 8192).map(lambda half: 2 * half)
)
def test_a_shard_is_taken_or_others_are_named_that_are(chunk: int, shard: int) -> None:
    try:
        config = RunConfig(chunk=chunk, shard=shard)
    except ConfigError as error:
        sides = [int(side) for side in re.findall(r"\d+", str(error).partition("give ")[2].partition(",")[0])]
        assert sides
        for side in sides:
            assert RunConfig(chunk=chunk, shard=side).object_side == side
            assert abs(side - shard) < chunk or side == 2 * chunk
    else:
        assert config.object_side == shard
        assert shard % chunk == 0


@pytest.mark.parametrize("classes", [(12,), (-1, 3)])
def test_a_class_that_does_not_exist_is_refused_however_it_is_given(classes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="SCL class"):
        make_config({"mask": classes})
    with pytest.raises(ConfigError, match="SCL class"):
        RunConfig(mask=classes)


def test_the_order_of_classes_does_not_count() -> None:
    assert make_config({"mask": [8, 3, 3]}).digest() == make_config({"mask": "3,8"}).digest()
    assert RunConfig(mask=(8, 3)).digest() == RunConfig(mask=(3, 8)).digest()


def test_runs_without_mask_filters_are_what_they_were() -> None:
    """A plan that was stored before there were any has no such key."""
    config = RunConfig(mask=(3, 8))
    assert "mask_filters" not in config.as_dict()
    assert RunConfig.from_dict(config.as_dict()).mask_filters == ()
    filtered = RunConfig(mask=(3, 8), mask_filters=("dilation:5",))
    assert filtered.digest() != config.digest()
    assert config_differences(config, filtered) == ('mask_filters: [] there, ["dilation:5"] asked',)
    assert config_differences(filtered, config) == ('mask_filters: ["dilation:5"] there, [] asked',)


def test_mask_filters_have_one_form() -> None:
    one = RunConfig(mask_filters=("opening:2", "dilation:5"))
    for same in ("opening:2,dilation:5", ["opening:02", "Dilation:5"], [("opening", 2), ("dilation", 5)]):
        assert RunConfig(mask_filters=same) == make_config({"mask_filters": same}) == one  # type: ignore[arg-type]
    assert one.scene_mask.margin == 9
    assert RunConfig(mask_filters=("dilation:5", "opening:2")).digest() != one.digest()


def test_a_preset_brings_its_filters() -> None:
    filters = ("erosion:1", "dilation:21")
    found = make_config({"mask": "openeo"})
    assert (found.mask, found.mask_filters) == ((0, 1, 3, 8, 9, 10, 11), filters)
    assert RunConfig(mask="openeo") == found  # type: ignore[arg-type]
    assert RunConfig.from_dict(found.as_dict()) == found
    assert dataclasses.replace(found, chunk=64).mask_filters == filters
    for none in ("none", []):
        assert make_config({"mask": "openeo", "mask_filters": none}).mask_filters == ()
    assert make_config({"mask": "openeo", "mask_filters": "dilation:3"}).mask_filters == ("dilation:3",)
    assert make_config({"mask_filters": "dilation:3"}).mask == RunConfig().mask


# Loose settings


def test_settings_are_read(tmp_path: Path) -> None:
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps(TRIANGLE))
    assert make_config({}) == RunConfig()
    assert make_config({"chunk": 64, "crs": None}) == RunConfig(chunk=64)
    assert make_config({"bbox": "1,43,2,44"}).aoi == HOME
    assert make_config({"bbox": [1, 43, 2, 44]}).digest() == RunConfig(aoi=HOME).digest()
    drawn = make_config({"aoi": str(area)}).aoi
    assert drawn is not None
    assert drawn.geometry.area == pytest.approx(0.5)
    assert make_config({"mask": "none"}).mask == ()
    assert make_config({"mask": "land"}).mask == (0, 1, 2, 3, 6, 7, 8, 9, 10, 11)


def test_one_region_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"bbox": "1,43,2,44", "aoi": "area.geojson"})
    says(caught, "bbox and aoi", "one or the other")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bbox": "1,2,3"}, ("'1,2,3'", "W,S,E,N")),
        ({"aoi": "no-such.geojson"}, ("no-such.geojson", "cannot be read")),
        ({"mask": "cloudy"}, ("'cloudy'", "clear-sky")),
        ({"mask_filters": "dilate:5"}, ("'dilate:5'", "did you mean 'dilation'")),
        ({"mask_filters": "dilation:0"}, ("'dilation:0'", "from 1 on")),
        ({"mask_filters": "dilation:101"}, ("reach 101 SCL pixels", "margin of 100")),
        ({"mask_filters": "dilation:5", "mask": "none"}, ("nothing to act on",)),
        ({"mask_filters": 5}, ("wrong type",)),
        ({"chunk": "big"}, ("chunk big", "even number")),
        ({"resolution": "10"}, ("wrong type",)),
        ({"cloud_cover": "20"}, ("wrong type",)),
        ({"colour": "red"}, ("colour",)),
    ],
)
def test_settings_refused(settings: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(settings)
    says(caught, *said)


@pytest.mark.parametrize(
    "settings",
    [
        {"bbox": 5},
        {"mask": 5},
        {"mask": ["clouds"]},
        {"aoi": 5},
        {"offset": "-1000"},
        {"offset": -1000.5},
        {"clip": "no"},
        {"catalog": 3},
        {"datetime": dt.date(2023, 6, 1)},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_a_config_error(settings: dict[str, Any]) -> None:
    """All of these come out of well-formed TOML; none may pass, or end in a traceback."""
    with pytest.raises(ConfigError):
        make_config(settings)


# TOML


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "area.geojson").write_text(json.dumps(TRIANGLE))
    (tmp_path / "items.json").write_text("{}")
    path = toml(
        tmp_path,
        """
        catalog = "earth-search"
        aoi = "area.geojson"
        items = "items.json"
        out = "ndvi.zarr"
        cloud-cover = 30
        out-of-range = "clip"
        on_error = "skip"
        mask = [3, 8]
        chunk = 512
        """,
    )
    settings = read_config(path)
    assert settings == {
        "catalog": "earth-search",
        "aoi": str(tmp_path / "area.geojson"),
        "items": str(tmp_path / "items.json"),
        "out": "ndvi.zarr",
        "cloud_cover": 30,
        "out_of_range": "clip",
        "on_error": "skip",
        "mask": [3, 8],
        "chunk": 512,
    }
    config = make_config({key: value for key, value in settings.items() if key not in {"items", "out"}})
    assert (config.mask, config.cloud_cover, config.out_of_range, config.on_error) == ((3, 8), 30, "clip", "skip")


def test_every_field_may_stand_in_a_file(tmp_path: Path) -> None:
    plain = {name: value for name, value in ALL_AT_ONCE.items() if name != "aoi"}
    lines = [f"{name.replace('_', '-')} = {json.dumps(value)}" for name, value in plain.items()]
    config = make_config(read_config(toml(tmp_path, "\n".join([*lines, "bbox = [1, 43, 2, 44]"]))))
    assert config.digest() == RunConfig(**ALL_AT_ONCE).digest()


def test_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "settings", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "catalog.json").write_text("{}")
    (folder / "area.geojson").write_text(json.dumps(TRIANGLE))
    monkeypatch.chdir(elsewhere)
    settings = read_config(toml(folder, 'catalog = "catalog.json"\naoi = "area.geojson"\n'))
    assert Path(settings["catalog"]).read_text() == "{}"
    assert make_config({"aoi": settings["aoi"]}).aoi is not None


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps(TRIANGLE))
    (tmp_path / "settings").mkdir()
    settings = read_config(toml(tmp_path / "settings", f"aoi = {json.dumps(str(area))}"))
    assert settings["aoi"] == str(area)


@pytest.mark.parametrize(
    ("key", "near"),
    [("chunks", "chunk"), ("cloud-covr", "cloud_cover"), ("bbx", "bbox"), ("on_eror", "on_error")],
)
def test_an_unknown_key_and_its_neighbour(tmp_path: Path, key: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(toml(tmp_path, f"{key} = 1"))
    says(caught, "run.toml", f"unknown setting '{key.replace('-', '_')}'", f"did you mean '{near}'?", "known:")


def test_an_unknown_key_without_neighbour(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'zzzzzz' \(known: aoi, assets, bbox"):
        read_config(toml(tmp_path, "zzzzzz = 1"))


@pytest.mark.parametrize("text", ["chunk = ", "chunk = 1\nchunk = 2", "= 3", "[chunk"])
def test_a_malformed_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(toml(tmp_path, text))
    says(caught, "run.toml", "is not a readable TOML file")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such configuration file: .*absent.toml"):
        read_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        read_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'catalog = "\xe9"')
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        read_config(tmp_path / "latin.toml")
