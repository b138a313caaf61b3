"""deploy/ on a real Kubernetes API with the real operator: runs go through, are killed, and go on."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest

from deployment import MANIFESTS, NAMESPACE, as_yaml, documents, replaced
from ndvi_scale import build_plan, open_cluster, open_store, search_items, store_digest
from ndvi_scale.batch import read_report
from ndvi_scale.cluster.spec import AddressSpec
from ndvi_scale.config import make_config
from ndvi_scale.ledger import FOLDER as LEDGER
from ndvi_scale.ledger import load_plan
from runs import run
from services import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kube import Kube
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATHS: Final = {"tls": "/etc/ndvi-scale/tls", "run": "/etc/ndvi-scale/run"}
CERTIFICATE: Final = (
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=ndvi-scale "
    "-keyout tls.key -out tls.crt"
)


@dataclass(frozen=True)
class Place:
    """A namespace in which what stays is there."""

    kube: Kube
    tls: Path

    def call(self, *arguments: str, account: str | None = None, given: str | None = None) -> str:
        """What kubectl prints, as the administrator or an account of the namespace."""
        shown = [] if account is None else [f"--token={self.token(account)}"]
        return self.kube.call(*shown, f"--namespace={NAMESPACE}", *arguments, given=given)

    def token(self, account: str) -> str:
        """For an hour."""
        return self.kube.call("create", "token", account, f"--namespace={NAMESPACE}").strip()

    def items(self, what: str, selector: str = "") -> list[dict[str, Any]]:
        """Objects of a kind."""
        return self.kube.items(what, selector, NAMESPACE)


@pytest.fixture(scope="module")
def place(kube_service_running: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    kube, tls = kube_service_running, tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", *CERTIFICATE.split()], cwd=tls, check=True, capture_output=True, timeout=50)
    kube.call("apply", f"--kustomize={MANIFESTS}")
    there = Place(kube, tls)
    try:
        files = [f"--cert={tls / 'tls.crt'}", f"--key={tls / 'tls.key'}"]
        there.call("create", "secret", "tls", "ndvi-scale-tls", *files)
        yield there
    finally:
        kube.call("delete", "namespace", NAMESPACE, "--timeout=50s", check=False)


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:g} s")


@dataclass(frozen=True)
class Sent:
    """A run of ours, as it is sent: what is computed, where to, and what the same on this machine has given."""

    objects: list[dict[str, Any]]
    out: Store
    digest: str
    settings: Path

    def process(self) -> psutil.Process:
        """The driver's, which lives."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.settings) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        (only,) = found
        return only

    def noted(self) -> bool:
        """Whether a part of the ledger is written."""
        return bool(self.out.state_names(LEDGER))

    def done(self) -> int:
        """Regions that the ledger has; 0 where there is no run."""
        plan = load_plan(self.out)
        return 0 if plan is None else read_report(plan, self.out).done


@pytest.fixture
def sent(request: pytest.FixtureRequest, place: Place, sandbox: Sandbox, tmp_path: Path) -> Sent:
    """One of the files of deploy/kubernetes with a run on the sandbox, which has been computed here, too."""
    given = {"crs": "EPSG:32631", "chunk": 16}
    plan = build_plan(search_items(sandbox.items), make_config({"catalog": str(sandbox.items), **given}))
    assert len(plan.index) > 1000
    here = open_store(str(tmp_path / "here"))
    assert not run(plan, here).failed
    settings, out = tmp_path / "run.toml", tmp_path / "there"
    lines = {"items": str(sandbox.items), "out": str(out), **given}
    settings.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
    paths = {PATHS["tls"]: str(place.tls), PATHS["run"]: str(tmp_path)}
    objects = replaced(documents(request.param), paths)
    if request.param == "job.yaml":
        objects[-1]["spec"]["cluster"]["spec"]["worker"]["replicas"] = 2
    return Sent(objects, open_store(str(out)), store_digest(here), settings)


