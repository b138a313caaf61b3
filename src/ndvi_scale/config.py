"""What to compute: `RunConfig`, frozen, from flags or TOML, with a digest that says whether two are the same."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from shapely.geometry import shape

from ndvi_scale.aoi import Aoi, Area, parse_bbox, read_aoi, tile_aoi
from ndvi_scale.errors import ConfigError
from ndvi_scale.interval import Interval, parse_interval
from ndvi_scale.kernels import MAX_DN
from ndvi_scale.masks import SceneMask, scene_mask
from ndvi_scale.periods import parse_period
from ndvi_scale.reducers import parse_reducer
from ndvi_scale.sentinel2 import BANDS, MASKS, AssetKeys
from ndvi_scale.tomlfile import read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

OutOfRange = Literal["mask", "clip"]
OnError = Literal["raise", "skip"]
GridChoice = Literal["single", "per-zone"]
OutputType = Literal["int16", "float32"]

DEFAULT_CHUNK: Final = 2048
"""Pixels along one side of an object: four COG blocks, 8 MB of codes. Between 1024 (twice the requests) and
4096 (four times the memory)."""

MAX_CHUNK: Final = 16384
"""A side above this would make one object of over half a gigabyte."""

LEAST_IN_SHARD: Final = 128
"""Least side of a chunk in a shard. Each costs zarr-python 0.3 ms to write: a shard of 2048² takes twice the
processor's time of one chunk in chunks of 256, four times in such of 128, eleven times in such of 64."""

_PERCENT: Final = 100

NOT_COMPUTED: Final = frozenset({"bbox", "tile", "items", "out", "search_cache"})
"""Settings of a file or of flags that are no fields of `RunConfig`: other forms of some, and places."""

SAVED: Final = "items "
"""How a catalog begins that stands for a file of saved items, by a digest of what is in it."""

_LATER: Final[dict[str, Any]] = {"overviews": False, "mask_filters": [], "period": None, "reducer": None}
"""Parameters that `as_dict` leaves out where they are as here, so that runs begun before there was a choice are the
same still."""

