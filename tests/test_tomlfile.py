from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ndvi_scale.errors import ConfigError
from ndvi_scale.tomlfile import read_toml

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("content", [b"a = ", b"\xff = 1", b"a = 1\na = 2"])
def test_what_is_no_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.toml is not a readable TOML file: "):
        read_toml(tmp_path / "a.toml", "file")


def test_what_is_not_there_and_what_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file of settings: "):
        read_toml(tmp_path / "a.toml", "file of settings")
    with pytest.raises(ConfigError, match="is not a readable TOML file"):
        read_toml(tmp_path, "file")
    (tmp_path / "a.toml").write_text("[a]\nb = 1\n")
    assert read_toml(tmp_path / "a.toml", "file") == {"a": {"b": 1}}
