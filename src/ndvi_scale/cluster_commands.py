"""`ndvi-scale cluster …`: what clusters there are, what would be submitted, whether one is fit for a run."""

from __future__ import annotations

import json
from typing import Any

import click

from ndvi_scale.errors import ClusterError, ConfigError
from ndvi_scale.options import cluster_file_option, json_option, storage_option
from ndvi_scale.terminal import open_console


@click.group()
def cluster() -> None:
    """Show, render and check the clusters that `run --cluster NAME` takes."""


@cluster.command("list")
@cluster_file_option
@json_option
def list_clusters(*, cluster_file: str | None, as_json: bool) -> None:
    """List the profiles of clusters, and the kinds that there are."""
    from ndvi_scale import report
    from ndvi_scale.cluster import profiles

    found = profiles.read_profiles(profiles.as_path(cluster_file))
    if as_json:
        click.echo(json.dumps(found))
    else:
        open_console().print(report.clusters_table(found, str(cluster_file or profiles.user_file())))


@cluster.command()
@click.argument("name")
@cluster_file_option
def render(name: str, cluster_file: str | None) -> None:
    """Print what would be submitted: a job's script, the manifest of a DaskCluster, what a gateway is asked for."""
    from ndvi_scale.cluster import profiles, rendering

    spec = profiles.spec_of_flags({"cluster": name, "cluster_file": cluster_file})
    text = rendering.render(spec)
    if text is None:
        raise ConfigError(
            f"cluster {name!r} is of kind {spec.kind}, which submits no job: there is nothing to render"
        )
    click.echo(text, nl=False)


@cluster.command()
@click.argument("name")
@cluster_file_option
@storage_option
@click.option("--out", metavar="URL", help="Where a run would write: every worker tries to.")
@json_option
def check(name: str, cluster_file: str | None, **flags: Any) -> None:
    """Open a cluster and look whether its workers are fit: versions, settings, scratch, clock, a write to --out."""
    from ndvi_scale import report
    from ndvi_scale.cluster import check as checks
    from ndvi_scale.cluster import profiles
    from ndvi_scale.cluster.opening import open_cluster
    from ndvi_scale.cluster.submit import DaskSubmit
    from ndvi_scale.settings import open_output

    spec = profiles.spec_of_flags({"cluster": name, "cluster_file": cluster_file})
    store = open_output(flags["out"], flags["storage"]) if flags["out"] else None
    with open_cluster(spec) as submit:
        if not isinstance(submit, DaskSubmit):
            raise ConfigError(f"cluster {name!r} is threads of this process: there are no workers to look at")
        found = checks.check_cluster(submit.client, store)
    if flags["as_json"]:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        open_console().print(report.checked_table(found))
    if not found.ok:
        wrong = "; ".join(f"{one.what}: {one.value} ({one.remedy})" for one in found.findings if not one.ok)
        raise ClusterError(f"cluster {name!r} is not fit for a run: {wrong}")
