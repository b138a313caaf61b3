"""The Zarr group: its template, its regions, its end. Whole objects only."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash
import zarr
from obstore.exceptions import BaseError
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning

from ndvi_scale import cf
from ndvi_scale.composite import is_fill, outputs
from ndvi_scale.errors import StoreError
from ndvi_scale.lattice import Region
from ndvi_scale.places import brief

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from ndvi_scale.composite import Output
    from ndvi_scale.plan import Plan
    from ndvi_scale.store import Store

logger = logging.getLogger(__name__)

AGAIN: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0)
"""Seconds between tries to write to a service that is not reached: it may be away for half a minute."""

MARKER: Final = "ndvi_scale"
"""Group attribute that says that we wrote the store, and by which plan."""

VOLATILE: Final = frozenset({"status", MARKER, "history"})
"""Group attributes that tell of the run, not of the data; left out of `store_digest`."""

COMPRESSION: Final = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "blocksize": 512 * 1024}
"""Byte shuffle before zstd: codes of neighbours share their high byte. In blocks of this size level 1 makes objects
as small as level 3 in those that Blosc takes by itself, three times as fast (benchmarks/codec.py)."""

CHECKSUM: Final = "xxh3_128"
"""Stands before each checksum in the ledger, so that none is taken for another kind; bare ones are SHA-256, of runs
that version 0.1 began. A fifteenth of its time."""


TIMES_IN_CHUNK: Final = 4096
"""Layers in a chunk of ``time`` and ``time_bnds``, however many there are: where the axis grows, their chunk is
written anew with more in it, and whoever reads it by the metadata of before finds what was there before."""


def create_template(store: Store, plan: Plan) -> None:
    """Write every object of the cube but its pixels; says ``status: incomplete``. Does nothing if it is there.

    The main variable is made after all others, so where it is missing no pixel was written, and what a killed
    run left of a template is completed. Raises StoreError when the location cannot be written.
    """
    if _has_template(store, plan):
        return
    attributes = {
        **cf.cube_attributes(plan),
        MARKER: marker(plan),
        "status": "incomplete",
    }
    with store.reporting("written"):
        # Nothing is deleted here, ever: two drivers that begin at once must not wipe each other's regions.
        group = zarr.open_group(store.zarr(), mode="a", zarr_format=plan.config.zarr_format, use_consolidated=False)
        group.attrs.put(attributes)
        for name, variable in cf.coordinates(plan).items():
            array: Any = _of_shape(group, name, variable.values.shape) or _create(group, name, variable)
            array[...] = variable.values
        for output in reversed(outputs(plan.config)):
            if not _of_shape(group, output.name, plan.shape):
                _create_output(group, plan, output)
        consolidate(store.zarr(), plan.config.zarr_format)
    if plan.config.shard is not None:
        _warn_of_shards()


def marker(plan: Plan) -> dict[str, Any]:
    """What the group says of the run that makes it."""
    return {"version": version("ndvi-scale"), "plan": plan.id, "config": plan.config.as_dict()}


@cache
def _warn_of_shards() -> None:
    """Say who can open them: once, however many groups a run writes."""
    logger.warning(
        "Objects are shards: zarr-python 3, xarray and GDAL 3.13 or newer can open them; GDAL 3.12 and older, "
        "which wheels of rasterio up to 1.5 bring, cannot"
    )


def create_root(store: Store, plans: Mapping[str, Plan]) -> None:
    """Write the group that holds the groups of zones, which `xarray.open_datatree` opens. Raises StoreError."""
    plan = next(iter(plans.values()))
    with store.reporting("written"):
        group = zarr.open_group(store.zarr(), mode="a", zarr_format=plan.config.zarr_format, use_consolidated=False)
        group.attrs.put(
            {
                "Conventions": "CF-1.11",
                "title": "Sentinel-2 NDVI, one group a UTM zone",
                MARKER: {
                    "version": version("ndvi-scale"),
                    "zones": {name: plans[name].id for name in sorted(plans)},
                },
            }
        )


def _has_template(store: Store, plan: Plan) -> bool:
    try:
        return outputs(plan.config)[0].name in open_group(store, "r")
    except (FileNotFoundError, StoreError):
        return False


def _of_shape(group: zarr.Group, name: str, shape: tuple[int, ...]) -> Any:
    """The array that is there; None where there is none, or one that was begun for another axis and is empty."""
    array: Any = group.get(name)
    return array if array is not None and array.shape == shape else None


def _create(group: zarr.Group, name: str, variable: cf.Variable) -> zarr.Array[Any]:
    like = variable.values
    return group.create_array(
        name,
        shape=like.shape,
        dtype=like.dtype,
        chunks=time_chunks(variable),
        overwrite=name in group,
        fill_value=None if group.metadata.zarr_format == cf.ZARR_V2 else 0,
        **_named(group, variable.dims, variable.attrs),
    )


def refit_times(group: zarr.Group, name: str, variable: cf.Variable) -> None:
    """Make a coordinate along time anew where its chunk is as long as the axis was, as the first ones have it."""
    array: Any = group[name]
    if array.chunks != time_chunks(variable):
        del group[name]
        _create(group, name, variable)


def time_chunks(variable: cf.Variable) -> tuple[int, ...]:
    """Chunk of a coordinate: all of it, but along time."""
    sizes = zip(variable.dims, variable.values.shape, strict=True)
    return tuple(TIMES_IN_CHUNK if dim == "time" else size for dim, size in sizes)


def _create_output(group: zarr.Group, plan: Plan, output: Output) -> None:
    zarr_format = plan.config.zarr_format
    attrs, fill = cf.attributes(output, plan.config), cf.encoded_fill(output)
    if zarr_format != cf.ZARR_V2:  # there xarray takes it from the array's own fill value
        attrs |= fill
    group.create_array(
        output.name,
        shape=plan.shape,
        dtype=output.dtype,
        chunks=(1, *plan.chunk_shape),
        shards=(1, *plan.shard_shape) if plan.shard_shape else None,
        fill_value=output.fill if fill or zarr_format != cf.ZARR_V2 else None,
        overwrite=output.name in group,
        compressors=_compressor(zarr_format),
        **_named(group, ("time", "y", "x"), attrs),
    )


def _compressor(zarr_format: int) -> Any:
    if zarr_format == cf.ZARR_V2:
        from numcodecs import Blosc

        return Blosc(**{**COMPRESSION, "shuffle": Blosc.SHUFFLE})
    return BloscCodec(**COMPRESSION)


def _named(group: zarr.Group, dims: tuple[str, ...], attrs: Mapping[str, Any]) -> dict[str, Any]:
    if group.metadata.zarr_format == cf.ZARR_V2:
        return {"attributes": {**attrs, "_ARRAY_DIMENSIONS": list(dims)}}
    return {"attributes": dict(attrs), "dimension_names": dims}


def open_arrays(store: Store, plan: Plan) -> Mapping[str, zarr.Array[Any]]:
    """The variables that regions fill, by name, open for writing.

    They are as long as the axis of the plan, whatever is stored: objects beyond the stored end are seen by nobody
    until the axis has grown (`axis.commit`).
    """
    with store.reporting("opened"):
        group = open_group(store, "r+")
        return {output.name: _as_planned(group[output.name], plan) for output in outputs(plan.config)}


def _as_planned(array: Any, plan: Plan) -> zarr.Array[Any]:
    """An array with the plan's shape in memory."""
    stored = array.async_array
    metadata = stored.metadata.update_shape(plan.shape)
    return zarr.Array(type(stored)(metadata=metadata, store_path=stored.store_path, config=stored.config))