@pytest.mark.parametrize(
    "file", ["namespace.yaml", "rbac.yaml", "network-policy.yaml", "job.yaml", "run.yaml", "cluster.yaml"]
)
def test_the_api_takes_every_object_and_knows_every_field(place: Place, file: str) -> None:
    dry = ["apply", "--dry-run=server", "--validate=strict", "--filename=-"]
    for document in documents(file):
        assert "server dry run" in place.call(*dry, given=as_yaml([document]))
        misspelt = {**document, "spce": {}}
        with pytest.raises(ServiceError, match="spce"):
            place.call(*dry, given=as_yaml([misspelt]))


ALLOWED: Final = {
    "ndvi-scale-pods": (),
    "ndvi-scale-jobs": (
        "create daskjobs", "delete daskjobs", "create jobs", "create daskclusters", "delete daskclusters",
        "patch configmaps", "get pods/log", "list events",
    ),
    "ndvi-scale-driver": (
        "create daskclusters", "delete daskclusters", "create daskautoscalers", "get pods/log",
        "create pods/portforward",
    ),
}  # fmt: skip
FORBIDDEN: Final = (
    "get secrets", "list secrets", "create pods", "create pods/exec", "get pods/exec", "create pods/attach",
    "create serviceaccounts/token", "create rolebindings", "patch roles", "delete namespaces", "create deployments",
    "delete pods", "impersonate serviceaccounts", "delete networkpolicies", "get nodes",
)  # fmt: skip


@pytest.mark.parametrize("account", ALLOWED)
def test_accounts_may_do_what_they_need_and_no_more(place: Place, account: str) -> None:
    whole = f"system:serviceaccount:{NAMESPACE}:{account}"

    def may(what: str, namespace: str = NAMESPACE) -> bool:
        verb, resource = what.split()
        asked = ["auth", "can-i", verb, *resource.split("/")[:1], f"--as={whole}", f"--namespace={namespace}"]
        if "/" in resource:
            asked.append(f"--subresource={resource.split('/')[1]}")
        return place.kube.call(*asked, check=False).strip() == "yes"

    assert not [what for what in ALLOWED[account] if not may(what)]
    assert not [what for what in FORBIDDEN if may(what)]
    assert not [what for what in ALLOWED[account] if may(what, "default")]


def now(told: str) -> tuple[int, int]:
    """How many regions there are, and how many of them that driver computed, as it says at its end."""
    found = re.search(r"regions +(\d+) of (\d+) done, (\d+) now", told)
    assert found is not None, told
    assert found[1] == found[2]
    return int(found[1]), int(found[3])


@pytest.mark.parametrize("sent", ["job.yaml"], indirect=True)
def test_a_dask_job_that_is_killed_and_sent_again_goes_on_to_the_same_output(place: Place, sent: Sent) -> None:
    as_jobs: dict[str, Any] = {"account": "ndvi-scale-jobs"}
    gone = ["delete", "daskjob", "ndvi-scale", "--cascade=foreground", "--timeout=50s"]

    def ended() -> str:
        status = place.items("daskjobs")[0].get("status", {}).get("jobStatus")
        return status if status in {"Successful", "Failed"} else ""

    place.call("apply", "--filename=-", given=as_yaml(sent.objects), **as_jobs)
    until(sent.noted, 100, "a first part of the run")
    sent.process().kill()
    assert until(ended, 40, "the end of the job") == "Failed"
    before = sent.done()
    place.call(*gone, **as_jobs)
    place.call("apply", "--filename=-", given=as_yaml(sent.objects), **as_jobs)
    assert until(ended, 100, "the end of the job that was sent again") == "Successful"
    assert store_digest(sent.out) == sent.digest
    regions, computed = now(place.call("logs", "ndvi-scale-runner", **as_jobs))
    assert 0 < computed == regions - before < regions
    until(lambda: not place.items("daskclusters"), 40, "the end of the cluster")
    place.call(*gone, **as_jobs)


