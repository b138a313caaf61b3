"""The command line: flags → `RunConfig` and friends → the library; prints, exit codes, no logic.

Imports nothing heavy at the top, so that ``--help`` is instant.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ndvi_scale.bench_commands import bench
from ndvi_scale.cluster_commands import cluster
from ndvi_scale.errors import ConfigError, DamagedError, IncompleteRunError, NdviScaleError, ReadError, StoreError
from ndvi_scale.options import (
    cluster_options,
    compute_options,
    forecast_options,
    json_option,
    region_options,
    storage_option,
    where_options,
)
from ndvi_scale.outside import printable
from ndvi_scale.readers import DEFAULT_READER
from ndvi_scale.terminal import open_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console

    from ndvi_scale.batch import RunReport, Submit
    from ndvi_scale.cluster.spec import ClusterSpec
    from ndvi_scale.config import RunConfig
    from ndvi_scale.estimate import Estimate
    from ndvi_scale.forecast import Calibration, Outlook, Site
    from ndvi_scale.plan import Plan
    from ndvi_scale.readers import Reader
    from ndvi_scale.settings import Settings
    from ndvi_scale.store import Store
    from ndvi_scale.verify import Verified

EXIT_CODES: Final = """\b
Exit codes:
  0  done
  1  another error, or a bug (then with a traceback)
  2  a parameter is wrong
  3  the catalog cannot be read
  4  nothing fits the search
  5  an item cannot be used
  6  an asset cannot be read
  7  the output cannot be used
  8  the output was made with other parameters
  9  some regions, or rows of bench, failed; run again to take them up
  10  the pixels of an item contradict its offset (--strict)
  11  the cluster does not come, does not fit the run, or is gone
  12  an output is not what its run wrote (verify)
  130  stopped by Ctrl-C; run again to resume"""


class _OneLine(logging.Formatter):
    """A message holds ids and answers of others; a traceback below it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """The message, printable."""
        return printable(super().formatMessage(record))


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="ndvi-scale")
@click.option("--verbose", "-v", is_flag=True, help="Say what is done meanwhile.")
@click.option("--traceback", is_flag=True, help="Show where an error comes from.")
@click.pass_context
def cli(context: click.Context, verbose: bool, traceback: bool) -> None:
    """NDVI of Sentinel-2 over a region and a date range, at any size."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    # stac_io is of rustac, and tells whole items with their links.
    for noisy in ("rasterio", "botocore", "urllib3", "stac_io"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # It logs a traceback of a scheduler that is lost, of which our own error tells.
    logging.getLogger("distributed").setLevel(logging.ERROR if verbose else logging.CRITICAL)
    context.obj = {"traceback": traceback}


cli.add_command(bench)
cli.add_command(cluster)


@cli.command()
@region_options
@compute_options
@where_options
@cluster_options
@storage_option
@click.option("--out", metavar="URL", help="Output: a path, or a URL: s3://bucket/name.zarr, gs://…, az://…")
@click.option("--overwrite", is_flag=True, help="Replace an output of an earlier run.")
@click.option("--break-lock", is_flag=True, help="Take over from another driver, and say whose run it was.")
@click.option("--refresh", is_flag=True, help="Search again; compute again where items have changed.")
@click.option("--append", is_flag=True, help="Search again; add the dates after the last.")
@click.option("--rebuild-axis", is_flag=True, help="With these: dates may move, and are computed again.")
@click.option("--strict", is_flag=True, help="Stop when the pixels of an item contradict its offset.")
@click.option("--png", metavar="FILE", help="Draw the result.")
def run(**flags: Any) -> None:
    """Compute NDVI of a region and date range into a Zarr store; the same command again resumes."""
    from ndvi_scale.settings import place_of, settings_of

    place = place_of(flags)  # first: all else takes seconds
    from ndvi_scale import output

    settings = settings_of(flags)
    plan = _renewed(settings, flags)
    if settings.config.grid == "per-zone":
        _run_zones(settings, flags, place)
        return
    store = settings.store()
    if flags["overwrite"]:
        output.check_ours(store)
    elif plan is None:
        plan = output.begin(store, settings.config)
    with _computing(place) as submit:
        outcome = _run(plan or settings.build_plan(), store, flags, submit, resumed=plan is not None)
    _conclude(outcome, store, settings.config)


@contextmanager
def _computing(spec: ClusterSpec | None) -> Iterator[Callable[[int | None], Submit]]:
    """What gives a place to compute: for so many regions at once in this process, for None on the cluster.

    That is opened once, when first asked for.
    """
    from ndvi_scale.batch import thread_pool
    from ndvi_scale.cluster.opening import open_cluster

    opened: dict[int | None, Submit] = {}
    with ExitStack() as stack:

        def submit(in_flight: int | None) -> Submit:
            if in_flight not in opened:
                place = open_cluster(spec) if spec is not None and in_flight is None else thread_pool(in_flight)
                opened[in_flight] = stack.enter_context(place)
            return opened[in_flight]

        yield submit


def _renewed(settings: Settings, flags: Mapping[str, Any]) -> Plan | None:
    """The plan that takes the place of the output's, where that is asked for."""
    from ndvi_scale import refresh
    from ndvi_scale.outside import as_markup

    wish = refresh.Wish(*(flags[name] for name in ("refresh", "append", "rebuild_axis")))
    if not wish:
        return None
    if flags["overwrite"] or settings.config.grid == "per-zone":
        other = "--overwrite" if flags["overwrite"] else "grid = per-zone"
        raise ConfigError(f"--refresh and --append take up one grid that is there, not {other}: leave one out")
    console = open_console()
    with console.status("searching"):
        plan, changes = refresh.renew(settings.store(), settings.config, settings.build_plan, wish)
    for line in refresh.lines(changes, wish):
        console.print(as_markup(line), soft_wrap=True)
    return plan


