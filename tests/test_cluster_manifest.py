"""DaskClusters as they are asked for, without a Kubernetes: against a file that a person has read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml

from ndvi_scale.cluster.making import make_spec
from ndvi_scale.cluster.manifest import autoscaler, manifest, merged, quantity, render
from ndvi_scale.cluster.spec import KubernetesSpec
from ndvi_scale.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"

ALL: dict[str, Any] = {
    "image": "registry.example.org/ndvi-scale:0.1.0",
    "namespace": "eo",
    "workers": 8,
    "threads": 2,
    "memory": "8GiB",
    "cpus": 1.5,
    "scheduler_memory": "3GB",
    "environment": {"AWS_REGION": "eu-central-1", "GDAL_CACHEMAX": "128"},
    "secrets": ["bucket-keys"],
    "secret_environment": {"CDSE_PASSWORD": "cdse/password"},
    "secret_files": {"/var/run/gcs": "gcs-account"},
    "service_account": "ndvi-scale-worker",
    "node_selector": {"pool": "spot"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    "labels": {"team": "eo"},
    "pod": {"imagePullSecrets": [{"name": "registry"}], "securityContext": {"runAsNonRoot": True}},
    "worker_pod": {"priorityClassName": "batch", "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    "idle_timeout": 600,
}


def spec_of(**settings: Any) -> KubernetesSpec:
    spec = make_spec({"kind": "kubernetes", "image": "ndvi-scale:1", "memory": "4GiB", **settings})
    assert isinstance(spec, KubernetesSpec)
    return spec


def containers(spec: KubernetesSpec) -> list[dict[str, Any]]:
    parts = manifest(spec, "one")["spec"]
    return [parts[part]["spec"]["containers"][0] for part in ("scheduler", "worker")]


def test_the_manifest_is_what_was_read_once() -> None:
    assert render(spec_of(**ALL)) == (GOLDEN / "kubernetes.yaml").read_text()


def test_what_is_not_given_comes_from_nowhere_else() -> None:
    before = render(spec_of())
    site = {"image": "other", "env": {"SITE": "1"}, "worker-command": "site", "resources": {"limits": {}}}
    with dask.config.set({"kubernetes": {**dask.config.get("kubernetes"), **site}}):
        assert render(spec_of()) == before


def test_secrets_of_the_surroundings_are_in_no_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    text = render(spec_of(secrets=["bucket-keys"], secret_environment={"AWS_SECRET_ACCESS_KEY": "keys/secret"}))
    assert "hush-hush" not in text
    for container in containers(spec_of(secrets=["bucket-keys"])):
        assert container["envFrom"] == [{"secretRef": {"name": "bucket-keys"}}]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": ""}, ["image ''", "image ="]),
        ({"image": "two words"}, ["'two words'"]),
        ({"memory": None}, ["memory of a worker"]),
        ({"scheduler_memory": "some"}, ["scheduler_memory 'some'", "2GiB"]),
        ({"cpus": 0.0}, ["cpus 0", "above 0"]),
        ({"idle_timeout": -1}, ["idle_timeout -1", "never"]),
        (
            {"environment": {"AWS_SECRET_ACCESS_KEY": "hush-hush"}},
            ["AWS_SECRET_ACCESS_KEY", "secret_environment ="],
        ),
        ({"secret_environment": {"KEY": "hush-hush"}}, ["secret_environment KEY", "SECRET/KEY"]),
        (
            {"pod": {"containers": [{"name": "proxy", "env": [{"name": "API_TOKEN", "value": "hush-hush"}]}]}},
            ["API_TOKEN", "secret"],
        ),
        ({"pod": ["hush-hush"]}, ["pod has the wrong type", "a table"]),
        ({"tolerations": ["hush-hush"]}, ["tolerations has the wrong type", "list of tables"]),
        ({"namespaces": "eo"}, ["'namespaces'", "did you mean 'namespace'"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: list[str]) -> None:
    given = {"kind": "kubernetes", "image": "ndvi-scale:1", "memory": "4GiB", **settings}
    with pytest.raises(ConfigError) as refused:
        make_spec({name: value for name, value in given.items() if value is not None})
    for word in words:
        assert word in str(refused.value)
    assert "hush-hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("size", "written"),
    [("4GiB", "4Gi"), ("512 MiB", "512Mi"), ("1.5GB", "1.5G"), ("64kB", "64k"), ("64KiB", "64Ki"), ("5b", "5")],
)
def test_sizes_as_kubernetes_writes_them(size: str, written: str) -> None:
    assert quantity(size) == written


def test_merging_joins_lists_and_lets_the_second_win() -> None:
    assert merged({"a": [1], "b": {"c": 1, "d": 2}}, {"a": [2], "b": {"c": 3}, "e": 4}) == {
        "a": [1, 2],
        "b": {"c": 3, "d": 2},
        "e": 4,
    }


def test_only_adaptive_clusters_have_an_autoscaler_and_it_goes_with_them() -> None:
    cluster = {**manifest(spec_of(adapt="1:4"), "one")}
    cluster["metadata"] = {**cluster["metadata"], "uid": "u-1"}
    made = autoscaler(spec_of(adapt="1:4"), cluster)
    assert made is not None
    assert made["spec"] == {"cluster": "one", "minimum": 1, "maximum": 4}
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert cluster["spec"]["worker"]["replicas"] == 1
    assert autoscaler(spec_of(workers=4), cluster) is None
    assert autoscaler(spec_of(adapt="4:4"), cluster) is None


def test_without_dask_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    with pytest.raises(ConfigError, match=r"pip install 'ndvi-scale\[kubernetes\]'"):
        render(spec_of())


def test_what_is_rendered_fits_the_operators_own_schema() -> None:
    """The real API is asked in test_cluster_kubernetes; here, no field is unknown to the schema."""
    import dask_kubernetes.operator

    folder = Path(dask_kubernetes.operator.__file__).parent / "deployment/helm/dask-kubernetes-operator/crds"
    crd = yaml.safe_load((folder / "daskcluster.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert list(unknown(yaml.safe_load(render(spec_of(**ALL)))["spec"], schema["properties"]["spec"])) == []
    wrong = yaml.safe_load(render(spec_of(pod={"tolerationz": []})))["spec"]
    assert list(unknown(wrong, schema["properties"]["spec"])) == [
        "worker.spec.tolerationz",
        "scheduler.spec.tolerationz",
    ]


def unknown(value: Any, schema: dict[str, Any], path: str = "") -> Any:
    """Paths of fields that a schema does not have: the API drops them without a word."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, dict) and "properties" in schema:
        for key, one in value.items():
            if key not in schema["properties"]:
                yield f"{path}{key}"
            else:
                yield from unknown(one, schema["properties"][key], f"{path}{key}.")
    if isinstance(value, list) and "items" in schema:
        for one in value:
            yield from unknown(one, schema["items"], path)
