"""A real Kubernetes API with the real operator: workers come, are lost and come back, say why they do not come, and
nothing is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import ndvi_scale
from ndvi_scale import open_cluster, open_store, run_batch, store_digest
from ndvi_scale.cluster import arrival, kubernetes, pod_watch
from ndvi_scale.cluster.making import make_spec
from ndvi_scale.cluster.manifest import render
from ndvi_scale.cluster.spec import KubernetesSpec
from ndvi_scale.errors import ClusterError
from runs import plan_of, run
from test_cli import call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube import Kube
    from ndvi_scale.sandbox import Sandbox

# Each starts workers, whose imports take ten seconds where a machine has other things to do; the first one starts
# Kubernetes, or waits for its turn.
pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

OURS = "app.kubernetes.io/managed-by=ndvi-scale"


def spec_of(kube: Kube, **settings: Any) -> KubernetesSpec:
    given = {"image": kube.image, "memory": "1GiB", "wait": 60, "labels": {"test": _mark()}, **settings}
    spec = make_spec({"kind": "kubernetes", **given})
    assert isinstance(spec, KubernetesSpec)
    return spec


def _mark() -> str:
    """A label of this test alone: others may use the same Kubernetes at the same time."""
    name = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].partition(" ")[0]
    return "".join(letter if letter.isalnum() else "-" for letter in name)[:60].strip("-")


def left(kube: Kube, namespace: str = "default") -> list[str]:
    """What is there of this test."""
    kinds = "daskclusters,daskworkergroups,daskautoscalers,deployments,services,pods"
    return [f"{one['kind']} {one['metadata']['name']}" for one in kube.items(kinds, f"test={_mark()}", namespace)]


def until_empty(kube: Kube, namespace: str = "default", seconds: float = 100) -> list[str]:
    deadline = time.monotonic() + seconds
    while (found := left(kube, namespace)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def pods(kube: Kube, component: str) -> list[dict[str, Any]]:
    return kube.items("pods", f"test={_mark()},dask.org/component={component}")


@pytest.fixture
def python_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that pods look for modules in first, as another image would have other ones."""
    folder = tmp_path / "modules"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A program that does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_run_on_pods_with_one_killed_in_the_middle(kube: Kube, sandbox: Sandbox, tmp_path: Path) -> None:
    plan, here, there = plan_of(sandbox, chunk=32), open_store(str(tmp_path / "a")), open_store(str(tmp_path / "b"))
    run(plan, here)
    killed: list[str] = []

    def kill_one(_: object) -> None:
        if not killed:
            killed.append(pods(kube, "worker")[0]["metadata"]["name"])
            kube.call("delete", "pod", killed[0], "--grace-period=0", "--force", "--wait=false")

    with open_cluster(spec_of(kube, workers=2)) as submit:
        assert submit.note.startswith("2 of 2 workers came in ")
        report = run_batch(plan, there, submit, on_done=kill_one)
        deadline = time.monotonic() + 60
        while submit.capacity() < 4 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert submit.capacity() == 4  # another pod took its place
    assert killed
    assert not report.failed
    assert report.done == report.regions
    assert store_digest(there) == store_digest(here)
    assert until_empty(kube) == []


def test_workers_have_what_was_asked_for(kube: Kube) -> None:
    spec = spec_of(kube, threads=2, environment={"GDAL_CACHEMAX": "128", "AWS_REGION": "here"})
    threads = set(threading.enumerate())
    with open_cluster(spec) as submit:
        found = {name: submit(os.getenv, name).result(30) for name in ("GDAL_CACHEMAX", "OMP_NUM_THREADS")}
        assert found == {"GDAL_CACHEMAX": "128", "OMP_NUM_THREADS": "1"}
        (room,) = submit.memory()
        assert (room.threads, room.limit) == (2, 2**30)
        # A lambda goes as a value: pods have no module of these tests.
        found = submit.client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures)
        assert found == 2
    assert until_empty(kube) == []
    assert {one for one in threading.enumerate() if one.name.startswith("ndvi-scale")} <= threads


def test_every_field_of_a_full_manifest_is_known_to_the_api(kube: Kube, tmp_path: Path) -> None:
    """This API drops unknown fields without a word: what is asked for has to be what it takes."""
    from test_cluster_manifest import ALL
    from test_cluster_manifest import spec_of as full

    made = yaml.safe_load(render(full(**{**ALL, "namespace": "default"})).replace("NAME", "fields"))
    answer = kube.call("create", "--dry-run=server", "--output=json", "--filename=-", given=json.dumps(made))
    taken = json.loads(answer)
    assert taken["spec"] == made["spec"]


def test_workers_come_as_there_is_work(kube: Kube, sandbox: Sandbox, tmp_path: Path) -> None:
    with open_cluster(spec_of(kube, adapt="0:2")) as submit:
        assert submit.note == "workers come as there is work for them, 0:2 of them"
        assert pods(kube, "worker") == []
        assert submit.capacity() == 4
        report = run_batch(plan_of(sandbox), open_store(str(tmp_path / "a")), submit)
        assert report.done == report.regions
        assert len(pods(kube, "worker")) in {1, 2}
    assert until_empty(kube) == []


