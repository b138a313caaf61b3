"""Cluster specs and profiles: what is taken, what is refused and how it is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ndvi_scale.cluster.profiles import find_spec, read_profiles
from ndvi_scale.cluster.spec import SPECS, JobSpec, make_spec
from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def slurm(**settings: Any) -> JobSpec:
    spec = make_spec({"kind": "slurm", "memory": "16GiB", **settings})
    assert isinstance(spec, JobSpec)
    return spec


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "slrum"}, ["'slrum'", "did you mean 'slurm'", "address"]),
        ({"kind": "slurm", "memory": "1GB", "acount": "x"}, ["'acount'", "did you mean 'account'"]),
        ({"kind": "slurm", "memory": "1GB", "account_needed": True}, ["account", "--account"]),
        ({"kind": "slurm", "memory": "1GB", "walltime": "00:04:59"}, ["00:04:59", "five minutes"]),
        ({"kind": "slurm", "memory": "1GB", "walltime": "soon"}, ["'soon'", "02:00:00"]),
        ({"kind": "slurm"}, ["memory of a job"]),
        ({"kind": "slurm", "memory": "much"}, ["'much'", "4GiB"]),
        ({"kind": "slurm", "memory": "1GB", "cores": 5, "processes": 2}, ["5", "2", "multiple"]),
        ({"kind": "local", "workers": 0}, ["workers 0", "from 1 on"]),
        ({"kind": "local", "workers": 2, "adapt": "0:4"}, ["one of the two"]),
        ({"kind": "local", "adapt": "4:2"}, ["'4:2'", "MIN:MAX"]),
        ({"kind": "local", "workers": "two"}, ["'two'", "wrong type"]),
        ({"kind": "local", "processes": 1}, ["wrong type"]),
        ({"kind": "address"}, ["scheduler's address"]),
        ({"kind": "pbs", "memory": "1GB", "prologue": [1]}, ["list of texts"]),
        ({"kind": "local", "environment": "A=1"}, ["NAME"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        make_spec(settings)
    for word in words:
        assert word in str(refused.value)


def test_every_kind_can_be_made() -> None:
    needed = {"address": {"scheduler": "tls://127.0.0.1:8786"}}
    for kind, spec in SPECS.items():
        settings = needed.get(kind, {"memory": "4GiB"} if issubclass(spec, JobSpec) else {})
        assert isinstance(make_spec({"kind": kind, **settings}), spec)


@pytest.mark.parametrize(
    ("walltime", "seconds"), [("00:05:00", 300), ("2:30", 9000), ("1-00:00:00", 86400), ("120:00:00", 432000)]
)
def test_walltimes(walltime: str, seconds: int) -> None:
    assert slurm(walltime=walltime).walltime_seconds == seconds
    assert 60 <= slurm(walltime=walltime).lifetime_seconds < seconds


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
