from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ndvi_scale.aws_profile import read_profile
from ndvi_scale.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[default]
region = eu-central-1

[profile maps]
region = eu-west-1
endpoint_url = https://objects.example.org
aws_access_key_id = old

[profile login]
sso_session = work
region = eu-west-1

[sso-session work]
sso_region = eu-west-1
s3 =
    max_concurrent_requests = 3
"""
CREDENTIALS = """
[default]
aws_access_key_id = default-key
aws_secret_access_key = de%fault-secret

[maps]
aws_access_key_id = maps-key
aws_secret_access_key = maps-secret
aws_session_token = maps-token
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with both files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_CONFIG_FILE", raising=False)
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE", raising=False)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(CONFIG, encoding="utf-8")
    (tmp_path / ".aws/credentials").write_text(CREDENTIALS, encoding="utf-8")
    return tmp_path / ".aws"


@pytest.mark.usefixtures("files")
def test_both_files_make_a_profile_and_the_credentials_win() -> None:
    assert read_profile("maps") == {
        "access_key_id": "maps-key",
        "secret_access_key": "maps-secret",
        "session_token": "maps-token",
        "region": "eu-west-1",
        "endpoint": "https://objects.example.org",
    }


@pytest.mark.usefixtures("files")
def test_the_default_profile_lends_nothing_to_others() -> None:
    assert read_profile("default") == {
        "access_key_id": "default-key",
        "secret_access_key": "de%fault-secret",
        "region": "eu-central-1",
    }
    with pytest.raises(StoreError, match="holds no keys itself"):
        read_profile("login")


def test_variables_name_the_files(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.write_text("[maps]\naws_access_key_id=a\naws_secret_access_key=b\n", encoding="utf-8")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(other))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    assert read_profile("maps") == {"access_key_id": "a", "secret_access_key": "b"}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mops", r"no AWS profile 'mops' \(there are: default, login, maps\)"),
        ("login", "`aws configure export-credentials --profile login --format env`, and leave the profile out"),
    ],
)
def test_profiles_that_do_not_serve(name: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        read_profile(name)


@pytest.mark.parametrize("text", ["aws_secret_access_key = hunter2\n", "[a]\nhunter2\n", "\xff\xfe"])
def test_a_broken_file_is_named_and_not_shown(files: Path, text: str) -> None:
    (files / "credentials").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=r"/\.aws/credentials cannot be read as an AWS settings file") as error:
        read_profile("maps")
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None


def test_no_files_is_no_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "a"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "b"))
    with pytest.raises(StoreError, match=r"no AWS profile 'x' \(there are: none\)"):
        read_profile("x")
