"""Specs of settings: any kind, any key, any type of value."""

from __future__ import annotations

import datetime as dt
from dataclasses import fields
from typing import Any

import pytest

from ndvi_scale.cluster.making import SPECS, make_spec
from ndvi_scale.cluster.spec import JobSpec
from ndvi_scale.errors import ConfigError


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_what_is_wrong_is_never_said_in_python_s_words(kind: str) -> None:
    needed = {"memory": "1GiB"} if issubclass(SPECS[kind], JobSpec) else {}
    for one in fields(SPECS[kind]):
        for value in ([1], [[1]], {"a": 1}, -1, float("inf"), True, None, dt.date(2026, 1, 1)):
            told = refusal({"kind": kind, **needed, one.name: value})
            assert not [word for word in ("NoneType", "<class", "int()", "| None", "tuple[") if word in told]


def refusal(settings: dict[str, Any]) -> str:
    """Why settings are refused; nothing where they are taken."""
    try:
        make_spec(settings)
    except ConfigError as error:
        return str(error)
    return ""


def test_every_kind_can_be_made() -> None:
    needed = {"kubernetes": {"image": "ndvi-scale:1", "memory": "4GiB"}}
    for kind, spec in SPECS.items():
        settings = needed.get(kind, {"memory": "4GiB"} if issubclass(spec, JobSpec) else {})
        assert isinstance(make_spec({"kind": kind, **settings}), spec)