def _run_zones(settings: Settings, flags: Mapping[str, Any], place: ClusterSpec | None) -> None:
    """Every zone in turn; what fails in one does not keep the others from running."""
    from ndvi_scale import output, write

    root = settings.store()
    plans: dict[str, Plan] = {}
    kept = dict(flags)
    if flags["overwrite"]:
        output.check_ours(root)
    else:
        plans = output.begin_zones(root, settings.config, settings.store)
    resumed = bool(plans)
    if not resumed:
        plans = settings.build_plans()
        for plan in plans.values() if not flags.get("cluster") else ():
            _in_flight(plan, flags)
        if flags["overwrite"]:
            for name in plans:
                _take_turn(settings.store(name), flags)
            root.delete()  # last: whatever can be refused was refused before
            kept |= {"overwrite": False, "break_lock": False}
        output.freeze_zones(root, plans, settings.store)
    write.create_root(root, plans)
    outcomes = {}
    with _computing(place) as submit:
        for name, plan in plans.items():
            told = {**kept, "png": _picture_of_zone(flags["png"], name)}
            outcomes[name] = _run(plan, settings.store(name), told, submit, resumed=resumed)
    for name, outcome in outcomes.items():
        _conclude(outcome, settings.store(name), settings.config)


def _picture_of_zone(path: str | None, name: str) -> str | None:
    return str(Path(path).with_stem(f"{Path(path).stem}-{name}")) if path and name else path


def _run(
    plan: Plan, store: Store, flags: Mapping[str, Any], submit: Callable[[int | None], Submit], *, resumed: bool
) -> RunReport:
    from ndvi_scale import batch, report
    from ndvi_scale.outside import as_markup
    from ndvi_scale.readers import open_reader

    console = open_console()
    reader = open_reader(flags["reader"])
    in_flight = None if flags.get("cluster") else _in_flight(plan, flags)
    estimate = None if resumed else _estimate(plan, reader)
    _take_turn(store, flags)  # before a cluster is opened, or an output deleted
    if flags.get("overwrite"):
        store.delete()  # last: whatever can be refused was refused before
    console.print(report.plan_table(plan, estimate, in_flight))
    left = batch.left_to_do(plan, store) if resumed else len(plan.index)
    already = len(plan.index) - left
    if resumed:
        console.print(f"Resuming {as_markup(store.url)}: {already} of {len(plan.index)} regions are done.")
    if not left:
        in_flight = 1  # a cluster would be opened, and its workers waited for, in vain
    place = submit(in_flight)
    if note := getattr(place, "note", ""):
        console.print(f"Cluster: {as_markup(note)}", soft_wrap=True)
    with report.progress(console, len(plan.index), already) as advance:
        outcome = batch.run_batch(
            plan,
            store,
            place,
            reader=reader,
            in_flight=in_flight,
            on_done=lambda record: advance(record, plan.region_pixels(record.region)),
            strict=flags.get("strict", False),
        )
    console.print(report.run_table(outcome, estimate))
    _warn(outcome, console)
    if flags.get("png"):
        _draw(store, flags["png"], console)
    return outcome


