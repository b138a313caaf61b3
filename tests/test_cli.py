from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

import services
from ndvi_scale import errors
from ndvi_scale.cli import EXIT_CODES, cli, main
from ndvi_scale.forecast import Calibration
from ndvi_scale.item_files import load_items, save_items
from replay import replaying

if TYPE_CHECKING:
    from collections.abc import Callable

    from ndvi_scale.sandbox import Sandbox

HEAVY = ("xarray", "dask", "numba", "rasterio", "zarr", "matplotlib", "pystac", "pandas", "pyarrow", "numpy")


def call(*arguments: str | Path) -> int:
    """Run the command line in this process; its exit code."""
    before, sys.argv = sys.argv, ["ndvi-scale", *map(str, arguments)]
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    finally:
        sys.argv = before
    return 0


def box(sandbox: Sandbox) -> str:
    return ",".join(f"{degrees:.5f}" for degrees in sandbox.bbox)


@pytest.fixture
def arguments(sandbox: Sandbox, tmp_path: Path) -> list[str]:
    catalog = ["--catalog", str(sandbox.catalog), "--bbox", box(sandbox)]
    return ["run", *catalog, "--chunk", "64", "--out", str(tmp_path / "ndvi.zarr")]


@pytest.mark.slow
def test_refresh_and_append(
    sandbox: Sandbox, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*arguments, "--crs", "EPSG:32631"]
    assert call(*run, "--append") == errors.StoreError.exit_code
    assert "holds no run yet" in capsys.readouterr().err
    assert call(*run, "--datetime", "2021-04-01/2021-04-20") == 0
    capsys.readouterr()
    assert call(*run, "--datetime", "2021-04-01/2021-05-31") == errors.PlanMismatchError.exit_code
    assert "give --append to add the dates after the last, the same ones to resume" in capsys.readouterr().err
    assert call(*run, "--datetime", "2021-04-01/2021-05-31", "--refresh") == errors.PlanMismatchError.exit_code
    assert call(*run, "--datetime", "2021-04-01/2021-05-31", "--append", "--chunk", "128") == 8
    assert call(*run, "--datetime", "2021-05-01/2021-05-31", "--append") == errors.PlanMismatchError.exit_code
    capsys.readouterr()
    assert call(*run, "--datetime", "2021-04-01/2021-05-31", "--append") == 0
    told = capsys.readouterr().err
    assert "New dates: 2021-05-05" in told
    assert "0 to compute again" in told
    assert "Resuming" in told
    with xr.open_zarr(tmp_path / "ndvi.zarr") as cube:
        assert cube.sizes["time"] == 3
    assert call(*run, "--datetime", "2021-04-01/2021-05-31", "--refresh") == 0
    assert "Nothing is to be changed." in capsys.readouterr().err
    assert call(*run, "--datetime", "2021-04-01/2021-05-31") == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--append", "--overwrite"], "not --overwrite"),
        (["--refresh", "--grid", "per-zone"], "not grid = per-zone"),
        (["--rebuild-axis"], "--rebuild-axis alone changes nothing"),
    ],
)
def test_what_does_not_go_with_refresh_is_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    assert call(*arguments, *more) == errors.ConfigError.exit_code
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_refresh_with_other_saved_items(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [item for item in load_items(sandbox.items) if "30TYP" not in item.id]
    file = tmp_path / "items.json"
    run = ["run", "--items", file, "--bbox", box(sandbox), "--out", tmp_path / "ndvi.zarr"]
    save_items([item for item in items if item.id != "S2A_31TCJ_20210505_1_L2A"], str(file))
    assert call(*run) == 0
    save_items(items, str(file))
    assert call(*run) == errors.PlanMismatchError.exit_code
    assert "--refresh or --append to take up what is found now" in capsys.readouterr().err
    assert call(*run, "--refresh") == 0
    assert "Processed again: S2A_31TCJ_20210505_0_L2A" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["run"], ["plan"], ["search"], ["demo"], ["sources"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys, click\nfrom ndvi_scale.cli import cli\n"
        f"try: cli({[*command, '--help']!r})\nexcept SystemExit: pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Usage:" in printed
    assert printed.splitlines()[-1] == "LOADED []"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import ndvi_scale, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


def test_every_error_has_its_documented_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    for kind in kinds:
        assert f"\n  {kind.exit_code}  " in EXIT_CODES


def test_run_resume_status_info(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ndvi.zarr"
    assert call(*arguments, "--png", tmp_path / "n.png") == 0
    said = capfd.readouterr().err
    assert "Done." in said
    assert "regions" in said
    assert (tmp_path / "n.png").read_bytes().startswith(b"\x89PNG")
    with xr.open_zarr(out) as cube:
        assert np.isfinite(cube["ndvi"].values).any()

    assert call("info", out, "--json", "--digest") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["status"] == "complete"
    assert len(facts["store_digest"]) == 64
    assert set(facts["offsets"]) == set(facts["items"])

    assert call(*arguments) == 0
    assert "0 now" in capfd.readouterr().err
    assert call("status", out, "--json") == 0
    state = json.loads(capfd.readouterr().out)
    assert state["complete"]
    assert state["done"] == state["regions"]
    assert call("status", out) == 0
    assert "complete" in capfd.readouterr().err
    assert call("info", out) == 0
    assert "-1000 DN for" in capfd.readouterr().err


def test_other_parameters_are_refused_then_overwritten(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 0
    before = (tmp_path / "ndvi.zarr.run" / "plan.json").read_bytes()
    assert call(*arguments, "--mask", "land") == errors.PlanMismatchError.exit_code
    said = capfd.readouterr().err
    assert "mask: [0, 1, 3, 8, 9, 10] there" in said
    assert "--overwrite" in said
    assert (tmp_path / "ndvi.zarr.run" / "plan.json").read_bytes() == before
    assert call(*arguments, "--mask", "land", "--overwrite") == 0
    assert (tmp_path / "ndvi.zarr.run" / "plan.json").read_bytes() != before


def test_overwrite_keeps_the_old_output_if_the_new_run_cannot_be_planned(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 0
    code = call(*arguments, "--overwrite", "--datetime", "1999")
    assert code == errors.EmptySearchError.exit_code
    assert call("status", tmp_path / "ndvi.zarr", "--json") == 0
    assert json.loads(capfd.readouterr().out)["complete"]


@pytest.mark.parametrize("bad", [["--memory", "bogus"], ["--reader", "bogus"], ["--memory", "70MB"]])
def test_overwrite_deletes_nothing_before_all_is_checked(
    arguments: list[str], bad: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 0
    assert call(*arguments, "--overwrite", *bad) == errors.ConfigError.exit_code
    capfd.readouterr()
    assert call("status", tmp_path / "ndvi.zarr", "--json") == 0
    assert json.loads(capfd.readouterr().out)["complete"]


def test_skip_goes_on_where_nothing_can_be_read(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def away(feature: dict[str, Any]) -> None:
        for asset in feature["assets"].values():
            asset["href"] = "http://127.0.0.1:9/x.tif?sig=SECRET"

    document = json.loads(sandbox.items.read_text())
    for feature in document["features"]:
        away(feature)
    (tmp_path / "items.json").write_text(json.dumps(document))
    out = tmp_path / "ndvi.zarr"
    arguments = ["run", "--items", tmp_path / "items.json", "--bbox", box(sandbox), "--out", out]
    assert call(*arguments, "--on-error", "skip") == 0
    said = capfd.readouterr().err
    assert "left out" in said
    assert "SECRET" not in said
    assert "SECRET" not in (out / "zarr.json").read_text()
    assert not any("SECRET" in segment.read_text() for segment in tmp_path.glob("ndvi.zarr.run/ledger/*"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["search", "--catalog", "CATALOG", "--save", "/nowhere/x.json"], 7),
        (["sandbox", "/proc/none"], 7),
        (["run", "--catalog", "x" * 400, "--out", "o"], (3, 7)),
        (["run", "--catalog", "CATALOG", "--out", "o.zarr", "--offset", "2147480000"], 2),
    ],
)
def test_paths_and_numbers_that_cannot_be(
    sandbox: Sandbox, arguments: list[str], code: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [str(sandbox.catalog) if argument == "CATALOG" else argument for argument in arguments]
    assert call(*given) in (code if isinstance(code, tuple) else (code,))
    assert "Traceback" not in capfd.readouterr().err


def test_plan_prints_and_saves(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    planned = ["plan", *arguments[1:]]
    assert call(*planned) == 0
    said = capfd.readouterr().err
    for word in ("items", "days", "regions", "to read", "requests", "memory", "output", "is superseded by"):
        assert word in said
    assert not (tmp_path / "ndvi.zarr.run").exists()
    assert call(*planned, "--save", "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["bytes"] > 0
    assert (tmp_path / "ndvi.zarr.run" / "plan.json").exists()
    assert call(*arguments) == 0
    assert "Resuming" in capfd.readouterr().err


CALIBRATION = Calibration(
    name="a cluster",
    sizes=(1, 2),
    repeats=5,
    fixed=2.0,
    latency=0.01,
    compute=0.1,
    cpu=0.1,
    serial=0.01,
    spread=(0.9, 1.0, 1.1),
    between=0.05,
    cores=2,
    price=0.5,
    currency="EUR",
)


def test_plan_foretells_from_a_calibration(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "calibration.json").write_text(CALIBRATION.to_json())
    (tmp_path / "clusters.toml").write_text('[big]\nkind = "slurm"\nworkers = 300\nmemory = "8GiB"\n')
    planned = ["plan", *arguments[1:], "--calibration", tmp_path / "calibration.json"]
    away = ["--cluster-file", tmp_path / "clusters.toml", "--cluster"]
    assert call(*planned) == 0
    said = " ".join(capfd.readouterr().err.split())
    for words in (
        "Forecast",
        "90 % of runs",
        "EUR",
        "takes for granted",
        "a cluster: 1, 2 workers",
        "share 2 cores",
    ):
        assert words in said
    assert "scheduler and driver are the limit" in said
    flags = {"": [], "N": ["--workers", "7"], "big": [*away, "big"], "two": [*away, "big", "--workers", "2"]}
    sizes = {}
    for name, more in flags.items():
        assert call(*planned, *more, "--json") == 0
        sizes[name] = json.loads(capfd.readouterr().out)["forecast"]
    assert [one["workers"] for one in sizes[""]["sizes"]][:2] == [1, 2]
    assert [[one["workers"] for one in sizes[name]["sizes"]] for name in ("N", "big", "two")] == [[7], [300], [2]]
    assert "each worker has cores of its own" in sizes["big"]["assumptions"]
    for one in sizes[""]["sizes"]:
        assert one["low"] < one["wall"] < one["high"]
        assert one["cost"] == pytest.approx(one["workers"] * one["wall"] / 3600 * 0.5)
    assert call(*planned[:-2], "--json") == 0
    assert "forecast" not in json.loads(capfd.readouterr().out)


def test_a_forecast_needs_a_calibration(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    planned = ["plan", *arguments[1:]]
    assert call(*planned, "--cluster", "local") == errors.ConfigError.exit_code
    assert "give --calibration" in capfd.readouterr().err
    assert call(*planned, "--calibration", tmp_path / "none.json") == errors.ConfigError.exit_code
    assert "ndvi-scale bench" in capfd.readouterr().err
    (tmp_path / "c.json").write_text(CALIBRATION.to_json())
    planned += ["--calibration", str(tmp_path / "c.json")]
    assert call(*planned, "--cluster", "nowhere") == errors.ConfigError.exit_code
    assert "is no profile" in capfd.readouterr().err


def test_search_saves_items_that_run_takes(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("items.json", "items.parquet"):
        saved = tmp_path / name
        assert call("search", "--catalog", sandbox.catalog, "--bbox", box(sandbox), "--save", saved) == 0
        assert "S2" in capfd.readouterr().err
        out = tmp_path / f"{name}.zarr"
        assert call("run", "--items", saved, "--bbox", box(sandbox), "--out", out) == 0
    assert call("search", "--items", tmp_path / "items.json", "--json") == 0
    assert json.loads(capfd.readouterr().out)


def test_settings_from_toml_and_flags_over_them(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f'catalog = "{sandbox.catalog}"\nbbox = "{box(sandbox)}"\nchunk = 64\n'
        'mask = "land"\nout-of-range = "clip"\n'
        f'out = "{tmp_path / "ndvi.zarr"}"\n'
    )
    assert call("run", "--config", file) == 0
    assert call("plan", "--config", file, "--chunk", "32", "--json") == 0
    assert json.loads(capfd.readouterr().out)["chunk"] == [32, 32]
    file.write_text(f'catalog = "{sandbox.catalog}"\nbbox = "{box(sandbox)}"\noverviews = true\n')
    assert call("plan", "--config", file) == errors.ConfigError.exit_code
    assert "overviews with pixels of 10 m" in capfd.readouterr().err
    file.write_text('chunks = 64\ncatalog = "x"\n')
    assert call("run", "--config", file) == errors.ConfigError.exit_code
    assert "unknown setting 'chunks', did you mean 'chunk'?" in capfd.readouterr().err


def test_aoi_file(sandbox: Sandbox, tmp_path: Path) -> None:
    west, south, east, north = sandbox.bbox
    triangle = {"type": "Polygon", "coordinates": [[[west, south], [east, south], [west, north], [west, south]]]}
    (tmp_path / "aoi.geojson").write_text(json.dumps(triangle))
    out = tmp_path / "ndvi.zarr"
    assert call("run", "--catalog", sandbox.catalog, "--aoi", tmp_path / "aoi.geojson", "--out", out) == 0
    with xr.open_zarr(out) as cube:
        corner = cube["ndvi"].values[:, : cube.sizes["y"] // 3, -cube.sizes["x"] // 3 :]
        assert np.isnan(corner).all()


def test_only_items_of_the_tile_are_found(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["search", "--catalog", str(sandbox.catalog), "--tile", "31TCJ", "--json"], standalone_mode=False)
    assert {item["properties"]["grid:code"] for item in json.loads(capsys.readouterr().out)} == {"MGRS-31TCJ"}


def test_a_run_goes_on_with_the_older_processing(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where the newer is gone, also when it is what the estimate would have looked at."""
    items = json.loads(sandbox.items.read_text())
    newer, older = "S2A_31TCJ_20210505_1_L2A", "S2A_31TCJ_20210505_0_L2A"
    items["features"] = [item for item in items["features"] if item["id"] in {newer, older}]
    for item in items["features"]:
        for asset in item["assets"].values():
            gone = item["id"] == newer and "red" in asset["href"]
            asset["href"] = str(tmp_path / "gone.tif" if gone else sandbox.items.parent / asset["href"])
    (tmp_path / "items.json").write_text(json.dumps(items))
    out = tmp_path / "ndvi.zarr"
    cli(["run", "--items", str(tmp_path / "items.json"), "--out", str(out)], standalone_mode=False)
    with xr.open_zarr(out) as cube:
        assert np.isfinite(cube["ndvi"].values).any()


BAD: list[tuple[list[str], int, str]] = [
    (["--catalog", "earth-serch"], 3, "earth-search"),
    (["--catalog", "/nowhere/catalog.json"], 3, "/nowhere/catalog.json"),
    (["--bbox", "1,2,3"], 2, "W,S,E,N"),
    (["--bbox", "0.7,43.4,0.8,43.2"], 2, "43.4"),
    (["--bbox", "0.7,43.2,200,43.4"], 2, "200"),
    (["--bbox", "10,10,11,11"], 4, "region"),
    (["--datetime", "2021-13"], 2, "2021-13"),
    (["--datetime", "2021-06/2021-05"], 2, "after"),
    (["--datetime", "1999"], 4, "1999"),
    (["--cloud-cover", "101"], 2, "0 to 100"),
    (["--resolution", "7"], 2, "10"),
    (["--resolution", "-10"], 2, "-10"),
    (["--overviews"], 2, "nothing coarser to read"),
    (["--overviews", "--resolution", "30"], 2, "multiple of 20"),
    (["--overviews", "--resolution", "20"], 6, "no overview of 1/2"),
    (["--crs", "EPSG:4326"], 2, "not projected"),
    (["--crs", "EPSG:nope"], 2, "EPSG:32631"),
    (["--crs", "EPSG:2263"], 2, "in metres"),
    (["--grid", "zones"], 2, "per-zone"),
    (["--tile", "Toulouse"], 2, "31TCJ"),
    (["--tile", "31TEJ"], 4, "31TEJ"),
    (["--chunk", "33"], 2, "even"),
    (["--shard", "200"], 2, "128 pixels a side"),
    (["--chunk", "128", "--shard", "200"], 2, "give 256,"),
    (["--chunk", "128", "--shard", "256", "--zarr-format", "2"], 2, "has no shards"),
    (["--mask", "cloudy"], 2, "default, clear-sky, land, snow-free, openeo, none"),
    (["--mask", "0,12"], 2, "12"),
    (["--mask-filter", "dilate:5"], 2, "did you mean 'dilation'"),
    (["--mask-filter", "closing:60"], 2, "reach 120 SCL pixels"),
    (["--mask-filter", "dilation:5", "--mask", "none"], 2, "nothing to act on"),
    (["--dtype", "float64"], 2, "float32"),
    (["--zarr-format", "4"], 2, "3"),
    (["--out-of-range", "wrap"], 2, "clip"),
    (["--on-error", "ignore"], 2, "skip"),
    (["--memory", "lots"], 2, "4GB"),
    (["--memory", "1MB"], 2, "memory limit"),
    (["--out", "ftp://x/y"], 7, "ftp"),
    (["--out", "s3://bucket"], 7, "prefix"),
    (["--storage-option", "endpoint"], 2, "KEY=VALUE"),
    (["--out", "memory://x"], 2, "would be gone when this command ends"),
    (["--reader", "gdal"], 2, "rasterio"),
    (["--aoi", "/nowhere.geojson"], 2, "/nowhere.geojson"),
    (["--config", "/nowhere.toml"], 2, "/nowhere.toml"),
]


@pytest.mark.slow
def test_shards_from_run_to_info(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sides = ["--chunk", "128", "--shard", "256"]
    command = [sys.executable, "-m", "ndvi_scale", *arguments, *sides]
    first, again = (subprocess.run(command, capture_output=True, text=True, check=True).stderr for _ in range(2))
    assert first.count("Objects are shards: zarr-python 3, xarray and GDAL 3.13 or newer") == 1
    assert " pixels in chunks of 128 x 128" in first
    assert "Objects are shards" not in again
    assert call(*arguments, "--chunk", "128") == 8
    assert "shard: 256 there, null asked" in capfd.readouterr().err
    assert call("info", tmp_path / "ndvi.zarr", "--digest", "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["chunk"] == [128, 128]
    assert facts["shard"][0] == 256


@pytest.mark.parametrize(("bad", "code", "words"), BAD, ids=[" ".join(bad) for bad, _, _ in BAD])
def test_bad_input_gets_one_line(
    arguments: list[str], bad: list[str], code: int, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = list(arguments)
    if bad[0] == "--aoi":
        at = given.index("--bbox")
        del given[at : at + 2]
    assert call(*given, *bad) == code
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(said) == 1
    assert words in said[0]
    assert not (tmp_path / "ndvi.zarr").exists()
    assert not (tmp_path / "ndvi.zarr.run").exists()


@pytest.mark.parametrize(
    ("missing", "words"),
    [("--catalog", "no catalog given"), ("--out", "no output given")],
)
def test_what_must_be_given(
    arguments: list[str], missing: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    at = arguments.index(missing)
    assert call(*arguments[:at], *arguments[at + 2 :]) == 2
    assert words in capfd.readouterr().err


def broken_items(sandbox: Sandbox, folder: Path, change: Any) -> Path:
    """A copy of the sandbox's items, one of them changed."""
    document = json.loads(sandbox.items.read_text())
    for feature in document["features"]:
        for asset in feature["assets"].values():
            asset["href"] = str((sandbox.items.parent / asset["href"]).resolve())
    chosen = next(f for f in document["features"] if f["id"].startswith("S2B_31TCJ") or "31TCJ" in f["id"])
    change(chosen)
    path = folder / "items.json"
    path.write_text(json.dumps(document))
    return path


def no_red(feature: dict[str, Any]) -> None:
    del feature["assets"]["red"]


def no_baseline(feature: dict[str, Any]) -> None:
    for key in ("s2:processing_baseline", "s2:product_uri"):
        feature["properties"].pop(key, None)


def no_file(feature: dict[str, Any]) -> None:
    feature["assets"]["red"]["href"] = "/nowhere/red.tif"


def cut_file(feature: dict[str, Any]) -> None:
    whole = Path(feature["assets"]["nir"]["href"])
    cut = whole.with_name("cut.tif")
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    feature["assets"]["nir"]["href"] = str(cut)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (no_red, 5, "no asset 'red'"),
        (no_baseline, 5, "no processing baseline"),
        (no_file, (6, 9), "/nowhere/red.tif"),
        (cut_file, (6, 9), "cut.tif"),
    ],
)
def test_items_that_cannot_be_used(
    sandbox: Sandbox, tmp_path: Path, change: Any, code: int | tuple[int, ...], words: str, capfd: Any
) -> None:
    items = broken_items(sandbox, tmp_path, change)
    arguments = ["run", "--items", items, "--bbox", box(sandbox), "--chunk", "64", "--out", tmp_path / "ndvi.zarr"]
    assert call(*arguments) in (code if isinstance(code, tuple) else (code,))
    said = next(line for line in capfd.readouterr().err.splitlines() if line.startswith("Error: "))
    assert words in said
    skipped = [*arguments[:-1], tmp_path / "skipped.zarr", "--on-error", "skip"]
    assert call(*skipped) == 0


def test_traceback_only_when_asked(arguments: list[str]) -> None:
    with pytest.raises(errors.ConfigError):
        call("--traceback", *arguments, "--mask", "cloudy")


def test_status_of_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "info"):
        assert call(command, tmp_path / "none.zarr") == errors.StoreError.exit_code
        assert "holds no run of ndvi-scale" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sandbox_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("sandbox", tmp_path / "archive", "--size", "64", "--dates", "1") == 0
    assert "ndvi-scale run --catalog" in capfd.readouterr().out
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    assert call("sandbox", tmp_path / "full", "--size", "64") == errors.StoreError.exit_code


@pytest.mark.slow
def test_demo_twice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert call("demo", "--directory", tmp_path, "--size", "256") == 0
        said = capfd.readouterr().err
        assert "NDVI codes are equal" in said
    assert (tmp_path / "ndvi.png").stat().st_size > 20_000


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [(), ("--cluster", "local", "--workers", "1")], ids=["threads", "processes"])
def test_ctrl_c_stops_cleanly_and_resumes(sandbox: Sandbox, tmp_path: Path, cluster: tuple[str, ...]) -> None:
    program = [sys.executable, "-m", "ndvi_scale"]
    command = [*program, "run", "--catalog", str(sandbox.catalog), "--bbox", box(sandbox), "--chunk", "16"]
    command += ["--out", str(tmp_path / "ndvi.zarr"), *cluster]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "ndvi.zarr" / "ndvi" / "c").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it, too
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "to resume" in said
    again = subprocess.run(command[: -len(cluster) or None], capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "Done." in again.stderr


# Sources and searches


def test_sources_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("sources") == 0
    said = capfd.readouterr().err
    for part in ("earth-search", "sentinel-2-c1-l2a", "auto", "planetary-computer", "cdse", "S3 keys", "baseline"):
        assert part in said
    assert call("sources", "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["cdse"]["collections"] == ["sentinel-2-l2a"]
    assert facts["cdse"]["account"] == "S3 keys of the provider"


def test_empty_search_has_its_exit_code_and_makes_no_store(
    real_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with replaying(real_data / "stac" / "cdse-v1") as server:
        arguments = ["--catalog", server.url, "--collection", "sentinel-2-l2a", "--bbox", "1,43,2,44"]
        for command in ("run", "plan", "search"):
            out = ["--out", tmp_path / "ndvi.zarr"] if command == "run" else []
            assert call(command, *arguments, *out) == errors.EmptySearchError.exit_code == 4
            assert "no item came back" in capfd.readouterr().err
    assert not any(tmp_path.iterdir())


def test_search_cache_keeps_months(real_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with replaying(real_data / "stac" / "cdse-v1") as server:
        arguments = ["search", "--catalog", server.url, "--collection", "sentinel-2-l2a", "--json"]
        arguments += ["--bbox", "29.387,53.1624,29.389,53.1636", "--datetime", "2023-11-01/2023-11-10"]
        for _ in range(2):
            assert call(*arguments, "--search-cache", tmp_path / "kept") == 0
            assert len(json.loads(capfd.readouterr().out)) == 8
        assert len(server.asked) == 1
        (tmp_path / "run.toml").write_text(f'search-cache = "{tmp_path}/kept"')
        assert call(*arguments, "--config", tmp_path / "run.toml") == 0
        assert len(server.asked) == 1
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name.startswith("2023-11-")


@pytest.mark.slow
def test_holes_are_shown_without_being_asked_for(real_data: Path) -> None:
    code = (
        "import sys\nfrom dataclasses import replace\nfrom ndvi_scale import cli, search\n"
        "name, url = 'earth-search', sys.argv.pop()\n"
        "search.SOURCES[name] = replace(search.SOURCES[name], url=url)\ncli.main()"
    )
    arguments = [
        "search",
        "--catalog",
        "earth-search",
        "--collection",
        "auto",
        "--bbox",
        "29.387,53.1624,29.389,53.1636",
    ]
    with replaying(real_data / "stac" / "earth-search-v1") as server:
        whole = [sys.executable, "-c", code, *arguments, "--datetime", "2023-11-01/2023-11-10", server.url]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        "sentinel-2-c1-l2a lacks 8 of 8 products; used from elsewhere: S2B_35UPU_20231109_0_L2A, S2B" in done.stderr
    )


def test_assets_are_given_by_flags_and_by_file(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    renamed = {"red": "B4", "nir": "B5", "scl": "QA"}
    documents = [item.to_dict(include_self_link=False) for item in load_items(sandbox.items)]
    for one in documents:
        one["assets"] = {renamed.get(key, key): asset for key, asset in one["assets"].items()}
    items = tmp_path / "items.json"
    items.write_text(json.dumps({"type": "FeatureCollection", "features": documents}))
    plan = ["plan", "--items", items, "--bbox", box(sandbox), "--json"]
    assert call(*plan) == errors.ItemError.exit_code
    assert "--asset red=KEY" in capfd.readouterr().err
    flags = [word for band, key in renamed.items() for word in ("--asset", f"{band}={key}")]
    assert call(*plan, *flags) == 0
    by_flags = json.loads(capfd.readouterr().out)
    config = tmp_path / "run.toml"
    config.write_text('assets = { scl = "QA", red = "B4", nir = "B5" }')
    assert call(*plan, "--config", config) == 0
    assert json.loads(capfd.readouterr().out) == by_flags
    assert call(*plan, "--asset", "blue=B2") == errors.ConfigError.exit_code
    assert "asset band 'blue' is unknown" in capfd.readouterr().err


# What others say


def files_of(folder: Path) -> str:
    return "".join(f"{path}{path.read_bytes()!r}" for path in folder.rglob("*") if path.is_file())


def test_no_secret_of_a_catalog_is_written_or_said(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ndvi.zarr"
    with services.range_server(sandbox.catalog.parent) as server:
        signed = server.url.replace("://", "://user:CANARY@") + "/catalog.json?sig=CANARY&token=CANARY"
        run = ["-v", "run", "--bbox", box(sandbox), "--chunk", "64", "--out", out, "--catalog"]
        assert call(*run, signed) == 0
        assert call(*run, signed.replace("CANARY", "OTHER")) == 0
        said = capfd.readouterr().err
        assert "Resuming" in said
        assert call(*run, signed, "--mask", "land") == errors.PlanMismatchError.exit_code
        assert call(*run, f"{server.url}/items.json?sig=CANARY") == errors.PlanMismatchError.exit_code
        said += capfd.readouterr().err
        saved = tmp_path / "items.parquet"
        assert call("-v", "search", "--json", "--catalog", signed, "--save", saved) == 0
        said += str(capfd.readouterr())
    assert "/items.json" in said
    for secret in ("CANARY", "OTHER"):
        assert secret not in said
        assert secret not in files_of(tmp_path)


def test_a_signature_longer_than_a_file_name_is_not_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with services.range_server(tmp_path) as server:
        signed = f"{server.url}/items.json?sig=CANARY{'x' * 300}"
        (tmp_path / "run.toml").write_text(f'catalog = "{signed}"')
        for given in (["--catalog", signed], ["--config", tmp_path / "run.toml"]):
            assert call("search", *given) == errors.SearchError.exit_code
            said = capfd.readouterr().err
            assert f"{server.url}/items.json: HTTP 404" in said
            assert "CANARY" not in said


def test_items_at_a_url_are_refused_without_its_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("search", "--items", "https://me:CANARY@h/items.json?sig=CANARY") == errors.ConfigError.exit_code
    said = capfd.readouterr().err
    assert "https://h/items.json: saved items are a file" in said
    assert "CANARY" not in said


def odd_items(sandbox: Sandbox, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The sandbox's items with their first one changed."""
    document = json.loads(sandbox.items.read_text())
    change(document["features"][0])
    (folder / "odd.json").write_text(json.dumps(document))
    return folder / "odd.json"


def test_search_prints_no_secret_of_alternate_links(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def sign(feature: dict[str, Any]) -> None:
        feature["assets"]["red"]["alternate"] = {"x": {"href": "https://me:CANARY@h/a.tif?sig=CANARY"}}
        feature["links"].append({"rel": "x", "href": "https://me:CANARY@h/a?sig=CANARY"})

    odd = odd_items(sandbox, tmp_path, sign)
    assert call("-v", "search", "--json", "--items", odd, "--save", tmp_path / "saved.parquet") == 0
    printed = capfd.readouterr()
    assert "https://h/a.tif" in printed.out
    assert "CANARY" not in printed.out + printed.err


@pytest.mark.slow
def test_rustac_tells_no_links(sandbox: Sandbox, tmp_path: Path) -> None:
    def sign(feature: dict[str, Any]) -> None:
        feature["links"].append({"rel": "x", "href": "https://h/CANARY"})

    odd = odd_items(sandbox, tmp_path, sign)
    command = ["-v", "search", "--items", odd, "--save", tmp_path / "saved.parquet"]
    # A process of its own: rustac remembers at which level it logs, and pytest's handlers are in the way.
    done = subprocess.run(
        [sys.executable, "-m", "ndvi_scale", *command], capture_output=True, text=True, check=True
    )
    assert "CANARY" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["search", "plan"])
def test_an_id_forges_no_line(
    command: str, sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def forge(feature: dict[str, Any]) -> None:
        feature["id"] = "S2A\nError: forged\x1b[2J\x07 [/bold] x [red]y"
        del feature["assets"]["red"]

    code = call(command, "--items", odd_items(sandbox, tmp_path, forge), "--bbox", box(sandbox))
    assert code == {"search": 0, "plan": errors.ItemError.exit_code}[command]
    said = capfd.readouterr().err
    assert r"S2A\nError: forged\x1b[2J\x07 [/bold] x [red]y" in said
    assert "\nError: forged" not in said
    assert "\x1b" not in said


@pytest.mark.slow
def test_a_warning_forges_no_line() -> None:
    code = (
        "import logging, sys\nfrom ndvi_scale import cli\nsys.argv = ['ndvi-scale', 'sources', '--json']\n"
        "cli.main()\nlogging.getLogger('x').warning('a %s', 'b\\nError: c')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "a b\\nError: c\n"


def test_a_search_is_not_begun_where_it_cannot_be_saved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["search", "--catalog", "http://127.0.0.1:9/none", "--save"]
    assert call(*command, tmp_path / "absent" / "x.parquet") == errors.StoreError.exit_code
    assert "does not exist" in capfd.readouterr().err


def damaged(arguments: list[str]) -> Path:
    """A finished output, one object of which is cut short."""
    assert call(*arguments) == 0
    output = Path(arguments[-1])
    victim = next(path for path in sorted((output / "ndvi" / "c").rglob("*")) if path.is_file())
    victim.write_bytes(victim.read_bytes()[:-9])
    return output


def test_verify_says_what_is_sound(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 0
    capfd.readouterr()
    assert call("verify", arguments[-1], "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["sound"]
    assert facts["checked"] > 0
    assert not facts["missing"]


def test_verify_finds_damage_and_repairs_it(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    output = damaged(arguments)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    capfd.readouterr()
    assert call("verify", str(output)) == errors.DamagedError.exit_code
    told = capfd.readouterr().err
    for word in ("1 are damaged", "it was cut short", "--repair"):
        assert word in told
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    assert call("verify", str(output), "--repair") == 0
    assert "1 now" in capfd.readouterr().err
    assert call("verify", str(output)) == 0


def test_what_only_reads_takes_an_output_that_cannot_be_written(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 0
    # As on a mount that is read-only: chmod keeps root, whom the tests may be, from nothing.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    for command in (["status"], ["verify"], ["info", "--digest"]):
        assert call(*command, arguments[-1]) == 0
    capfd.readouterr()
    assert call(*arguments) == errors.StoreError.exit_code
    assert call("verify", arguments[-1], "--repair") == errors.StoreError.exit_code
    assert capfd.readouterr().err.count("no right to write in") == 2


def test_break_lock_says_whose_run_it_was(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    from ndvi_scale import lease, open_store

    assert call(*arguments) == 0
    with lease.hold(open_store(arguments[-1])) as held:
        assert call(*arguments) == errors.StoreError.exit_code
        assert "--break-lock" in capfd.readouterr().err
        assert call(*arguments, "--break-lock") == 0
        assert f"Taken over from {held.holder.user}" in capfd.readouterr().err
    assert call(*arguments, "--break-lock") == 0
    assert "Nobody else" in capfd.readouterr().err


def test_what_is_finished_opens_no_cluster(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (port,) = services.free_ports(1)
    file = profiles_file(tmp_path, f'[gone]\nkind = "address"\nscheduler = "tcp://127.0.0.1:{port}"\nwait = 1\n')
    cluster = ["--cluster", "gone", "--cluster-file", file]
    assert call(*arguments) == 0
    capfd.readouterr()
    assert call(*arguments, *cluster) == 0
    assert "Done." in capfd.readouterr().err
    assert call("verify", arguments[-1], "--repair", *cluster) == 0
    next(path for path in (tmp_path / "ndvi.zarr" / "ndvi" / "c").rglob("*") if path.is_file()).unlink()
    assert call(*arguments, *cluster) == errors.ClusterError.exit_code
    assert str(port) in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cluster", "nope"], "cluster 'nope'"),
        (["--cluster", "local", "--adapt", "x"], "adapt 'x'"),
        (["--cluster", "local", "--workers", "2", "--adapt", "0:2"], "one of the two"),
        (["--adapt", "0:3"], "give --cluster as well"),
        (["--cluster-file", "x.toml"], "--cluster-file x.toml is of a cluster: give --cluster as well"),
        (["--memory", "bogus"], "memory 'bogus'"),
        (["--reader", "bogus"], "unknown reader 'bogus'"),
        (["--png", "/nowhere/x.png"], "there is no folder /nowhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_flags_of_where_to_compute_are_looked_at_first(
    flags: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nothing = ["--items", str(tmp_path / "absent.json"), "--out", str(tmp_path / "ndvi.zarr")]
    assert call("run", *nothing, *flags) == errors.ConfigError.exit_code
    assert words in capfd.readouterr().err


def test_a_wrong_cluster_is_told_before_anything_heavy_is_loaded() -> None:
    code = (
        "import sys; from ndvi_scale.cli import main; sys.argv[1:] = ['run', '--cluster', 'nope']\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == errors.ConfigError.exit_code
    assert said.stdout == "[]\n"


@pytest.mark.parametrize("verbose", [True, False])
def test_a_scheduler_that_dies_shows_no_traceback_of_distributed(*, verbose: bool) -> None:
    code = (
        "import logging, sys; from ndvi_scale.cli import main\n"
        f"sys.argv[1:] = [*{['-v'] * verbose}, 'sources', '--json']; main()\n"
        "from ndvi_scale import open_cluster, find_spec\n"
        "with open_cluster(find_spec('threads', {'threads': {'kind': 'local', 'processes': False}})):\n"
        "    logging.getLogger('distributed.client').error('as it logs a lost scheduler')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stderr == ("as it logs a lost scheduler\n" if verbose else "")


@pytest.mark.parametrize("flag", ["cluster", "cluster-file", "adapt", "workers", "memory"])
def test_verify_computes_nothing_without_repair(flag: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("verify", "absent.zarr", f"--{flag}", "7") == errors.ConfigError.exit_code
    assert f"--{flag} 7 without --repair" in capfd.readouterr().err


def test_break_lock_of_zones_is_told_once_a_zone(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    zones = [*arguments, "--grid", "per-zone", "--datetime", "2021-04-01/2021-04-10"]
    assert call(*zones) == 0
    capfd.readouterr()
    assert call(*zones, "--overwrite", "--break-lock") == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "Nobody else is writing to" in line]
    assert told
    assert len(told) == len(set(told)) == len(list(Path(arguments[-1]).glob("EPSG_*")))


def profiles_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "clusters.toml"
    path.write_text(text)
    return str(path)


SLURM = '[hal]\nkind = "slurm"\nmemory = "8GiB"\naccount = "eo"\nwalltime = "02:00:00"\n'


def test_clusters_are_listed_and_rendered(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = profiles_file(tmp_path, SLURM)
    assert call("cluster", "list", "--cluster-file", file, "--json") == 0
    assert set(json.loads(capfd.readouterr().out)) == {"local", "threads", "hal"}
    assert call("cluster", "list", "--cluster-file", file) == 0
    assert "hal" in capfd.readouterr().err
    assert call("cluster", "render", "hal", "--cluster-file", file) == 0
    assert "#SBATCH -A eo" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["cluster", "render", "hall"], "did you mean 'hal'?"),
        (["cluster", "render", "local"], "submits no job"),
        (["cluster", "list", "--cluster-file", "absent.toml"], "no such file"),
    ],
)
def test_clusters_that_cannot_be(
    command: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = [] if "--cluster-file" in command else ["--cluster-file", profiles_file(tmp_path, SLURM)]
    assert call(*command, *file) == errors.ConfigError.exit_code
    assert told in capfd.readouterr().err


@pytest.mark.slow
def test_a_cluster_is_checked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = profiles_file(tmp_path, '[two]\nkind = "local"\nworkers = 2\n')
    out = tmp_path / "out" / "ndvi.zarr"
    assert call("cluster", "check", "two", "--cluster-file", file, "--out", str(out), "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["ok"]
    assert facts["workers"] == 2
    assert len(facts["findings"]) >= 6
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_threads_have_no_workers_to_check(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("cluster", "check", "threads") == errors.ConfigError.exit_code
    assert "no workers to look at" in capfd.readouterr().err


def test_a_profile_in_the_working_directory_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    profiles_file(tmp_path, SLURM)
    assert call("cluster", "render", "hal") == errors.ConfigError.exit_code
    (tmp_path / "config" / "ndvi-scale").mkdir(parents=True)
    profiles_file(tmp_path / "config" / "ndvi-scale", SLURM)
    assert call("cluster", "render", "hal") == 0
    assert "#SBATCH" in capfd.readouterr().out