def object_names(plan: Plan, region: Region) -> list[str]:
    """Names, under the group's URL, of the objects that hold a region's variables."""
    place = f"{region.layer}.{region.iy}.{region.ix}"
    if plan.config.zarr_format != cf.ZARR_V2:
        place = "c/" + place.replace(".", "/")
    return [f"{output.name}/{place}" for output in outputs(plan.config)]


def strays(plan: Plan, names: Iterable[str]) -> list[str]:
    """Of the names under a group's URL, those of regions that the plan does not have: an older one had them."""
    prefixes = tuple(
        name.removesuffix("0/0/0").removesuffix("0.0.0") for name in object_names(plan, Region(0, 0, 0))
    )
    ours = {name for region in plan.index for name in object_names(plan, region)}
    return [name for name in names if name.startswith(prefixes) and name[-1].isdigit() and name not in ours]


def write_region(
    arrays: Mapping[str, zarr.Array[Any]], plan: Plan, region: Region, data: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Write each variable's object of a region, whole, and return the `checksum` of its pixels by variable.

    Regions share no object, so any number of them may be written at once, and again; one that is all fill has none.
    Raises StoreError.
    """
    rows, columns = plan.lattice.window(region.iy, region.ix).slices
    layer = slice(region.layer, region.layer + 1)  # in a chunk's own dimensions, or zarr-python copies the pixels
    for name, values in data.items():
        try:
            _put(_fitting(arrays[name], values), (layer, rows, columns), values)
        except Exception as error:
            raise StoreError(f"region {tuple(region)} of {name} cannot be written: {brief(error)}") from error
    return {name: checksum(values) for name, values in data.items()}


def _put(array: zarr.Array[Any], place: tuple[slice, ...], values: NDArray[Any]) -> None:
    """Write, and again where a service was not reached: obstore itself does not ask again to delete an object."""
    for wait in (*AGAIN, None):
        try:
            array[place] = values[np.newaxis]
        except BaseError as error:
            if wait is None or "error sending request" not in str(error):
                raise
            time.sleep(wait)
        else:
            return


def _fitting(array: zarr.Array[Any], values: NDArray[Any]) -> zarr.Array[Any]:
    """The array as it is to be told to write an object: without one that is all fill, or such chunks in a shard.

    zarr-python looks for these in every pixel. Where one row tells, it need not.
    """
    fill = array.fill_value
    empty = is_fill if values.dtype.kind == "f" else partial(np.equal, 0 if fill is None else fill)
    whole = array.shards is None and any(not empty(row).all() for row in values)
    return array.with_config({"write_empty_chunks": whole})


def checksum(values: NDArray[Any]) -> str:
    """Checksum of an array's pixels as the ledger has it: kind and hex. Tells damage, not malice."""
    return f"{CHECKSUM}:{xxhash.xxh3_128_hexdigest(_stored_bytes(values))}"


def read_region(store: Store, plan: Plan, region: Region) -> dict[str, NDArray[Any]]:
    """Each variable's pixels of a region, as they are stored; fill where there is no object.

    Raises StoreError for an object that is damaged. Blosc reads beyond the end of one that was cut short, which can
    end the process, so its length is compared with what its header says before it is unpacked.
    """
    return {
        output.name: _shard(store, plan, region, output)
        if plan.shard_shape
        else _chunk(store, plan, region, name, output)
        for output, name in zip(outputs(plan.config), object_names(plan, region), strict=True)
    }


def _shard(store: Store, plan: Plan, region: Region, output: Output) -> NDArray[Any]:
    """Through zarr-python: a shard ends with an index that has a checksum."""
    rows, columns = plan.lattice.window(region.iy, region.ix).slices
    try:
        return np.asarray(_as_planned(open_group(store, "r")[output.name], plan)[region.layer, rows, columns])
    except Exception as error:
        raise StoreError(f"{output.name} of region {tuple(region)} cannot be read: {brief(error)}") from error


def _chunk(store: Store, plan: Plan, region: Region, name: str, output: Output) -> NDArray[Any]:
    from numcodecs import Blosc

    window, shape = plan.lattice.window(region.iy, region.ix), plan.chunk_shape
    data, dtype = store.get_data(name), np.dtype(output.dtype).newbyteorder("<")
    if data is None:
        return np.full((window.height, window.width), output.fill, output.dtype)
    packed, unpacked = (int.from_bytes(data[at : at + 4], "little") for at in (_PACKED_AT, _UNPACKED_AT))
    if len(data) < _HEADER or packed != len(data) or unpacked != shape[0] * shape[1] * dtype.itemsize:
        raise StoreError(
            f"{name} has {len(data)} bytes, its header tells of {packed}: it was cut short or overwritten"
        )
    try:
        pixels = np.frombuffer(Blosc().decode(data), dtype).reshape(shape)
    except Exception as error:
        raise StoreError(f"{name} cannot be unpacked: {brief(error)}") from error
    return pixels[: window.height, : window.width]


_HEADER, _UNPACKED_AT, _PACKED_AT = 16, 4, 12
"""Blosc's header: its length, and where it has the bytes unpacked and packed (c-blosc, README_CHUNK_FORMAT)."""


def is_as_written(values: NDArray[Any], expected: str) -> bool:
    """Whether pixels have a checksum of the ledger, of whatever kind. Raises StoreError for one that is unknown."""
    if expected.startswith(f"{CHECKSUM}:"):
        return checksum(values) == expected
    if ":" in expected:
        raise StoreError(
            f"checksum {expected!r} is of a kind that this version does not know: use the version that wrote it"
        )
    return hashlib.sha256(_stored_bytes(values)).hexdigest() == expected


def _stored_bytes(values: NDArray[Any]) -> memoryview:
    """Bytes of an array, C order, little endian; copies only what is otherwise."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def read_attributes(store: Store) -> dict[str, Any] | None:
    """Attributes of the group at a store, or None where there is none."""
    if store.data.existing() is None:
        return None
    with store.reporting("read"):
        try:
            return dict(open_group(store, "r").attrs)
        except FileNotFoundError:
            return None


def is_complete(store: Store, plan: Plan) -> bool:
    """Whether the group says that all is there of this plan, not of one before. Raises StoreError."""
    attributes = read_attributes(store) or {}
    return attributes.get("status") == "complete" and attributes.get(MARKER, {}).get("plan") == plan.id


def store_digest(store: Store) -> str:
    """SHA-256 (hex) over every array's decoded chunks and metadata, and the group's attributes but `VOLATILE`.

    Equal for two runs of one plan whatever the order, the workers, the kills between and the compression; and for
    two arrays that are read in the same chunks, whether those lie in shards or not.
    """
    with store.reporting("read"):
        return _digest(open_group(store, "r"))


def _digest(group: zarr.Group) -> str:
    digest = hashlib.sha256()
    digest.update(_canonical({key: value for key, value in group.attrs.items() if key not in VOLATILE}))
    for name, array in sorted(group.arrays()):
        described = [
            name,
            array.shape,
            array.chunks,
            str(array.dtype),
            str(array.fill_value),
            dict(array.attrs),
        ]
        digest.update(_canonical(described))
        for chunk in _chunks(array):
            pixels = hashlib.sha256(_stored_bytes(np.asarray(array[chunk])))
            digest.update(pixels.hexdigest().encode())
    return digest.hexdigest()


def _chunks(array: zarr.Array[Any]) -> Iterator[tuple[slice, ...]]:
    counts = [range(-(-size // side)) for size, side in zip(array.shape, array.chunks, strict=True)]
    for place in np.ndindex(*map(len, counts)):
        yield tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, array.chunks, strict=True))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def open_group(store: Store, mode: str) -> zarr.Group:
    """The group, each array by its own metadata. Raises FileNotFoundError, StoreError."""
    return zarr.open_group(store.zarr(read_only=mode == "r"), mode=mode, use_consolidated=False)  # pyright: ignore[reportArgumentType]


def consolidate(store: Any, zarr_format: int) -> None:
    """Gather the metadata of all arrays in one object of a Zarr store."""
    # One object in place of six makes opening over a network quick. For v3 zarr-python warns that other
    # readers may not know it; those that do not read the arrays' own metadata, which is there as well.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(store, zarr_format=zarr_format)  # pyright: ignore[reportArgumentType]
