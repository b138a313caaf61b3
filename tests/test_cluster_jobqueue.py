"""Job scripts as they are submitted, without a scheduler: each against a file that a person has read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ndvi_scale.cluster.jobqueue import KEYS, PLACE, render
from ndvi_scale.cluster.making import make_spec
from ndvi_scale.cluster.spec import JobSpec
from ndvi_scale.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"

COMMON: dict[str, Any] = {
    "cores": 4,
    "processes": 2,
    "memory": "16GiB",
    "walltime": "02:30:00",
    "account": "eo",
    "queue": "cpu2022",
    "logs": "/shared/logs",
    "python": "/shared/env/bin/python",
    "environment": {"AWS_PROFILE": "eo data", "GDAL_CACHEMAX": "128"},
    "prologue": ["module load gdal"],
}
OWN: dict[str, dict[str, Any]] = {
    "slurm": {"interface": "ib0", "qos": "eo_default", "directives": ["--constraint=skylake"]},
    "pbs": {"resources": "select=1:ncpus=4:mem=16GB", "directives": ["-V"]},
    "sge": {"directives": ["-V", "-pe smp 4"]},
    "lsf": {"scratch": "$SCRATCHDIR/dask"},
    "htcondor": {"disk": "20GB", "directives": ["+MaxRuntime = 9000"]},
}


def spec_of(kind: str, **settings: Any) -> JobSpec:
    common = {name: value for name, value in COMMON.items() if kind != "htcondor" or name not in NOT_HTCONDOR}
    spec = make_spec({"kind": kind, **common, **OWN[kind], **settings})
    assert isinstance(spec, JobSpec)
    return spec


NOT_HTCONDOR = ("account", "queue")


@pytest.fixture
def logs(tmp_path: Path) -> str:
    return str(tmp_path / "logs")


@pytest.mark.parametrize("kind", OWN)
def test_scripts_are_what_was_read_once(kind: str, logs: str) -> None:
    script = render(spec_of(kind, logs=logs)).replace(logs, "/shared/logs")
    assert script == (GOLDEN / f"{kind}.txt").read_text()


@pytest.mark.parametrize("kind", OWN)
def test_rendering_leaves_no_folder(kind: str, logs: str) -> None:
    render(spec_of(kind, logs=logs))
    assert not Path(logs).exists()


@pytest.mark.parametrize("kind", OWN)
def test_what_is_not_given_comes_from_nowhere_else(kind: str, logs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask.config

    before = render(spec_of(kind, logs=logs))
    site = {"worker-extra-args": ["--site"], "job-script-prologue": ["site"], "job-extra-directives": ["--site"]}
    with dask.config.set({f"jobqueue.{kind}": {**dask.config.get(f"jobqueue.{kind}"), **site}}):
        assert render(spec_of(kind, logs=logs)) == before


def test_secrets_of_the_surroundings_are_in_no_script(logs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAVERYSECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    for kind in OWN:
        script = render(spec_of(kind, logs=logs))
        assert "AKIAVERYSECRET" not in script
        assert "hush-hush" not in script
        assert "PRIVATE KEY" not in script
        assert KEYS in script
        assert PLACE in script


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "aws_access_key_id", "GITHUB_TOKEN", "PGPASSWORD"])
def test_a_secret_in_a_profile_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name) as refused:
        spec_of("slurm", environment={name: "hush-hush"})
    assert "hush-hush" not in str(refused.value)
    assert '"-V"' in str(refused.value)


def test_a_file_with_a_secret_may_be_named() -> None:
    spec_of("slurm", environment={"AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token"})


@pytest.mark.parametrize("scratch", ["$TMPDIR", "${TMPDIR}", "$TMPDIR/a b"])
@pytest.mark.parametrize("there", ["/node/tmp", None])
def test_scratch_is_found_on_the_node(scratch: str, there: str | None, logs: str) -> None:
    script = render(spec_of("slurm", scratch=scratch, logs=logs))
    argument = script.split("--local-directory ")[1].split(" --lifetime")[0]
    environment = {} if there is None else {"TMPDIR": there}
    shown = subprocess.run(
        ["/bin/bash", "-c", f"printf %s {argument}"], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert shown == scratch.replace("${TMPDIR}", "$TMPDIR").replace("$TMPDIR", there or "/tmp")  # noqa: S108


def test_ctrl_c_stays_what_it_was() -> None:
    """dask-jobqueue makes it an exit with code 0 when it is imported."""
    code = (
        "import signal; from ndvi_scale.cluster.jobqueue import cluster_class; cluster_class('slurm'); "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run(
        [sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler); {code}"], check=True
    )


def test_pairs_of_htcondor() -> None:
    with pytest.raises(ConfigError, match="NAME = value"):
        render(spec_of("htcondor", directives=["--nope"]))


def test_threads_follow_from_cores() -> None:
    assert spec_of("slurm", threads=2).threads == 2
    with pytest.raises(ConfigError, match="cores / processes = 2"):
        spec_of("slurm", threads=3)


def test_a_folder_of_logs_that_no_script_can_say(tmp_path: Path) -> None:
    spec = make_spec({"kind": "slurm", "memory": "1GiB", "logs": str(tmp_path / "my logs")})
    assert isinstance(spec, JobSpec)
    with pytest.raises(ConfigError, match=r"my logs' of a slurm cluster has spaces"):
        render(spec)
