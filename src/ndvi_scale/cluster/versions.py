"""Workers that have other versions than this process would give other output, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distributed import Client

PACKAGES: Final = ("python", "dask", "distributed", "numpy", "numba", "zarr", "ndvi_scale")
HERE: Final = "this process"
SCHEDULER: Final = "the scheduler"


def versions_of(client: Client, packages: Iterable[str] = PACKAGES) -> dict[str, dict[str, str]]:
    """Place (`HERE`, `SCHEDULER`, a worker's address) → package → version. Of Python the first two numbers.

    They are what pickles depend on. A place that cannot be asked is left out.
    """
    names = list(packages)
    said: Any = client.get_versions(packages=[name for name in names if name != "python"])
    places = {HERE: said["client"], SCHEDULER: said["scheduler"], **said["workers"]}
    return {
        place: {name: _version(name, told["packages"].get(name)) for name in names}
        for place, told in places.items()
        if told
    }


def require_same(client: Client) -> None:
    """Raises ClusterError that names package, worker and both versions."""
    found = versions_of(client)
    here = found.pop(HERE)
    wrong = [
        f"{place} has {name} {there}, {HERE} has {here[name]}"
        for place, told in found.items()
        for name, there in told.items()
        if there != here[name]
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more differences)" if len(wrong) > 1 else ""
        raise ClusterError(
            f"{wrong[0]}{more}: the same versions are needed on all of them; install ndvi-scale there as it is here"
        )


def _version(name: str, full: str | None) -> str:
    if not full:
        return "not at all"
    return ".".join(full.split(".")[:2]) if name == "python" else full