def _take_turn(store: Store, flags: Mapping[str, Any]) -> None:
    """Make sure that no other driver writes there, or take over where that is asked for. Raises StoreError."""
    from ndvi_scale import lease
    from ndvi_scale.outside import as_markup

    if flags.get("break_lock"):
        before = lease.take_over(store)
        told = f"Taken over from {before}." if before else f"Nobody else is writing to {store.url}."
        open_console().print(as_markup(told), soft_wrap=True)
    lease.require_free(store)


def _estimate(plan: Plan, reader: Reader) -> Estimate | None:
    from ndvi_scale.estimate import estimate_plan

    try:
        return estimate_plan(plan, reader)
    except ReadError:
        if plan.config.on_error == "raise":
            raise
        return None


def _warn(outcome: RunReport, console: Console) -> None:
    from ndvi_scale.outside import as_markup
    from ndvi_scale.report import conflict_lines

    for line in conflict_lines(outcome):
        console.print(f"[bold yellow]Warning:[/] {as_markup(line)}", soft_wrap=True)


def _conclude(outcome: RunReport, store: Store, config: RunConfig) -> None:
    if outcome.failed:
        region, why = next(iter(outcome.failed.items()))
        raise IncompleteRunError(
            f"{len(outcome.failed)} of {outcome.regions} regions failed, {outcome.done} are done; the first, "
            f"{tuple(region)}: {why}",
            failed=len(outcome.failed),
            done=outcome.done,
        )
    from ndvi_scale.composite import outputs
    from ndvi_scale.outside import as_markup

    # Opening a bucket by URL would need another library; our own store object opens both.
    opened = f'"{store.url}"' if "://" not in store.url else f'open_store("{store.url}").zarr(read_only=True)'
    told = as_markup(f'{store.url}   xarray.open_zarr({opened})["{outputs(config)[0].name}"]')
    open_console().print(f"[bold green]Done.[/] {told}", soft_wrap=True)


def _draw(store: Store, path: str, console: Console) -> None:
    from ndvi_scale.outside import as_markup
    from ndvi_scale.picture import save_quicklook

    save_quicklook(store, Path(path))
    console.print(f"Picture: {as_markup(path)}")


@cli.command()
@region_options
@compute_options
@where_options
@storage_option
@click.option("--out", metavar="URL", help="Where the run will write; only needed for --save.")
@click.option("--save", is_flag=True, help="Freeze the plan at --out, for `run` to take up.")
@forecast_options
@json_option
def plan(**flags: Any) -> None:
    """Show what a run would read, compute and write, and what it would cost."""
    from ndvi_scale.settings import place_of, settings_of

    place_of(flags)
    from ndvi_scale import ledger, output

    settings = settings_of(flags)
    site = _site(flags)  # before a search that may take minutes
    zones = settings.config.grid == "per-zone"
    begun = False
    if flags["save"] and zones:
        begun = bool(output.begin_zones(settings.store(), settings.config, settings.store))
    elif flags["save"]:
        begun = output.begin(settings.store(), settings.config) is not None
    plans = settings.build_plans() if zones else {"": settings.build_plan()}
    _show_plans(plans, flags, site)
    if flags["save"] and not begun:
        if zones:
            output.freeze_zones(settings.store(), plans, settings.store)
        else:
            ledger.save_plan(settings.store(), plans[""])


def _site(flags: Mapping[str, Any]) -> tuple[Calibration, Site] | None:
    """Where a run is to be foretold, and from what; None where that is not asked for. Raises ConfigError."""
    from ndvi_scale.cluster.profiles import spec_of_flags
    from ndvi_scale.estimate import own_cores
    from ndvi_scale.forecast import Site, read_calibration

    if not flags["calibration"]:
        if flags["cluster"]:
            raise ConfigError(
                f"--cluster {flags['cluster']} of a plan is where its run is foretold: give --calibration as well, "
                "a file that `ndvi-scale bench` writes"
            )
        return None
    known = read_calibration(Path(flags["calibration"]))
    if not flags["cluster"]:
        return known, Site(flags["workers"] or 0, known.threads, known.cores, known.price)
    spec = spec_of_flags(flags)
    cores = own_cores() if spec.kind == "local" else None
    return known, Site(spec.workers or 0, spec.threads, cores, known.price)