@pytest.mark.parametrize("start", range(10))
def test_ten_starts_in_a_row(kube: Kube, start: int) -> None:
    with open_cluster(spec_of(kube)) as submit:
        assert submit(divmod, 7, 2).result(30) == (3, 1)
    assert until_empty(kube) == []


DRIVER = """
import sys, time
from ndvi_scale import find_spec, open_cluster
if __name__ == "__main__":
    given = {"image": sys.argv[1], "memory": "1GiB", "labels": {"test": sys.argv[2]}}
    with open_cluster(find_spec("kubernetes", {}, given)) as submit:
        future = submit(time.sleep, 600)
        print("inside", flush=True)
        future.result()
"""


@pytest.mark.parametrize(
    ("number", "early"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGHUP, True)],
    ids=["Ctrl-C", "Ctrl-C at the start", "terminated at the start", "hung up at the start"],
)
def test_nothing_is_left_after_a_signal(kube: Kube, tmp_path: Path, number: signal.Signals, *, early: bool) -> None:
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    command = [sys.executable, str(program), kube.image, _mark()]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if early:
            while not left(kube):
                assert driver.poll() is None
                time.sleep(0.05)
        else:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "inside\n"
        driver.send_signal(number)
        assert driver.wait(30) != 0
    finally:
        driver.kill()
        driver.communicate()
    assert until_empty(kube) == []


def test_a_driver_that_is_killed_leaves_what_the_operator_deletes(kube: Kube, tmp_path: Path) -> None:
    program = tmp_path / "driver.py"
    program.write_text(DRIVER.replace('"1GiB",', '"1GiB", "idle_timeout": 2,').replace("600", "0"))
    command = [sys.executable, str(program), kube.image, _mark()]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert driver.stdout is not None
    driver.stdout.readline()
    driver.kill()
    driver.communicate()
    assert until_empty(kube) == []


def test_an_operator_that_does_not_run(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_watch, "OPERATOR", 2.0)
    with (
        stopped(kube.pid("operator")),
        pytest.raises(ClusterError, match=r"nobody took DaskCluster .* up: the operator") as refused,
        open_cluster(spec_of(kube)),
    ):
        pass
    assert "docs/clusters/kubernetes.md" in str(refused.value)
    assert until_empty(kube) == []


def test_an_operator_that_stops_in_the_middle_keeps_nothing(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "OPERATOR_GOES", 1.0)
    with contextlib.ExitStack() as stack:
        with open_cluster(spec_of(kube)):
            stack.enter_context(stopped(kube.pid("operator")))
        assert until_empty(kube) == []


