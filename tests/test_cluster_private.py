from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

import pytest

from ndvi_scale.cluster.private import require_private
from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("mode", "owner", "private"),
    [(0o600, 0, True), (0o440, 0, True), (0o444, 0, False), (0o660, 0, False), (0o600, 7, True), (0o440, 7, False)],
)
def test_a_group_reads_a_file_of_root_alone_as_a_mounted_secret_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, *, private: bool
) -> None:
    known = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 7, 0, 0, 0, 0))
    monkeypatch.setattr(type(tmp_path), "stat", lambda *_, **__: known)
    with contextlib.nullcontext() if private else pytest.raises(ConfigError, match="chmod 600"):
        require_private(tmp_path / "key")