def _show_plans(plans: Mapping[str, Plan], flags: Mapping[str, Any], site: tuple[Calibration, Site] | None) -> None:
    from ndvi_scale import report
    from ndvi_scale.readers import open_reader

    console, facts = open_console(), {}
    for name, plan in plans.items():
        estimate = _estimate(plan, open_reader(flags["reader"]))
        outlook = _look_ahead(plan, estimate, site)
        facts[name] = report.plan_json(plan, estimate) | report.outlook_json(outlook)
        if flags["as_json"]:
            continue
        console.print(report.plan_table(plan, estimate, None if flags["cluster"] else _in_flight(plan, flags)))
        if plan.dropped:
            console.print(report.dropped_table(plan))
        for shown in report.outlook_tables(outlook):
            console.print(shown)
    if flags["as_json"]:
        click.echo(json.dumps(facts.get("", facts), indent=1))


def _look_ahead(plan: Plan, estimate: Estimate | None, site: tuple[Calibration, Site] | None) -> Outlook | None:
    from ndvi_scale.forecast import look_ahead, work_of

    if site is None or estimate is None:
        return None
    known, where = site
    return look_ahead(known, work_of(plan, estimate), where)


@cli.command()
@region_options
@click.option("--save", metavar="FILE", help="Write the items: .json (GeoJSON) or .parquet (stac-geoparquet).")
@json_option
def search(**flags: Any) -> None:
    """Find items, and list or save them."""
    from ndvi_scale import report
    from ndvi_scale.hrefs import unsigned_fields
    from ndvi_scale.item_files import check_target, save_items
    from ndvi_scale.settings import settings_of

    if flags["save"]:
        check_target(flags["save"])  # before a search that may take minutes
    found = settings_of(flags).find_items()
    if flags["save"]:
        save_items(found, flags["save"])
    if flags["as_json"]:
        # As `--save` keeps them: what is printed ends in files and logs, too.
        click.echo(json.dumps([unsigned_fields(item.to_dict(include_self_link=False)) for item in found]))
    else:
        open_console().print(report.items_table(found))


@cli.command()
@json_option
def sources(as_json: bool) -> None:
    """List the catalogs known by name."""
    from dataclasses import asdict

    from ndvi_scale import report
    from ndvi_scale.sources import SOURCES

    if as_json:
        click.echo(json.dumps({name: {**asdict(one), "account": one.account} for name, one in SOURCES.items()}))
    else:
        open_console().print(report.sources_table(SOURCES))


@cli.command()
@click.argument("url")
@storage_option
@click.option("--days", is_flag=True, help="Say how much of each date is seen, cloud, snow and valid.")
@json_option
def status(url: str, storage: tuple[str, ...], days: bool, as_json: bool) -> None:
    """Show how far a run has come, from its ledger."""
    from ndvi_scale import batch, report
    from ndvi_scale.outside import as_markup
    from ndvi_scale.write import is_complete

    console, facts = open_console(), {}
    for name, (store, plan) in _existing_runs(url, storage).items():
        outcome = batch.read_report(plan, store)
        facts[name] = report.report_json(outcome)
        if as_json:
            continue
        if name:
            console.print(f"[bold]{as_markup(name)}[/]")
        console.print(report.run_table(outcome, None))
        if days:
            console.print(report.days_table(outcome))
        _warn(outcome, console)
        complete = is_complete(store, plan)
        console.print("[green]complete[/]" if complete else "[yellow]incomplete[/]: the same `run` takes it up")
    if as_json:
        click.echo(json.dumps(facts.get("", facts), indent=1))


