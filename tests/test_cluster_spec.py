"""Cluster specs and profiles: what is taken, what is refused and how it is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ndvi_scale.cluster.making import make_spec
from ndvi_scale.cluster.profiles import find_spec, read_profiles
from ndvi_scale.cluster.spec import MARGIN, JobSpec
from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def slurm(**settings: Any) -> JobSpec:
    spec = make_spec({"kind": "slurm", "memory": "16GiB", **settings})
    assert isinstance(spec, JobSpec)
    return spec


JOBS = {"kind": "slurm", "memory": "1GiB"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "slrum"}, ["'slrum'", "did you mean 'slurm'", "address"]),
        ({"kind": "slurm", "memory": "1GB", "acount": "x"}, ["'acount'", "did you mean 'account'"]),
        ({"kind": "slurm", "memory": "1GB", "account_needed": True}, ["account", "--account"]),
        ({"kind": "slurm", "memory": "1GB", "walltime": "00:04:59"}, ["00:04:59", "five minutes"]),
        ({"kind": "slurm", "memory": "1GB", "walltime": "soon"}, ["'soon'", "02:00:00"]),
        ({"kind": "slurm", "memory": "1GB", "walltime": "02:00"}, ["'02:00'", "02:00:00", "two minutes to Slurm"]),
        ({"kind": "slurm", "memory": "1GB", "walltime": "1-02:00"}, ["'1-02:00'", "days-hours:minutes:seconds"]),
        ({"kind": "slurm"}, ["memory of a job"]),
        ({"kind": "slurm", "memory": "much"}, ["'much'", "4GiB"]),
        ({"kind": "slurm", "memory": "1GB", "cores": 5, "processes": 2}, ["5", "2", "multiple"]),
        ({"kind": "slurm", "memory": "1GB", "processes": 0}, ["processes 0", "from 1 on"]),
        ({"kind": "slurm", "memory": "0GB"}, ["memory '0GB'", "4GiB"]),
        ({"kind": "local", "memory": "1MB"}, ["memory 1MB", "400 MiB", "1GiB or more"]),
        ({"kind": "slurm", "memory": "1GiB", "cores": 4, "processes": 4}, ["memory 1GiB", "for 4 processes"]),
        ({"kind": "kubernetes", "memory": "399MiB", "image": "a"}, ["memory 399MiB", "400 MiB"]),
        ({**JOBS, "account": "eo\nrm -rf /"}, ["account 'eo\\nrm -rf /'", "control character", "one line"]),
        ({**JOBS, "directives": ["-x\nrm -rf /"]}, ["directives", "control character"]),
        ({**JOBS, "prologue": ["module load a\nb"]}, ["prologue", "a text of its own"]),
        ({**JOBS, "queue": "a\x1b[2J"}, ["queue 'a\\x1b[2J'"]),
        ({**JOBS, "logs": "/logs\r"}, ["logs"]),
        ({**JOBS, "python": "/bin/python\n"}, ["python"]),
        ({**JOBS, "account": "eo x"}, ["account 'eo x'", "one word"]),
        ({**JOBS, "queue": ""}, ["queue ''", "leave it out"]),
        ({**JOBS, "qos": "a b"}, ["qos 'a b'"]),
        ({**JOBS, "interface": "ib 0"}, ["interface 'ib 0'"]),
        ({**JOBS, "kind": "pbs", "resources": "select=1 -q x"}, ["resources 'select=1 -q x'"]),
        ({**JOBS, "kind": "htcondor", "disk": "10GB\nqueue"}, ["disk"]),
        ({**JOBS, "kind": "htcondor", "disk": "much"}, ["disk 'much'", "10GB"]),
        ({**JOBS, "environment": {"A; rm -rf /": "x"}}, ["'A; rm -rf /'", "no name of a variable"]),
        ({"kind": "local", "processes": False, "memory": "1GiB"}, ["memory 1GiB", "has no effect", "--memory"]),
        ({"kind": "local", "processes": False, "adapt": "0:3"}, ["adapt 0:3", "has no effect"]),
        ({"kind": "local", "processes": False, "threads": 2}, ["threads 2", "has no effect"]),
        ({"kind": "address", "memory": "1GiB"}, ["memory 1GiB", "has no effect", "dask worker"]),
        ({"kind": "local", "workers": 0}, ["workers 0", "from 1 on"]),
        ({"kind": "local", "workers": 2, "adapt": "0:4"}, ["one of the two"]),
        ({"kind": "local", "adapt": "4:2"}, ["'4:2'", "MIN:MAX"]),
        ({"kind": "local", "workers": "two"}, ["'two'", "wrong type"]),
        ({"kind": "local", "processes": 1}, ["wrong type"]),
        ({"kind": "pbs", "memory": "1GB", "prologue": [1]}, ["list of texts"]),
        ({"kind": "local", "environment": "A=1"}, ["NAME"]),
        ({"kind": "local", "environment": {"FOO": 3}}, ["environment FOO", 'FOO = "…"']),
        ({"memory": "1GiB"}, ["the settings has no kind", "local, address, slurm"]),
        ({"kind": ["slurm"]}, ["cluster kind ['slurm'] is unknown"]),
        ({"kind": "local", "workers": [1]}, ["workers [1]", "give a whole number"]),
        ({"kind": "local", "wait": "long"}, ["wait 'long'", "give a number"]),
        ({"kind": "local", "wait": float("inf")}, ["wait inf", "give a number"]),
        ({"kind": "local", "wait": float("nan")}, ["wait nan", "give a number"]),
        ({"kind": "local", "processes": "yes"}, ["processes 'yes'", "give true or false"]),
        ({"kind": "slurm", "account": 7}, ["account 7", "give a text in quotes"]),
        ({"kind": "gateway", "options": "A=1"}, ["options", "NAME"]),
        ({"kind": "gateway", "memory": "4GiB"}, ["memory 4GiB", "options = {"]),
        ({"kind": "gateway", "threads": 2}, ["threads 2", "worker_cores"]),
        ({"kind": "gateway", "auth": "jupiterhub"}, ["'jupiterhub'", "did you mean 'jupyterhub'"]),
        ({"kind": "gateway", "auth": "kerberos", "password_file": "a"}, ["password_file", "only basic"]),
        ({"kind": "gateway", "password": "a"}, ["'password'", "did you mean 'password_file'"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        make_spec(settings)
    for word in words:
        assert word in str(refused.value)


def test_the_least_memory_is_what_a_worker_takes() -> None:
    assert make_spec({"kind": "local", "memory": "0.4 gib"}).memory == "0.4 gib"
    assert make_spec({"kind": "local", "memory": "420MB"}).memory == "420MB"


@pytest.mark.parametrize(
    ("walltime", "seconds"), [("00:05:00", 300), ("2:30:00", 9000), ("1-00:00:00", 86400), ("120:00:00", 432000)]
)
def test_walltimes(walltime: str, seconds: int) -> None:
    assert slurm(walltime=walltime).walltime_seconds == seconds
    spec = slurm(walltime=walltime)
    assert spec.lifetime_seconds - spec.stagger_seconds >= 90, "none ends when it has hardly begun"
    assert spec.lifetime_seconds + spec.stagger_seconds == seconds - MARGIN


def test_profiles_come_from_the_users_own_file_or_one_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusters.toml").write_text('[here]\nkind = "slurm"\nprologue = ["rm -rf /"]\n')
    assert set(read_profiles()) == {"local", "threads"}
    own = tmp_path / "home" / "ndvi-scale" / "clusters.toml"
    own.parent.mkdir(parents=True)
    own.write_text('[trex]\nkind = "slurm"\nmemory = "8GiB"\naccount = "eo"\nextra-key = 1\n')
    with pytest.raises(ConfigError, match="profile trex: 'extra_key'"):
        find_spec("trex", read_profiles())
    with pytest.raises(ConfigError, match="profile trex: workers 0 of a slurm cluster"):
        find_spec("trex", {"trex": {"kind": "slurm", "memory": "8GiB", "workers": 0}})
    assert "here" in read_profiles(tmp_path / "clusters.toml")


def test_names() -> None:
    profiles = {"trex": {"kind": "slurm", "memory": "8GiB", "account": "eo"}}
    spec = find_spec("trex", profiles, {"account": "other"})
    assert isinstance(spec, JobSpec)
    assert spec.account == "other"
    assert find_spec("tls://10.0.0.1:8786", profiles).kind == "address"
    assert find_spec("local", profiles).kind == "local"
    with pytest.raises(ConfigError, match="did you mean 'trex'"):
        find_spec("trexx", profiles)
