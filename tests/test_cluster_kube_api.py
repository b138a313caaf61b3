"""Who may ask the API for what: each refusal is one error that names the remedy. The API is a real one."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ndvi_scale import open_cluster
from ndvi_scale.cluster import kubernetes
from ndvi_scale.cluster.kube_api import Kind
from ndvi_scale.cluster.making import make_spec
from ndvi_scale.errors import ClusterError, ConfigError
from services import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from kube import Kube

WITH_A_SERVICE = [pytest.mark.slow, pytest.mark.timeout(300)]
"""The first one starts Kubernetes, or waits for its turn."""


def refused(error: type[Exception], **settings: Any) -> str:
    spec = make_spec({"kind": "kubernetes", "image": "ndvi-scale", "memory": "1GiB", "wait": 20, **settings})
    with pytest.raises(error) as caught, open_cluster(spec):
        pass
    return str(caught.value)


def changed(source: Path, folder: Path, **user: Any) -> str:
    """A kubeconfig like another, but of somebody else."""
    config = yaml.safe_load(source.read_text())
    config["users"][0]["user"] = user
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def test_nowhere_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    told = refused(ConfigError)
    assert "leads to no Kubernetes API" in told
    assert "kubeconfig = FILE" in told


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    assert f"there is no kubeconfig {tmp_path / 'none'}" in refused(ConfigError, kubeconfig=str(tmp_path / "none"))


def config_of(server: str, folder: Path) -> str:
    context = {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "default"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [context],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "none"}}],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def test_a_context_that_the_kubeconfig_does_not_have(tmp_path: Path) -> None:
    file = config_of("https://127.0.0.1:1", tmp_path)
    told = refused(ConfigError, kubeconfig=file, context="there")
    assert "there" in told
    assert "context = NAME" in told


def test_nobody_answers(tmp_path: Path) -> None:
    file = config_of(f"https://127.0.0.1:{free_ports(1)[0]}", tmp_path)
    assert refused(ClusterError, kubeconfig=file).startswith(f"no Kubernetes API answers at {file}")


class TestOfARealOne:
    """The user has rights in the namespace ``default`` alone."""

    pytestmark = WITH_A_SERVICE

    # kr8s leaves the connection of a login that failed to the garbage collector, which is asked here for it.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_nobody_knows_the_token(self, kube: Kube, tmp_path: Path) -> None:
        told = refused(ClusterError, kubeconfig=changed(kube.user, tmp_path, token="wrong"))  # noqa: S106
        assert "Unauthorized" in told
        assert "log in again" in told
        gc.collect()

    def test_a_namespace_without_rights(self, kube: Kube) -> None:
        told = refused(ClusterError, kubeconfig=str(kube.user), namespace="kube-system")
        assert told.startswith("you lack a right in namespace kube-system: ")
        assert "daskclusters" in told
        assert "ask for a role with it" in told

    def test_a_namespace_that_is_not_there(self, kube: Kube) -> None:
        told = refused(ClusterError, kubeconfig=str(kube.admin), namespace="nowhere")
        assert told.startswith("there is no namespace nowhere")

    def test_an_api_that_knows_no_dask_cluster(self, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
        # A group that it does not know stands for the operator's, which others here use.
        monkeypatch.setattr(kubernetes, "CLUSTERS", Kind("kubernetes.example.org/v1", "daskclusters"))
        told = refused(ClusterError, kubeconfig=str(kube.admin))
        assert "knows no DaskCluster: the operator of dask-kubernetes is not installed there" in told