@cli.command()
@click.argument("url")
@click.option("--repair", is_flag=True, help="Compute what is damaged or missing again, and look once more.")
@where_options
@cluster_options
@storage_option
@json_option
def verify(url: str, **flags: Any) -> None:
    """Read an output again and compare every region with what its run wrote."""
    from ndvi_scale.settings import place_of

    place = place_of(flags, used=None if flags["repair"] else "--repair")
    from ndvi_scale import report

    facts, unsound = {}, []
    with _computing(place) as submit:
        for name, (store, plan) in _existing_runs(url, flags["storage"], read_only=not flags["repair"]).items():
            found = _verified(plan, store, flags, submit)
            facts[name] = report.verified_json(found)
            if not found.sound:
                unsound.append(f"{store.url}: {found}")
    if flags["as_json"]:
        click.echo(json.dumps(facts.get("", facts), indent=1))
    if unsound:
        remedy = "see why they cannot be computed" if flags["repair"] else "--repair computes them again"
        raise DamagedError(f"{'; '.join(unsound)}: {remedy}")


def _verified(
    plan: Plan, store: Store, flags: Mapping[str, Any], submit: Callable[[int | None], Submit]
) -> Verified:
    from ndvi_scale import report
    from ndvi_scale.verify import discard

    console = open_console()
    found = _examined(plan, store, console)
    if flags["repair"] and not found.sound:
        discard(plan, store, found.damaged)
        _run(plan, store, flags, submit, resumed=True)
        found = _examined(plan, store, console)
    console.print(report.verified_table(found))
    return found


def _examined(plan: Plan, store: Store, console: Console) -> Verified:
    from ndvi_scale.report import counting
    from ndvi_scale.verify import verify

    with counting(console, len(plan.index)) as advance:
        return verify(plan, store, on_done=advance)


@cli.command()
@click.argument("url")
@storage_option
@click.option("--digest", is_flag=True, help="SHA-256 of all pixels and metadata: equal for equal results.")
@click.option("--png", metavar="FILE", help="Draw the output.")
@json_option
def info(url: str, storage: tuple[str, ...], digest: bool, png: str | None, as_json: bool) -> None:
    """Describe an output: grid, days, items, offsets, size."""
    from ndvi_scale import report

    console, facts = open_console(), {}
    for name, (store, plan) in _existing_runs(url, storage).items():
        facts[name] = _facts(store, plan, digest=digest)
        if not as_json:
            console.print(report.plan_table(plan, None, 1))
            console.print(report.info_table(facts[name]))
        if png:
            _draw(store, _picture_of_zone(png, name) or png, console)
    if as_json:
        click.echo(json.dumps(facts.get("", facts), indent=1))


def _facts(store: Store, plan: Plan, *, digest: bool) -> dict[str, Any]:
    from ndvi_scale import batch, report
    from ndvi_scale.write import read_attributes, store_digest

    facts = report.plan_json(plan, None)
    facts["status"] = (read_attributes(store) or {}).get("status", "no pixels yet")
    facts["objects"], facts["stored_bytes"] = store.data_size()
    facts["offsets"] = report.offsets_json(plan)
    facts["offset_guard"] = report.guard_json(batch.read_report(plan, store))
    if digest:
        facts["store_digest"] = store_digest(store)
    return facts


@cli.command()
@click.argument("item")
@click.option("--id", "item_id", metavar="ID", help="Which item, where ITEM is a file of several.")
@click.option("--catalog", metavar="NAME|URL|PATH", help="Where ITEM is an id: the catalog that has it.")
@click.option("--collection", help="And its collection, if it is not the usual one.")
@click.option("--metadata", metavar="FILE", help="The product's MTD_MSIL2A.xml, to compare.")
@click.option("--offset", type=int, metavar="DN", help="BOA offset to judge, against the item's metadata.")
@click.option("--blocks", type=click.IntRange(1), default=9, show_default=True, help="Most blocks to read.")
@click.option("--reader", default=DEFAULT_READER, show_default=True, help="What reads the assets.")
@json_option
def doctor(item: str, item_id: str | None, **flags: Any) -> None:
    """Tell all that is known of the BOA offset of one item: a path or URL of its JSON, or its id in a catalog."""
    from dataclasses import asdict

    from ndvi_scale import report
    from ndvi_scale.doctor import diagnose, find_item
    from ndvi_scale.readers import open_reader

    found = diagnose(
        find_item(item, item_id=item_id, catalog=flags["catalog"], collection=flags["collection"]),
        open_reader(flags["reader"]),
        offset=flags["offset"],
        metadata=flags["metadata"],
        blocks=flags["blocks"],
    )
    if flags["as_json"]:
        click.echo(json.dumps(asdict(found), indent=1))
    else:
        for table in report.doctor_tables(found):
            open_console().print(table)
    if found.sample is None:
        raise ReadError(found.unreadable, item_id=found.item_id, asset="")


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--size", type=int, default=1536, show_default=True, help="Pixels of 10 m along a granule's side.")
@click.option("--full", is_flag=True, help="Whole MGRS tiles: 10980 pixels.")
@click.option("--dates", type=int, default=6, show_default=True)
@click.option("--missed-clouds", is_flag=True, help="SCL that misses rims of clouds, as real ones do.")
def sandbox(directory: Path, size: int, full: bool, **how: Any) -> None:
    """Make a believable Sentinel-2 archive with known NDVI, to try things on."""
    from ndvi_scale.outside import as_markup
    from ndvi_scale.sandbox import make_sandbox

    console = open_console()
    with console.status("making a sandbox") as spinner:
        made = make_sandbox(directory, size=10980 if full else size, on_progress=spinner.update, **how)
    west, south, east, north = made.bbox
    console.print(f"{as_markup(str(made.catalog))}\nTry:", highlight=False)
    click.echo(
        f"  ndvi-scale run --catalog {made.catalog} --bbox {west:.4f},{south:.4f},{east:.4f},{north:.4f} "
        f"--datetime {made.datetime} --out ndvi.zarr --png ndvi.png"
    )


