"""Options that several commands share, by what they are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ndvi_scale.readers import DEFAULT_READER

Command = TypeVar("Command", bound=Callable[..., Any])


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


region_options = _options(
    click.option("--catalog", metavar="NAME|URL|PATH", help="STAC catalog: a known name, an API or a file."),
    click.option("--collection", metavar="ID|auto", help="If not the usual one; auto takes the better of several."),
    click.option("--asset", "assets", multiple=True, metavar="BAND=KEY", help="Key of red, nir, scl; repeatable."),
    click.option("--items", metavar="FILE", help="Items saved by `search --save`, in place of a catalog."),
    click.option("--bbox", metavar="W,S,E,N", help="Region in degrees; W > E crosses the antimeridian."),
    click.option("--aoi", metavar="FILE", help="Region as GeoJSON polygons, in place of --bbox."),
    click.option("--tile", metavar="31TCJ,…", help="MGRS tiles to use alone; the region, if none is given."),
    click.option("--datetime", metavar="A/B", help="STAC interval, such as 2023-04/2023-09 or 2023-06-01/.."),
    click.option("--cloud-cover", type=float, metavar="PERCENT", help="Leave out items with more cloud."),
    click.option("--search-cache", metavar="DIR", help="Keep a long search month by month, to resume it."),
    click.option("--config", metavar="FILE", help="TOML file with any of these settings; flags win over it."),
)
compute_options = _options(
    click.option(
        "--mask",
        metavar="NAME|CLASSES",
        help="SCL classes to drop: default, clear-sky, land, snow-free, openeo, none, or 0,1,3.",
    ),
    click.option(
        "--mask-filter", "mask_filters", metavar="NAME:RADIUS,…", help="Grow or shrink cloud: opening:2,dilation:5."
    ),
    click.option("--period", metavar="month|dekad|season|year|all|16d", help="Make one layer of the days of each."),
    click.option("--reducer", metavar="median|mean|max|min|p90|count", help="How; the median, if not given."),
    click.option("--out-of-range", metavar="mask|clip", help="What becomes of |NDVI| > 1."),
    click.option("--offset", type=int, metavar="DN", help="BOA offset for every item, against its metadata."),
    click.option("--crs", metavar="EPSG:N", help="CRS of the output: a UTM zone, or any in metres."),
    click.option("--grid", metavar="single|per-zone", help="One grid, or a group of native pixels a UTM zone."),
    click.option("--resolution", type=float, metavar="METRES", help="Pixel size: a multiple of the red band's."),
    click.option("--overviews", is_flag=True, default=None, help="Make coarser pixels of the files' overviews."),
    click.option("--chunk", type=int, metavar="PIXELS", help="Side of what is read at once; 2048 by default."),
    click.option("--shard", type=int, metavar="PIXELS", help="Side of objects of several chunks; GDAL 3.13 on."),
    click.option("--dtype", metavar="int16|float32", help="int16 codes (NDVI * 10000) or float32."),
    click.option("--zarr-format", type=int, metavar="3|2", help="2 for older readers."),
    click.option("--no-clip", is_flag=True, help="Keep pixels outside the region, up to its rectangle."),
    click.option("--on-error", metavar="raise|skip", help="Leave out unusable items with a record, or stop."),
)
where_options = _options(
    click.option("--workers", type=click.IntRange(1), metavar="N", help="Regions at once; workers of a cluster."),
    click.option("--memory", metavar="SIZE", help="Limit, such as 4GB (80 % of what is free); a worker's own."),
    click.option("--reader", default=DEFAULT_READER, show_default=True, help="What reads the assets."),
)
cluster_file_option = click.option(
    "--cluster-file", metavar="FILE", help="Profiles of clusters, in place of your own."
)
cluster_options = _options(
    click.option("--cluster", metavar="NAME", help="Where to compute: `cluster list`; this process by default."),
    cluster_file_option,
    click.option("--adapt", metavar="MIN:MAX", help="As many workers as there is work for, between these."),
)
forecast_options = _options(
    click.option("--calibration", metavar="FILE", help="Foretell wall and cost from what `bench` measured."),
    click.option("--cluster", metavar="NAME", help="And of which cluster; that of the calibration by default."),
    cluster_file_option,
)
storage_option = click.option(
    "--storage-option",
    "storage",
    multiple=True,
    metavar="KEY=VALUE",
    help="For a bucket: endpoint, region, profile, account_name, …; repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