ALGORITHM: Final = 1
"""Raised whenever the same plan would give other pixels; part of the digest."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what the pixels are; nothing that decides where they are computed."""

    catalog: str = ""
    """Name, URL or path of the catalog, for the record: of a URL neither user and password nor the query are kept,
    so that no secret is written down and another token is the same run."""
    collection: str | None = None
    """None takes the catalog's usual one; `auto` the better of those that a known catalog has."""
    assets: AssetKeys = ()
    """(band, asset key) pairs, where the catalog names its assets in no known way."""
    aoi: Aoi | None = None
    """Region; None takes the whole ground that the items cover."""
    datetime: str | None = None
    """STAC interval."""
    cloud_cover: float | None = None
    """Upper limit of the items' eo:cloud_cover in percent: a search hint, not a mask."""
    mask: tuple[int, ...] = tuple(sorted(MASKS["default"]))
    """SCL classes to drop; the name of a preset brings its filters along."""
    mask_filters: tuple[str, ...] = ()
    """Mask filters (`masks`), such as ``("opening:2", "dilation:5")``: how cloud grows or shrinks before it is
    dropped."""
    period: str | None = None
    """Stretch of solar days that becomes one layer (`periods.parse_period`); None makes a layer of each day."""
    reducer: str | None = None
    """What becomes of the days of a period (`reducers.parse_reducer`): the median, unless given."""
    out_of_range: OutOfRange = "mask"
    """What becomes of |NDVI| > 1, which one slightly negative band makes: dropped, or set to ±1."""
    offset: int | None = None
    """BOA offset in DN for every item, against what the items say."""
    crs: str | None = None
    """CRS of the output, in metres; None takes the UTM zone whose tiles cover the AOI."""
    grid: GridChoice = "single"
    """One grid for all, or one a UTM zone, each of native pixels (`plan.build_plans`)."""
    tiles: tuple[str, ...] = ()
    """MGRS tiles whose granules alone take part; all where empty."""
    resolution: float | None = None
    """Pixel size in metres, a whole multiple of that of the red band, which is taken for None."""
    overviews: bool = False
    """Make coarser pixels of the files' overviews where these fit, in place of their own pixels: fewer bytes, and
    whatever the provider made of the pixels."""
    clip: bool = True
    """Fill pixels whose centre is outside the AOI; without it the whole rectangle is computed."""
    chunk: int = DEFAULT_CHUNK
    """Side of a chunk in pixels: what is read at once, and without shards an object."""
    shard: int | None = None
    """Side of an object in pixels that holds several chunks, a whole multiple of `chunk`; None makes no shards."""
    dtype: OutputType = "int16"
    zarr_format: Literal[2, 3] = 3
    on_error: OnError = "raise"
    """Whether an item or asset that cannot be used stops its region or is left out with a record."""

    def __post_init__(self) -> None:
        """Refuse what could never run, and bring what means the same into one form. Raises ConfigError."""
        for name, kind in _TYPES.items():
            _check_type(name, getattr(self, name), kind)
        _check_side("chunk", self.chunk)
        if self.offset is not None and abs(self.offset) > MAX_DN:
            raise ConfigError(f"offset {self.offset} is no BOA offset: give DN, such as 0 or -1000")
        _check_choice("out-of-range", self.out_of_range, get_args(OutOfRange))
        _check_choice("on-error", self.on_error, get_args(OnError))
        _check_choice("grid", self.grid, get_args(GridChoice))
        _check_choice("dtype", self.dtype, get_args(OutputType))
        _check_choice("zarr-format", self.zarr_format, (2, 3))
        if self.shard is not None:
            _check_shard(self.shard, self.chunk, self.zarr_format)
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise ConfigError(f"resolution {self.resolution} is not a size: give metres above 0, such as 10")
        if self.cloud_cover is not None and not 0 <= self.cloud_cover <= _PERCENT:
            raise ConfigError(f"cloud cover {self.cloud_cover} is not a percentage: give 0 to 100")
        if self.crs is not None:
            _check_crs(self.crs)
        self._set_period()
        object.__setattr__(self, "catalog", _recorded(self.catalog))
        object.__setattr__(self, "assets", _checked_assets(self.assets))
        found = scene_mask(self.mask, self.mask_filters or None)
        object.__setattr__(self, "mask", tuple(sorted(found.dropped)))
        object.__setattr__(self, "mask_filters", found.filters)
        for name in ("cloud_cover", "resolution"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))

    def _set_period(self) -> None:
        if self.period is None:
            if self.reducer is not None:
                raise ConfigError(
                    f"reducer {self.reducer!r} without a period: say which days become one layer, such as "
                    "period = month, or leave the reducer out"
                )
            return
        object.__setattr__(self, "period", parse_period(self.period))
        object.__setattr__(self, "reducer", parse_reducer("median" if self.reducer is None else self.reducer))

    @cached_property
    def scene_mask(self) -> SceneMask:
        """`mask` and `mask_filters` as one."""
        return SceneMask(frozenset(self.mask), self.mask_filters)

    @property
    def object_side(self) -> int:
        """Side in pixels of what one region makes: a shard, or a chunk where there are none."""
        return self.shard or self.chunk

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in field order."""
        values = asdict(replace(self, aoi=None))
        values["mask"], values["tiles"] = list(self.mask), list(self.tiles)
        values["assets"] = dict(self.assets)
        values["mask_filters"] = list(self.mask_filters)
        for name in _LATER:
            if not values[name]:
                del values[name]
        values["aoi"] = self.aoi.to_geojson() if self.aoi else None
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The inverse of `as_dict`."""
        given = dict(values)
        geometry = given.pop("aoi")
        aoi = Aoi(cast("Area", shape(geometry)), "the stored plan") if geometry else None
        mask, tiles, assets = tuple(given["mask"]), tuple(given["tiles"]), tuple(given["assets"].items())
        filters = tuple(given.get("mask_filters", ()))
        return cls(**{**given, "mask": mask, "mask_filters": filters, "tiles": tiles, "assets": assets, "aoi": aoi})

    def digest(self) -> str:
        """SHA-256 (hex) of the configuration and the algorithm's number: equal means the same pixels."""
        values = self.as_dict()
        if self.shard is None:  # runs that were begun before there were shards stay the same runs
            del values["shard"]
        text = json.dumps({"algorithm": ALGORITHM, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def config_differences(old: RunConfig, new: RunConfig) -> tuple[str, ...]:
    """One line a parameter in which two configurations differ: ``chunk: 1024 there, 2048 asked``."""
    before, after = old.as_dict(), new.as_dict()
    lines = []
    for name in {**before, **after}:
        pair = [values.get(name, _LATER.get(name)) for values in (before, after)]
        if pair[0] != pair[1]:
            was, now = map(_short, pair)
            lines.append(f"{name}: {was} there, {now} asked")
    return tuple(lines)


def extends(old: RunConfig, new: RunConfig, *, later: bool = True, other_items: bool = False) -> bool:
    """Whether two differ in nothing but a later end of the dates; and in the file of saved items, if that may be.

    Without `later` the dates are the same, too.
    """
    saved = other_items and all(config.catalog.startswith(SAVED) for config in (old, new))
    same = replace(old, datetime=new.datetime, catalog=new.catalog if saved else old.catalog)
    if same.digest() != new.digest():
        return False
    if old.datetime == new.datetime or not later:
        return old.datetime == new.datetime
    before, now = (
        Interval(None, None) if config.datetime is None else parse_interval(config.datetime)
        for config in (old, new)
    )
    longer = now.end is None or (before.end is not None and now.end >= before.end)
    return before.start == now.start and longer


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def read_config(path: Path) -> dict[str, Any]:
    """Settings from a TOML file: the fields of `RunConfig` (dashes or underscores), and `NOT_COMPUTED`.

    A relative `aoi`, `items` or `catalog` path counts from the file's folder. Raises ConfigError for an absent
    or malformed file and for an unknown key.
    """
    settings = {key.replace("-", "_"): value for key, value in read_toml(path, "configuration file").items()}
    known = {field.name for field in fields(RunConfig)} | NOT_COMPUTED
    for key in settings:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{path}: unknown setting {key!r}{hint} (known: {', '.join(sorted(known))})")
    for key in ("aoi", "items", "catalog"):
        place = str(settings.get(key, ""))
        if key in settings and "://" not in place and (path.parent / place).exists():
            settings[key] = str(path.parent / place)
    return settings


def make_config(settings: Mapping[str, Any]) -> RunConfig:
    """A `RunConfig` from loose settings: `bbox`, `aoi` (a file), `tile`, `mask` (name or classes), the rest as is.

    `mask_filters` are those of the mask's preset where none are given; a text or a list, none of them if empty.
    Tiles (a list, or names with commas) choose granules, and are the region where no other is given.

    `assets` is a mapping or BAND=KEY texts. Raises ConfigError.
    """
    values = {key: value for key, value in settings.items() if value is not None}
    if "bbox" in values and "aoi" in values:
        raise ConfigError("both bbox and aoi given: the region is one or the other")
    if "bbox" in values:
        bbox = values.pop("bbox")
        _check_type("bbox", bbox, (str, list, tuple))
        values["aoi"] = parse_bbox(bbox)
    elif "aoi" in values:
        _check_type("aoi", values["aoi"], (str, Path))
        values["aoi"] = read_aoi(Path(values["aoi"]))
    if "tile" in values:
        values["tiles"] = _parse_tiles(values.pop("tile"))
        values.setdefault("aoi", tile_aoi(values["tiles"]))
    if "mask" in values or "mask_filters" in values:
        found = scene_mask(values.get("mask", "default"), values.get("mask_filters"))
        values["mask"], values["mask_filters"] = tuple(found.dropped), found.filters
    if "assets" in values:
        values["assets"] = _asset_pairs(values["assets"])
    try:
        return RunConfig(**values)
    except TypeError as error:
        raise ConfigError(f"a setting is unknown: {error}") from None


def _parse_tiles(tiles: Any) -> tuple[str, ...]:
    _check_type("tile", tiles, (str, list, tuple))
    names = tiles.split(",") if isinstance(tiles, str) else [str(name) for name in tiles]
    found = {name.strip().upper().removeprefix("T") for name in names} - {""}
    if not found:
        raise ConfigError(f"tile {tiles!r} names none: give one such as 31TCJ, or several with commas")
    return tuple(sorted(name.zfill(5) if name[:1].isdigit() else name for name in found))


def _recorded(catalog: str) -> str:
    """What a configuration keeps of a catalog: all of a name or a path, of a URL what may not be secret."""
    if "://" not in catalog:
        return catalog
    from ndvi_scale.web import shown  # its libraries cost a worker 0.1 s that has no use for them

    return shown(catalog)


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "catalog": (str,),
    "collection": (str, type(None)),
    "datetime": (str, type(None)),
    "crs": (str, type(None)),
    "period": (str, type(None)),
    "reducer": (str, type(None)),
    "offset": (int, type(None)),
    "clip": (bool,),
    "overviews": (bool,),
    "cloud_cover": (int, float, type(None)),
    "resolution": (int, float, type(None)),
}


def _check_type(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    # A bool is an int to Python, and never meant as one here.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise ConfigError(f"{name.replace('_', '-')} {value!r} has the wrong type: give a {names}")


def _asset_pairs(value: Any) -> AssetKeys:
    """Pairs from a mapping (TOML) or from texts such as ``red=B4`` (flags)."""
    if isinstance(value, dict):
        return tuple(value.items())
    if isinstance(value, list | tuple):
        return tuple(_asset_pair(one) for one in value)
    raise ConfigError(f"assets {value!r} name no assets: give BAND=KEY, such as --asset red=B4")


def _asset_pair(value: Any) -> tuple[str, str]:
    if isinstance(value, str):
        band, _, key = value.partition("=")
        return band.strip(), key.strip()
    return tuple(value) if isinstance(value, list) else value  # checked with all others


def _checked_assets(pairs: AssetKeys) -> AssetKeys:
    """The pairs in the order of `BANDS`, each band once and with a key."""
    for pair in pairs:
        if not isinstance(pair, tuple) or [type(part) for part in pair] != [str, str] or not all(pair):
            raise ConfigError(f"asset {pair!r} is no band with its key: give BAND=KEY, such as --asset red=B4")
        _check_choice("asset band", pair[0], BANDS)
    given = [band for band, _ in pairs]
    twice = next((band for band in BANDS if given.count(band) > 1), None)
    if twice is not None:
        raise ConfigError(f"asset {twice!r} is given {given.count(twice)} times: a band has one key, keep one")
    return tuple(sorted(pairs, key=lambda pair: BANDS.index(pair[0])))


def _check_side(name: str, side: Any) -> None:
    if not isinstance(side, int) or not 0 < side <= MAX_CHUNK or side % 2:
        raise ConfigError(
            f"{name} {side} cannot be: give an even number of pixels up to {MAX_CHUNK} "
            f"(SCL pixels are 2 wide); multiples of 1024 fit the COG blocks"
        )


def _check_shard(shard: Any, chunk: int, zarr_format: int) -> None:
    _check_side("shard", shard)
    if zarr_format == 2:  # noqa: PLR2004 - the format's name
        raise ConfigError(f"shard {shard} and zarr-format 2: that format has no shards, leave one of the two out")
    if chunk < LEAST_IN_SHARD:
        raise ConfigError(
            f"chunk {chunk} is too small for a shard: chunks in shards have {LEAST_IN_SHARD} pixels a side or "
            "more, give such as 256 or 512"
        )
    if shard % chunk or shard == chunk:
        below = max(shard // chunk, 2) * chunk
        fitting = sorted(side for side in {below, max(below, shard // chunk * chunk + chunk)} if side <= MAX_CHUNK)
        remedy = f"give {' or '.join(map(str, fitting))}" if fitting else "leave it out"
        raise ConfigError(
            f"shard {shard} does not hold several whole chunks of {chunk}: it is chunk twice or more times; "
            f"{remedy}, or take a smaller chunk"
        )


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r} is unknown: give one of {', '.join(map(str, choices))}")


def _check_crs(text: str) -> None:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(text)
    except CRSError:
        raise ConfigError(f"crs {text!r} is unknown: give a code such as EPSG:32631") from None
    if not crs.is_projected or [axis.unit_name for axis in crs.axis_info] != ["metre", "metre"]:
        raise ConfigError(f"crs {text!r} ({crs.name}) is not projected in metres: give one such as EPSG:32631")