@cli.command()
@click.option("--directory", default="ndvi-scale-demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--size", type=int, default=1536, show_default=True, help="Pixels along a granule's side.")
@where_options
def demo(directory: Path, size: int, **flags: Any) -> None:
    """Make a sandbox, run on it, check the result against the known NDVI, and draw it."""
    from ndvi_scale.settings import Settings, place_of

    place = place_of(flags)
    from ndvi_scale import output
    from ndvi_scale.demo import check_truth
    from ndvi_scale.sandbox import make_sandbox

    console = open_console()
    with console.status("making a sandbox") as spinner:
        made = make_sandbox(directory / "sandbox", size=size, on_progress=spinner.update)
    values = {
        "catalog": str(made.catalog),
        "bbox": ",".join(f"{degrees:.5f}" for degrees in made.bbox),
        "datetime": made.datetime,
        "out": str(directory / "ndvi.zarr"),
    }
    settings = Settings.from_values(values)
    store = settings.store()
    plan = output.begin(store, settings.config)
    resumed = plan is not None
    flags["png"] = str(directory / "ndvi.png")
    with _computing(place) as submit:
        outcome = _run(plan or settings.build_plan(), store, flags, submit, resumed=resumed)
    _conclude(outcome, store, settings.config)
    console.print(check_truth(store, made), soft_wrap=True)


def _existing_runs(url: str, storage: tuple[str, ...], *, read_only: bool = True) -> dict[str, tuple[Store, Plan]]:
    """Runs at a location by group: one named "", or those of the zones."""
    from ndvi_scale.ledger import load_plan
    from ndvi_scale.output import zones_of
    from ndvi_scale.settings import open_output

    opened, runs = partial(open_output, storage=storage, read_only=read_only), {}
    place, _, group = url.rstrip("/").rpartition("/")
    if place and group in zones_of(opened(place)):
        url, names = place, [group]
    else:
        names = zones_of(opened(url)) or [""]
    for name in names:
        store = opened(url, group=name)
        plan = load_plan(store)
        if plan is None:
            raise StoreError(f"{store.url} holds no run of ndvi-scale: give the --out of a run")
        runs[name] = store, plan
    return runs


def _in_flight(plan: Plan, flags: Mapping[str, Any]) -> int:
    from ndvi_scale.estimate import regions_in_flight
    from ndvi_scale.sizes import parse_size

    limit = parse_size(flags["memory"]) if flags["memory"] else None
    return regions_in_flight(plan, flags["workers"], limit, flags["reader"])


def main() -> None:
    """Run the command line; one line for what is the input's doing, a traceback for a bug."""
    try:
        cli(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("Stopped. What is written is whole; run the same command to resume.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(ConfigError.exit_code)
    except NdviScaleError as error:
        if "--traceback" in sys.argv:
            raise
        click.echo(f"Error: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if "--traceback" in sys.argv:
            raise
        told = f"Error: {error.filename or 'the system'}: {error.strerror or error}: check the path"
        click.echo(printable(told), err=True)
        sys.exit(StoreError.exit_code)
