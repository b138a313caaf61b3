"""A cube that exists is brought to what its plan says, in steps that a reader need not know of.

Objects of new layers lie beyond the stored end of the arrays, where nobody looks. When all of them are there the
axis grows: first the chunks of its coordinates, which hold what they held before and more, then the metadata of
each array, the main variable's last, and at the end that of the group, which has all of it once more in one object.
Who reads that one object, as xarray does, sees the cube of before or the cube of now. Cutting off goes the other
way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from obstore.store import MemoryStore
from zarr.storage import ObjectStore

from ndvi_scale import cf, write
from ndvi_scale.composite import outputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan
    from ndvi_scale.store import Store

TIMES: Final = ("time", "time_bnds")
"""Coordinates along the axis."""
_GROUP: Final = {cf.ZARR_V2: (".zgroup", ".zattrs", ".zmetadata"), 3: ("zarr.json",)}
_ARRAY: Final = {cf.ZARR_V2: (".zarray", ".zattrs"), 3: ("zarr.json",)}
"""Format → names of what says what a group or an array is; what has it all comes last."""


def settle(store: Store, plan: Plan, pending: Iterable[Region]) -> None:
    """Make the cube of an older plan one that regions of this one can be written into.

    Layers that come elsewhere now are cut off, regions that no granule touches any more are deleted, and where
    pixels that can be seen are to change, `status` says ``incomplete`` first. Raises StoreError.
    """
    if not plan.ancestors:
        return
    seen, even = _seen(store, plan)
    kept = _common(seen, cf.coordinates(plan)["time"].values)
    strays = write.strays(plan, store.data_names())
    attributes = write.read_attributes(store) or {}
    changing = bool(strays) or kept < len(seen) or any(region.layer < kept for region in pending)
    if not even or kept < len(seen) or (changing and attributes.get("status") == "complete"):
        status = {"status": "incomplete"} if changing else {}
        _put(store, plan, _described(store, plan, kept, {**attributes, **status}), shorter=True)
    store.delete_data(strays)


def commit(store: Store, plan: Plan, summary: Mapping[str, Any]) -> None:
    """Show all layers of a plan, and say ``status: complete`` and what the run counted. Raises StoreError."""
    before = write.read_attributes(store) or {}
    marker = {**before.get(write.MARKER, {}), **write.marker(plan), **summary}
    attributes = {**before, **cf.cube_attributes(plan), "status": "complete", write.MARKER: marker}
    _put(store, plan, _described(store, plan, len(plan.layers), attributes, with_times=True))


def grows_unseen(store: Store) -> bool:
    """Whether the axis of the cube at a store, if there is one, can grow while it is read.

    The first ones that were made keep their times in a chunk as long as the axis was.
    """
    if write.read_attributes(store) is None:
        return True
    with store.reporting("read"):
        group = write.open_group(store, "r")
        times: Any = group.get("time")
        return times is None or times.chunks[0] == write.TIMES_IN_CHUNK


def _seen(store: Store, plan: Plan) -> tuple[NDArray[Any], bool]:
    """Times of the layers that the main variable shows, and whether all arrays are as long as it.

    They are not where a driver died while the axis grew or was cut.
    """
    with store.reporting("read"):
        group: Any = write.open_group(store, "r")
        along = [output.name for output in outputs(plan.config)] + list(TIMES)
        lengths = [group[name].shape[0] for name in along]
        return group["time"][: lengths[0]], len(set(lengths)) == 1


def _common(seen: NDArray[Any], planned: NDArray[Any]) -> int:
    """Layers at the beginning that are the same."""
    size = min(len(seen), len(planned))
    other = np.flatnonzero(seen[:size] != planned[:size])
    return int(other[0]) if len(other) else size


def _described(
    store: Store, plan: Plan, layers: int, attributes: Mapping[str, Any], *, with_times: bool = False
) -> dict[str, bytes]:
    """Name → bytes of all that says what the cube is, for a number of layers; `with_times` the times as well.

    Made in memory, of what is stored, by zarr-python: what it does in several steps there is one object here.
    """
    zarr_format = plan.config.zarr_format
    coordinates = cf.coordinates(plan)
    scratch = MemoryStore()
    for name in _names(plan):
        data = store.get_data(name)
        if data is not None and name != ".zmetadata":
            scratch.put(name, data)
    root = ObjectStore(scratch)
    group: Any = zarr.open_group(root, mode="r+", zarr_format=zarr_format, use_consolidated=False)
    for name in (*TIMES, *(output.name for output in outputs(plan.config))):
        if name in TIMES and with_times and group[name].shape[0] != layers:
            write.refit_times(group, name, coordinates[name])
        group[name].resize((layers, *group[name].shape[1:]))
        if name in TIMES and with_times:
            group[name][...] = coordinates[name].values
    group.attrs.put(dict(attributes))
    write.consolidate(root, zarr_format)
    return {
        str(entry["path"]): bytes(scratch.get(str(entry["path"])).bytes())
        for batch in scratch.list()
        for entry in batch
    }


def _put(store: Store, plan: Plan, files: Mapping[str, bytes], *, shorter: bool = False) -> None:
    """Write what differs from what is stored, in the order in which a cube grows, or the other way."""
    order = {name: place for place, name in enumerate(_names(plan))}
    for name in sorted(files, key=lambda name: order.get(name, -1), reverse=shorter):
        if store.get_data(name) != files[name]:
            store.put_data(name, files[name])


def _names(plan: Plan) -> list[str]:
    """Names of all that says what the cube is, in the order in which it is written where it grows."""
    arrays = [*cf.coordinates(plan), *(output.name for output in reversed(outputs(plan.config)))]
    zarr_format = plan.config.zarr_format
    return [f"{array}/{name}" for array in arrays for name in _ARRAY[zarr_format]] + list(_GROUP[zarr_format])
