"""What deploy/daskhub holds: fields that the charts know, no secret, and options that a real gateway takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import gateway as gateway_service

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = yaml.safe_load((Path(__file__).parents[1] / "deploy/daskhub/values.yaml").read_text())

ANY = None
"""Fields below are a person's own."""

KNOWN: dict[str, Any] = {
    "jupyterhub": {
        "hub": {"config": ANY, "loadRoles": ANY, "services": ANY},
        "scheduling": {
            "podPriority": {"enabled": ANY},
            "userPlaceholder": {"enabled": ANY, "replicas": ANY},
            "userScheduler": {"enabled": ANY, "replicas": ANY},
        },
        "singleuser": {
            "image": {"name": ANY, "tag": ANY, "pullPolicy": ANY, "pullSecrets": ANY},
            "memory": {"limit": ANY, "guarantee": ANY},
            "cpu": {"limit": ANY, "guarantee": ANY},
            "defaultUrl": ANY,
            "extraEnv": ANY,
        },
    },
    "dask-gateway": {
        "gateway": {
            "prefix": ANY,
            "auth": {
                "type": ANY,
                "jupyterhub": {
                    "apiToken": ANY,
                    "apiTokenFromSecretName": ANY,
                    "apiTokenFromSecretKey": ANY,
                    "apiUrl": ANY,
                    "jupyterhubServiceName": ANY,
                },
            },
            "extraConfig": ANY,
            "backend": {
                "image": {"name": ANY, "tag": ANY, "pullPolicy": ANY},
                "imagePullSecrets": ANY,
                "namespace": ANY,
                "environment": ANY,
                "scheduler": ANY,
                "worker": ANY,
            },
        },
    },
    "dask-kubernetes": {"enabled": ANY},
}
"""Fields of the charts daskhub 2026-06, jupyterhub 4.4.0 and dask-gateway 2026.3.0, as their values.yaml name them:
Helm drops those that it does not know without a word."""


def unknown(values: Any, known: dict[str, Any] | None, path: str = "") -> Iterator[str]:
    for key, value in values.items() if known is not None else ():
        if key not in known:
            yield f"{path}{key}"
        elif isinstance(value, dict):
            yield from unknown(value, known[key], f"{path}{key}.")


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from leaves(value, (*path, str(key)))
    else:
        yield path, values


def test_the_charts_know_every_field() -> None:
    assert list(unknown(VALUES, KNOWN)) == []
    misspelt = {"dask-gateway": {"gateway": {"backend": {"enviroment": {}}}}}
    assert list(unknown(misspelt, KNOWN)) == ["dask-gateway.gateway.backend.enviroment"]


def test_nothing_in_it_is_secret() -> None:
    names = [path for path, _ in leaves(VALUES)]
    assert [
        path for path in names if any(word in path[-1].lower() for word in ("token", "password", "secret"))
    ] == []


def test_workers_and_notebooks_ask_for_the_same_image() -> None:
    backend = VALUES["dask-gateway"]["gateway"]["backend"]["image"]
    image = f"{backend['name']}:{backend['tag']}"
    assert VALUES["jupyterhub"]["singleuser"]["extraEnv"]["DASK_GATEWAY__CLUSTER__OPTIONS__IMAGE"] == image
    assert f'default="{image}"' in VALUES["dask-gateway"]["gateway"]["extraConfig"]["optionHandler"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gateway_service.RunningGateway]:
    """Provide a real gateway with the configuration of the values, but for clusters that are processes here."""
    extra = VALUES["dask-gateway"]["gateway"]["extraConfig"]
    config = gateway_service._SIMPLE + "".join(extra.values())
    with gateway_service.gateway(tmp_path_factory.mktemp("daskhub"), config) as running:
        yield running


def render(hub: gateway_service.RunningGateway, folder: Path, options: str) -> subprocess.CompletedProcess[str]:
    profiles = folder / "clusters.toml"
    profiles.write_text(
        f'[hub]\nkind = "gateway"\naddress = "{hub.address}"\nproxy_address = "{hub.proxy_address}"\n'
        f'auth = "basic"\noptions = {options}\n'
    )
    command = [sys.executable, "-m", "ndvi_scale", "cluster", "render", "hub", "--cluster-file", str(profiles)]
    environment = {"NDVI_SCALE_GATEWAY_PASSWORD": hub.password, "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.slow
def test_a_real_gateway_offers_its_options(hub: gateway_service.RunningGateway, tmp_path: Path) -> None:
    told = render(hub, tmp_path, "{ worker_cores = 2 }")
    assert told.returncode == 0, told.stderr
    image = VALUES["jupyterhub"]["singleuser"]["extraEnv"]["DASK_GATEWAY__CLUSTER__OPTIONS__IMAGE"]
    assert json.loads(told.stdout)["options"] == {"worker_cores": 2, "worker_memory": 4, "image": image}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [("{ worker_cores = 9 }", "worker_cores"), ("{ worker_core = 2 }", "did you mean 'worker_cores'")],
)
def test_what_it_does_not_offer_is_refused(
    hub: gateway_service.RunningGateway, tmp_path: Path, options: str, words: str
) -> None:
    told = render(hub, tmp_path, options)
    assert told.returncode == 2
    assert words in told.stderr
    assert "Traceback" not in told.stderr
