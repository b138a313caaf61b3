"""Settings of one command, from its flags and its TOML file: what to compute, from which items, and where to."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.errors import ConfigError, EmptySearchError
from ndvi_scale.readers import DEFAULT_READER, open_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pystac

    from ndvi_scale.cluster.spec import ClusterSpec
    from ndvi_scale.config import RunConfig
    from ndvi_scale.plan import Plan
    from ndvi_scale.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What a command was asked for."""

    config: RunConfig
    items: str | None
    out: str | None
    storage: tuple[str, ...]
    search_cache: str | None = None
    catalog: str = field(default="", repr=False)
    """As it was given, to be asked; `config` keeps what of it may be written down."""

    @classmethod
    def from_values(cls, settings: Mapping[str, Any], storage: tuple[str, ...] = ()) -> Settings:
        """Sort settings into what is computed, from which items, and where to."""
        from ndvi_scale.config import make_config

        values = dict(settings)
        items, out, cache = (values.pop(name, None) for name in ("items", "out", "search_cache"))
        if items and values.get("catalog"):
            raise ConfigError("both items and catalog given: items come from one or the other")
        if items:
            values["catalog"] = _items_digest(items)
        elif not values.get("catalog"):
            raise ConfigError("no catalog given: use --catalog NAME|URL|PATH, or --items FILE")
        elif "://" not in str(values["catalog"]) and Path(values["catalog"]).exists():
            values["catalog"] = str(Path(values["catalog"]).resolve())
        config = make_config(values)
        return cls(config, items, out, storage, cache, values["catalog"])

    def find_items(self) -> list[pystac.Item]:
        """Search the catalog, or take the saved items that fit; in order of time."""
        from ndvi_scale.search import in_order

        return in_order(self._items())

    def _items(self) -> Iterator[pystac.Item]:
        """The same in any order, one by one: all at once may not fit the memory."""
        from ndvi_scale.search import iter_items

        config = self.config
        found = iter_items(
            self.items or self.catalog or config.catalog,
            aoi=config.aoi,
            datetime=config.datetime,
            cloud_cover=config.cloud_cover,
            collection=config.collection,
            cache=self.search_cache,
        )
        return _of_tiles(found, config.tiles) if config.tiles else found

    def build_plan(self) -> Plan:
        """Search and freeze."""
        from ndvi_scale.plan import build_plan

        return build_plan(self._items(), self.config)

    def build_plans(self) -> dict[str, Plan]:
        """Search and freeze, a plan of every zone."""
        from ndvi_scale.plan import build_plans

        return build_plans(self._items(), self.config)

    def store(self, group: str = "") -> Store:
        """The output, or a group in it."""
        if not self.out:
            raise ConfigError("no output given: use --out PATH, or --out URL such as s3://bucket/name.zarr")
        return open_output(self.out, self.storage, group)


def _of_tiles(items: Iterable[pystac.Item], tiles: tuple[str, ...]) -> Iterator[pystac.Item]:
    from ndvi_scale.sentinel2 import item_tile

    kept = others = 0
    for item in items:
        if item_tile(item.properties, item.id) in tiles:
            kept += 1
            yield item
        else:
            others += 1
    if not kept:
        raise EmptySearchError(f"none of {others} items is of tile {', '.join(tiles)}: check its name")
    logger.info("%d items are of other tiles than %s", others, ", ".join(tiles))


def _items_digest(items: str | Path) -> str:
    """What stands for saved items in a configuration: other contents are another run."""
    import hashlib

    from ndvi_scale.config import SAVED
    from ndvi_scale.web import is_url, shown

    if is_url(str(items)):
        raise ConfigError(f"{shown(str(items))}: saved items are a file: download it, or give it as --catalog")
    path = Path(items)
    try:
        return f"{SAVED}{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise ConfigError(
            f"{path}: the items cannot be read ({error.strerror}): save some with `search --save`"
        ) from None


def settings_of(flags: Mapping[str, Any]) -> Settings:
    """Settings from flags, and from the file that they name; flags win. Raises ConfigError."""
    from dataclasses import fields

    from ndvi_scale.config import NOT_COMPUTED, RunConfig, read_config

    names = {field.name for field in fields(RunConfig)} | NOT_COMPUTED
    given = {name: value for name, value in flags.items() if name in names and value not in (None, ())}
    if flags.get("no_clip"):
        given["clip"] = False
    settings = read_config(Path(flags["config"])) if flags["config"] else {}
    for one, other in (("bbox", "aoi"), ("aoi", "bbox"), ("items", "catalog"), ("catalog", "items")):
        if one in given:
            settings.pop(other, None)
    return Settings.from_values({**settings, **given}, flags.get("storage", ()))


PLACE: Final = ("cluster", "cluster_file", "adapt", "workers", "memory")
"""Flags that say where to compute, and how much of it at once."""


def place_of(flags: Mapping[str, Any], *, used: str | None = None) -> ClusterSpec | None:
    """Where to compute, as flags say it; None is this process. Asks nothing that takes long.

    `used`: a flag that is not given, without which nothing is computed. Raises ConfigError.
    """
    from ndvi_scale.cluster.profiles import spec_of_flags

    given = {f"--{name.replace('_', '-')}": flags[name] for name in PLACE if flags.get(name) is not None}
    if used is not None and given:
        told = " ".join(map(str, next(iter(given.items()))))
        raise ConfigError(f"{told} without {used}: nothing is computed; give {used} as well, or leave it out")
    _check_picture(flags.get("png"))
    if flags["reader"] != DEFAULT_READER:
        open_reader(flags["reader"])
    if flags.get("cluster"):
        return spec_of_flags(flags)
    for name in ("--adapt", "--cluster-file"):
        if name in given:
            raise ConfigError(
                f"{name} {given[name]} is of a cluster: give --cluster as well, such as --cluster local"
            )
    if "--memory" in given:
        from ndvi_scale.sizes import parse_size

        parse_size(given["--memory"])
    return None


def _check_picture(file: str | None) -> None:
    """Before a run that may take hours."""
    if file and not Path(file).absolute().parent.is_dir():
        raise ConfigError(f"--png {file}: there is no folder {Path(file).parent}: make it, or give another")


def open_output(url: str, storage: tuple[str, ...], group: str = "", *, read_only: bool = False) -> Store:
    """The store at a URL with options as flags give them, ``KEY=VALUE``. Raises ConfigError and StoreError."""
    from ndvi_scale.store import open_store

    if url.startswith("memory:"):
        raise ConfigError(f"{url} would be gone when this command ends: give a path or a bucket's URL")
    for number, option in enumerate(storage, 1):
        if not option.partition("=")[0] or "=" not in option:  # not shown: it may be a secret
            raise ConfigError(
                f"--storage-option number {number} is not KEY=VALUE, such as endpoint=http://127.0.0.1:8333"
            )
    options = dict(option.split("=", 1) for option in storage)
    return open_store(url, options, group=group, read_only=read_only)
