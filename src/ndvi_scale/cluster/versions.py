"""Workers that have other versions than this process would give other output, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from distributed import Client

PACKAGES: Final = ("python", "dask", "distributed", "numpy", "numba", "zarr", "ndvi_scale")


def require_same(client: Client) -> None:
    """Raises ClusterError that names package, worker and both versions."""
    found: Any = client.get_versions(packages=[name for name in PACKAGES if name != "python"])
    ours = found["client"]["packages"]
    others = {"the scheduler": found["scheduler"], **found["workers"]}
    wrong = [line for place, told in others.items() if told for line in _differences(place, told, ours)]
    if wrong:
        more = f" (and {len(wrong) - 1} more differences)" if len(wrong) > 1 else ""
        raise ClusterError(
            f"{wrong[0]}{more}: the same versions are needed on all of them; install ndvi-scale there as it is here"
        )


def _differences(place: str, told: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for name in PACKAGES:
        there, here = (_version(name, packages.get(name)) for packages in (told["packages"], ours))
        if there != here:
            yield f"{place} has {name} {there or 'not at all'}, this process has {here}"


def _version(name: str, full: str | None) -> str | None:
    """Of Python the first two numbers: what is pickled is the same."""
    return ".".join(full.split(".")[:2]) if full and name == "python" else full