@pytest.fixture
def shared(place: Place) -> Iterator[str]:
    """The cluster of cluster.yaml, of one to three workers; its name."""
    made = replaced(documents("cluster.yaml"), {PATHS["tls"]: str(place.tls)})
    made[1]["spec"]["maximum"] = 3
    name = made[0]["metadata"]["name"]
    place.call("apply", "--filename=-", given=as_yaml(made[:1]), account="ndvi-scale-jobs")
    chosen = f"dask.org/cluster-name={name},dask.org/component=scheduler"
    until(lambda: place.items("pods", chosen), 40, "a scheduler")
    place.call("wait", "--for=condition=ready", "pod", f"--selector={chosen}", "--timeout=50s")
    # Later than one need: the operator asks again a minute after it has found a scheduler that does not answer yet.
    place.call("apply", "--filename=-", given=as_yaml(made[1:]), account="ndvi-scale-jobs")
    yield name
    place.call("delete", "daskcluster", name, "--timeout=50s", account="ndvi-scale-jobs")
    # Its pods follow later, and the next cluster has the same name.
    until(lambda: not place.items("pods", f"dask.org/cluster-name={name}"), 60, "the end of its pods")


@pytest.mark.parametrize("sent", ["run.yaml"], indirect=True)
def test_a_job_whose_pod_is_evicted_comes_back_and_goes_on_to_the_same_output(
    place: Place, sent: Sent, shared: str
) -> None:
    place.call("apply", "--filename=-", given=as_yaml(sent.objects), account="ndvi-scale-jobs")
    until(sent.noted, 100, "a first part of the run")
    (first,) = [one["metadata"]["name"] for one in place.items("pods", "job-name=ndvi-scale-run")]
    place.call("delete", "pod", first, "--wait=false")

    def complete() -> bool:
        status = place.items("jobs")[0].get("status", {})
        assert not status.get("failed"), place.call("logs", "job/ndvi-scale-run")
        return status.get("succeeded", 0) == 1

    until(complete, 100, "the end of the job")
    assert store_digest(sent.out) == sent.digest
    (second,) = place.items("pods", "job-name=ndvi-scale-run")
    assert second["metadata"]["name"] != first
    regions, computed = now(place.call("logs", second["metadata"]["name"]))
    assert 0 < computed < regions
    place.call("delete", "job", "ndvi-scale-run", account="ndvi-scale-jobs")


def test_workers_come_as_there_is_work_and_nobody_without_the_secret_gets_in(
    place: Place, shared: str, tmp_path: Path
) -> None:
    from distributed import Client, Security

    keys = tmp_path / "keys"
    keys.mkdir()
    for name, file in (("ca.pem", "tls.crt"), ("client.pem", "tls.crt"), ("client-key.pem", "tls.key")):
        (keys / name).touch(0o600)
        (keys / name).write_bytes((place.tls / file).read_bytes())
    chosen = f"dask.org/cluster-name={shared},dask.org/component=scheduler"
    (scheduler,) = (pod for pod in place.items("pods", chosen) if "deletionTimestamp" not in pod["metadata"])
    address = f"{scheduler['status']['podIP']}:8786"
    spec = AddressSpec(scheduler=f"tls://{address}", certificate=str(keys), adapt="1:3", wait=60)
    with open_cluster(spec) as submit:
        assert submit.capacity() == 6
        waiting = [submit(time.sleep, 2) for _ in range(30)]
        until(lambda: place.items("daskworkergroups")[0]["spec"]["worker"]["replicas"] == 3, 40, "three workers")
        for stranger, scheme in ((Security.temporary(), "tls"), (Security(), "tcp")):
            with pytest.raises((OSError, TimeoutError)):
                Client(f"{scheme}://{address}", security=stranger, timeout=3)
        assert all(future.result(60) is None for future in waiting)
