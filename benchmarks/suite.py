"""The suite as this project runs it: emulated nodes, Slurm, Kubernetes and an object store, all on this machine.

Starts what it needs (Slurm and Kubernetes as the tests do, SeaweedFS), measures `suite.toml`, and writes the page
docs/benchmarks.html and the section of docs/benchmarks.md. The same command goes on where it was broken off.

    uv run python -m benchmarks.suite --work DIR
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.pages import PAGE, write_between

from ndvi_scale.bench.factors import Table, read_table
from ndvi_scale.bench.reports import write_reports
from ndvi_scale.bench.suite import Watch, run_suite
from ndvi_scale.bench.wording import progress_line

if TYPE_CHECKING:
    from ndvi_scale.bench.rows import Row

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # what starts services for the tests starts them here
# isort: split
import kube
import services
import slurm

BUCKET = "bench"  # as in the table
TABLE = Path(__file__).with_suffix(".toml")
PROFILES = """
[slurm]
kind = "slurm"
memory = "1GiB"
interface = "lo"
logs = "{logs}"
wait = 120

[kubernetes]
kind = "kubernetes"
image = "{image}"
memory = "1GiB"
wait = 120
"""


def main() -> None:
    """Measure, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--repeats", type=int, help="in place of the table's")
    parser.add_argument("--only", help="one study")
    parser.add_argument("--no-docs", action="store_true")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        table = chosen_table(chosen)
        start_store(table, stack)
        ran = run_suite(table, chosen.work, profiles(table, chosen.work, stack), Watch(print, tell))
    command = "uv run python -m benchmarks.suite --work DIR"
    written = write_reports(ran.results, [f"Measured by `{command}`, seed {table.seed}."], ran.environment)
    print("\n".join(written.lines), written.html, sep="\n")
    if not chosen.no_docs:
        write_between(PAGE, "suite", written.markdown.read_text(encoding="utf-8").strip())
        page = written.html.read_text(encoding="utf-8")
        for ours, shown in ((chosen.work.resolve(), "DIR"), (sys.prefix, "ENVIRONMENT")):  # in job scripts
            page = page.replace(str(ours), shown)
        PAGE.with_suffix(".html").write_text(page, encoding="utf-8")


def chosen_table(chosen: argparse.Namespace) -> Table:
    """The table, or a part of it."""
    table = read_table(chosen.table)
    studies = tuple(study for study in table.studies if chosen.only in {None, study.name})
    return replace(table, studies=studies, repeats=chosen.repeats or table.repeats)


def start_store(table: Table, stack: ExitStack) -> None:
    """Start a SeaweedFS where the table names a store, whose keys workers have in their environment."""
    if all(store == "disk" for study in table.studies for store in study.stores):
        return
    endpoint = stack.enter_context(services.seaweed(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
    endpoint.make_bucket(BUCKET)
    os.environ.update({name.upper(): value for name, value in endpoint.options.items()})


def profiles(table: Table, work: Path, stack: ExitStack) -> Path:
    """A file of the profiles that the table names, whose clusters are started."""
    named = {cluster for study in table.studies for cluster in study.clusters}
    image = "none"
    if "slurm" in named:
        running = stack.enter_context(slurm.slurm(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        os.environ.update(running.environment)
    if "kubernetes" in named:
        api = stack.enter_context(kube.kubernetes())
        os.environ["KUBECONFIG"] = str(api.user)
        image = api.image
    file = work / "clusters.toml"
    file.write_text(PROFILES.format(logs=work / "logs", image=image), encoding="utf-8")
    return file


def tell(row: Row, number: int, total: int) -> None:
    """Print a row."""
    print(f"{number}/{total} {progress_line(row)}", flush=True)


if __name__ == "__main__":
    main()
