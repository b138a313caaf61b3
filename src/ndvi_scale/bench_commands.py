"""`ndvi-scale bench`: compare cluster sizes by measuring them, and say how many workers are worth it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ndvi_scale.errors import ConfigError, IncompleteRunError
from ndvi_scale.options import cluster_file_option
from ndvi_scale.terminal import open_console

if TYPE_CHECKING:
    from rich.console import Console

    from ndvi_scale.bench.rows import Row
    from ndvi_scale.bench.suite import Watch


@click.command()
@click.argument("table", required=False, metavar="[TABLE]")
@click.option("--quick", is_flag=True, help="The short table: less than five minutes on two cores.")
@click.option("--only", metavar="STUDY,…", help="Measure some studies of the table alone.")
@click.option("--work", metavar="DIR", default="ndvi-scale-bench", show_default=True, help="Results and report.")
@click.option("--report", is_flag=True, help="Measure nothing: write the report of what is measured.")
@cluster_file_option
def bench(table: str | None, cluster_file: str | None, **flags: Any) -> None:
    """Measure how a run grows with workers, chunks, stores and stages, by a factor TABLE (TOML); report it as HTML.

    What is measured already in DIR is kept: the same command again goes on.
    """
    from ndvi_scale.bench.factors import chosen_table
    from ndvi_scale.bench.reports import write_reports
    from ndvi_scale.bench.suite import RESULTS, run_suite
    from ndvi_scale.cluster.profiles import as_path

    console, work = open_console(), Path(flags["work"])
    if flags["report"]:
        _require_nothing_else(table, flags)
        ran, results, here = None, work / RESULTS, ""
    else:
        chosen = chosen_table(table, quick=flags["quick"], only=flags["only"])
        ran = run_suite(chosen, work, as_path(cluster_file), _watch(console))
        results, here = ran.results, ran.environment
    written = write_reports(results, here=here)
    for line in written.lines:
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"[bold green]Report:[/] {written.html}", soft_wrap=True)
    if ran and ran.missing:
        raise IncompleteRunError(
            f"{ran.missing} of {ran.missing + ran.done} rows cannot be used, for the reasons above: mend them, and "
            "run the same command again, which measures these alone",
            failed=ran.missing,
            done=ran.done,
        )


def _require_nothing_else(table: str | None, flags: dict[str, Any]) -> None:
    """Raises ConfigError for what would change nothing."""
    given = [("TABLE", table), ("--quick", flags["quick"]), ("--only", flags["only"])]
    for name, value in given:
        if value:
            raise ConfigError(
                f"--report writes the report of all that is measured, and {name} has no effect: leave it out"
            )


def _watch(console: Console) -> Watch:
    from ndvi_scale.bench.suite import Watch
    from ndvi_scale.bench.wording import progress_line
    from ndvi_scale.outside import as_markup

    def say(line: str) -> None:
        console.print(f"[dim]{as_markup(line)}[/]", soft_wrap=True)

    def measured(row: Row, number: int, total: int) -> None:
        console.print(as_markup(f"{number}/{total} {progress_line(row)}"), soft_wrap=True)

    return Watch(say, measured)