def test_a_scheduler_that_is_lost(kube: Kube) -> None:
    with (  # noqa: PT012
        pytest.raises(ClusterError, match=r"run the same command again") as lost,
        open_cluster(spec_of(kube)) as submit,
    ):
        waiting = submit(time.sleep, 600)
        (pod,) = pods(kube, "scheduler")
        kube.call("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
        waiting.result(60)
    assert "the scheduler is gone" in str(lost.value)
    assert until_empty(kube) == []


@pytest.mark.parametrize("component", ["scheduler", "worker"])
def test_what_crashes_at_the_start_says_so_with_its_log(kube: Kube, python_path: Path, component: str) -> None:
    (python_path / "sitecustomize.py").write_text(
        f"import sys\nif {component!r} in sys.argv: sys.exit('there is no such library: libgdal')\n"
    )
    with (
        pytest.raises(ClusterError) as refused,
        open_cluster(spec_of(kube, environment={"PYTHONPATH": str(python_path)})),
    ):
        pass
    for word in (component, "crashes (2 restarts", "its log ends:", "there is no such library: libgdal"):
        assert word in str(refused.value)
    assert until_empty(kube) == []


def other_image(folder: Path, version: str | None) -> dict[str, str]:
    """Variables of a pod that make its image another one: the same packages, but another ndvi-scale or none."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "ndvi_scale" not in path.name:
            (site / path.name).symlink_to(path)
    if version is not None:
        (site / "ndvi_scale").symlink_to(Path(ndvi_scale.__file__).parent)
        told = site / f"ndvi_scale-{version}.dist-info" / "METADATA"
        told.parent.mkdir()
        told.write_text(f"Metadata-Version: 2.1\nName: ndvi-scale\nVersion: {version}\n")
    program = folder / "bin" / "dask"
    program.write_text(
        f"#!{folder}/bin/python\nfrom dask.__main__ import main\nif __name__ == '__main__': main()\n"
    )
    program.chmod(0o755)
    return {"PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.mark.parametrize(
    ("version", "words"),
    [("9.9", "ndvi_scale 9.9, this process has"), (None, "ndvi_scale not at all, this process has")],
    ids=["another version", "without the package"],
)
def test_an_image_with_another_ndvi_scale(kube: Kube, tmp_path: Path, version: str | None, words: str) -> None:
    environment = other_image(tmp_path / "image", version)
    with (
        pytest.raises(ClusterError, match="the same versions are needed") as refused,
        open_cluster(spec_of(kube, environment=environment)),
    ):
        pass
    assert words in str(refused.value)
    assert until_empty(kube) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient memory.",
                    }
                ],
            },
            ["did not come in 4 s", "pending (Unschedulable: 0/3 nodes are available", "wait = seconds"],
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {
                        "name": "scheduler",
                        "image": "no/such:1",
                        "imageID": "",
                        "ready": False,
                        "restartCount": 0,
                        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no/such:1 not found"}},
                    }
                ],
            },
            ["the scheduler of the kubernetes cluster does not start", "no/such:1 not found", "imagePullSecrets"],
        ),
    ],
    ids=["no node has room", "no such image"],
)
def test_pods_that_never_run_say_why(
    kube: Kube, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], words: list[str]
) -> None:
    """The node of the tests runs whatever it gets; while it is stopped, its word is given by hand."""
    monkeypatch.setattr(pod_watch, "SURE", 1.0)
    patch = json.dumps({"status": status})
    with stopped(kube.pid("kubelet")):

        def say() -> None:
            while not (found := pods_of(mark)):
                time.sleep(0.1)
            kube.call("patch", "pod", found[0], "--subresource=status", "--type=merge", f"--patch={patch}")

        mark = _mark()

        def pods_of(mark: str) -> list[str]:
            return kube.names("pods", f"test={mark},dask.org/component=scheduler")

        teller = threading.Thread(target=say)
        teller.start()
        try:
            with pytest.raises(ClusterError) as refused, open_cluster(spec_of(kube, wait=4)):
                pass
        finally:
            teller.join()
    for word in words:
        assert word in str(refused.value)
    assert until_empty(kube) == []


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A namespace in which the ordinary user has the rights that the documentation asks for."""
    name = f"ndvi-scale-{secrets.token_hex(4)}"
    kube.call("create", "namespace", name)
    role = ["--verb=get,list,create,patch,delete", "--resource=daskclusters,daskautoscalers,daskworkergroups"]
    kube.call("create", "role", "run", f"--namespace={name}", *role)
    read = ["--verb=get,list", "--resource=pods,pods/log,services,deployments.apps"]
    kube.call("create", "role", "read", f"--namespace={name}", *read)
    for one in ("run", "read"):
        kube.call("create", "rolebinding", one, f"--namespace={name}", f"--role={one}", "--user=alice")
    yield name
    kube.call("delete", "namespace", name, "--wait=false")


def quota(kube: Kube, namespace: str, **hard: str) -> None:
    """A quota, as its controller would have counted it; the tests' Kubernetes has none."""
    counted = {"hard": hard, "used": dict.fromkeys(hard, "0")}
    made = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}}
    kube.call("create", f"--namespace={namespace}", "--filename=-", given=json.dumps(made))
    patch = f"--patch={json.dumps({'status': counted})}"
    kube.call("patch", "quota", "few", f"--namespace={namespace}", "--subresource=status", "--type=merge", patch)


@pytest.mark.parametrize(
    ("hard", "words"),
    [
        ({"requests.memory": "1Gi"}, ["exceeded quota: few", "requests.memory=2Gi", "the scheduler"]),
        ({"count/daskclusters.kubernetes.dask.org": "0"}, ["exceeded quota: few", "ask for less"]),
    ],
    ids=["of memory", "of clusters"],
)
def test_a_quota(
    kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch, hard: dict[str, str], words: list[str]
) -> None:
    monkeypatch.setattr(pod_watch, "SURE", 2.0)
    quota(kube, namespace, **hard)
    with pytest.raises(ClusterError) as refused, open_cluster(spec_of(kube, namespace=namespace, wait=20)):
        pass
    for word in words:
        assert word in str(refused.value)
    assert until_empty(kube, namespace) == []


def test_fewer_than_asked_for_begin_and_say_why_not_more(
    kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "SETTLED", 1.0)
    monkeypatch.setenv("KUBECONFIG", str(kube.user))
    quota(kube, namespace, pods="2")
    admin = spec_of(kube, namespace=namespace, workers=2, kubeconfig=str(kube.admin))
    with open_cluster(admin) as submit:
        assert submit.note.startswith("1 of 2 workers came")
        assert "exceeded quota: few" in submit.note
        assert submit(divmod, 7, 2).result(30) == (3, 1)
    assert until_empty(kube, namespace) == []


def test_the_command_line_checks_such_a_cluster(
    kube: Kube, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text(
        f'[pods]\nkind = "kubernetes"\nimage = "{kube.image}"\nmemory = "1GiB"\nwait = 60\n'
        f'labels = {{ test = "{_mark()}" }}\n'
    )
    assert call("cluster", "render", "pods", "--cluster-file", file) == 0
    assert yaml.safe_load(capsys.readouterr().out)["kind"] == "DaskCluster"
    out = tmp_path / "out.zarr"
    assert call("cluster", "check", "pods", "--cluster-file", file, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert until_empty(kube) == []
