"""What lies in deploy/, read for tests; and as it is sent to the Kubernetes of tests/kube.py.

There pods are processes of this machine: their image, volumes and secrets' variables count for nothing. So what is
mounted is laid into folders here, and the paths to it are replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
MANIFESTS: Final = DEPLOY / "kubernetes"
NAMESPACE: Final = "ndvi-scale"
DASK: Final = "kubernetes.dask.org/v1"


def documents(name: str) -> list[dict[str, Any]]:
    """The objects of a file."""
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


def all_documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object, and the name of the file that it is in."""
    for file in sorted(MANIFESTS.glob("*.yaml")):
        for document in documents(file.name):
            yield file.name, document


def pods(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The pods' specs of an object, by what they are: driver, worker, scheduler."""
    spec = document.get("spec", {})
    cluster = spec.get("cluster", {}).get("spec", {}) if document["kind"] == "DaskJob" else spec
    found = {"worker": cluster.get("worker"), "scheduler": cluster.get("scheduler")}
    found["driver"] = spec.get("job") if document["kind"] == "DaskJob" else spec.get("template")
    return {role: holder["spec"] for role, holder in found.items() if holder}


def all_pods() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """File, role, object and spec of every pod."""
    for file, document in all_documents():
        for role, pod in pods(document).items():
            yield file, role, document, pod


def container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The one that a pod has."""
    (only,) = pod["containers"]
    return only


def variables(pod: Mapping[str, Any]) -> dict[str, str]:
    """What a pod's environment says outright."""
    return {one["name"]: one["value"] for one in container(pod)["env"]}


def replaced(value: Any, texts: Mapping[str, str]) -> Any:
    """A copy in which texts are replaced wherever they occur."""
    if isinstance(value, dict):
        return {key: replaced(one, texts) for key, one in value.items()}
    if isinstance(value, list):
        return [replaced(one, texts) for one in value]
    if isinstance(value, str):
        for old, new in texts.items():
            value = value.replace(old, new)
    return value


def as_yaml(given: list[dict[str, Any]]) -> str:
    """Objects as kubectl reads them."""
    return yaml.safe_dump_all(given)
