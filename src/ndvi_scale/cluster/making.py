"""A `ClusterSpec` of settings as TOML or flags give them: which kind, which keys, which types. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, get_type_hints

from ndvi_scale.cluster.spec import (
    AddressSpec,
    ClusterSpec,
    GatewaySpec,
    HtcondorSpec,
    KubernetesSpec,
    LocalSpec,
    LsfSpec,
    PbsSpec,
    SgeSpec,
    SlurmSpec,
    near,
)
from ndvi_scale.errors import ConfigError

SPECS: Final[dict[str, type[ClusterSpec]]] = {
    spec.kind: spec
    for spec in (
        LocalSpec,
        AddressSpec,
        SlurmSpec,
        PbsSpec,
        SgeSpec,
        LsfSpec,
        HtcondorSpec,
        KubernetesSpec,
        GatewaySpec,
    )
}


def make_spec(settings: Mapping[str, Any], where: str = "the settings") -> ClusterSpec:
    """The spec that settings (`kind` and its fields, dashes or underscores) say; `where` they are from, for errors.

    Raises ConfigError for an unknown kind or key, with the nearest right one, and for what the kind refuses.
    """
    given = {str(key).replace("-", "_"): value for key, value in settings.items()}
    kind = given.pop("kind", None)
    if kind is None:
        raise ConfigError(f'{where} has no kind: give such as kind = "slurm", one of {", ".join(SPECS)}')
    if not isinstance(kind, str) or kind not in SPECS:
        raise ConfigError(
            f"{where}: cluster kind {kind!r} is unknown{near(kind, SPECS)}: give one of {', '.join(SPECS)}"
        )
    spec = SPECS[kind]
    known = {field.name for field in fields(spec)}
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}: {key!r} is no setting of a {kind} cluster{near(key, known)}: it has "
                f"{', '.join(sorted(known))}"
            )
    typed = {key: _typed(spec, key, value, where) for key, value in given.items()}
    try:
        return spec(**typed)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


_TYPES: Final[dict[str, tuple[Any, str]]] = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "a text in quotes"),
}
"""Type of a field → what is taken for it, and how it is called in TOML."""


def _typed(spec: type[ClusterSpec], key: str, value: Any, where: str) -> Any:
    """A value in the form of its field. Raises ConfigError where it is of another type."""
    hint = str(get_type_hints(spec)[key])
    if key == "environment":
        return _variables(value, where)
    if "Mapping" in hint:
        return _tables(key, value, where, many="tuple" in hint)
    if key == "options":
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: options {value!r} are no table: give NAME = value")
        return tuple(sorted((str(name), choice) for name, choice in value.items()))
    if "tuple" in hint:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise ConfigError(f"{where}: {key} {value!r} has the wrong type: give a list of texts")
        return tuple(value)
    wanted = next(name for name in _TYPES if name in hint)
    kind, words = _TYPES[wanted]
    right = isinstance(value, kind) and isinstance(value, bool) is (wanted == "bool")
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{where}: {key} {value!r} has the wrong type: give {words}")
    return value


def _variables(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise ConfigError(f'{where}: environment {value!r} is no table: give NAME = "value"')
    for name, text in value.items():
        if not isinstance(text, str):
            # Not the value itself: it may be a secret.
            raise ConfigError(f'{where}: environment {name} is no text: give it in quotes, {name} = "…"')
    return tuple(sorted(value.items()))


def _tables(key: str, value: Any, where: str, *, many: bool) -> Any:
    """A table, or a list of them."""
    given = value if many else [value]
    if not isinstance(given, list | tuple) or not all(isinstance(one, Mapping) for one in given):
        wanted = "a list of tables" if many else "a table"
        raise ConfigError(f"{where}: {key} has the wrong type: give {wanted}")
    return tuple(given) if many else value
