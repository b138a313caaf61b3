"""Named clusters of a person: profiles in a TOML file, read when they are asked for by name.

Only the user's own file and one that is named on the command line are read, never one that happens to lie in the
working directory: a profile holds shell lines and paths that run on a machine room's nodes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.cluster.making import SPECS, make_spec
from ndvi_scale.cluster.spec import near
from ndvi_scale.errors import ConfigError
from ndvi_scale.tomlfile import read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ndvi_scale.cluster.spec import ClusterSpec

BUILT_IN: Final[dict[str, dict[str, Any]]] = {
    "local": {"kind": "local"},
    "threads": {"kind": "local", "processes": False},
}
"""Profiles that need no file."""


def user_file() -> Path:
    """A person's own profiles: ``ndvi-scale/clusters.toml`` in ``$XDG_CONFIG_HOME``, ``~/.config`` by default."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "ndvi-scale" / "clusters.toml"


def as_path(file: str | None) -> Path | None:
    """A file of profiles as a flag names it."""
    return Path(file).expanduser() if file else None


def spec_of_flags(flags: Mapping[str, Any]) -> ClusterSpec:
    """The spec that `cluster` names, with what other flags say of it; these win. Raises ConfigError."""
    given = {key: flags[key] for key in ("workers", "memory", "adapt") if flags.get(key) is not None}
    return find_spec(flags["cluster"], read_profiles(as_path(flags.get("cluster_file"))), given)


def read_profiles(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Settings by name: the built-in ones, and those of a file (the user's own, if there is one and none is given).

    Raises ConfigError for a file that is absent (when given) or malformed.
    """
    file = path or user_file()
    if path is None and not file.exists():
        return dict(BUILT_IN)
    raw = read_toml(file, "file of cluster profiles")
    wrong = next((name for name, settings in raw.items() if not isinstance(settings, dict)), None)
    if wrong is not None:
        raise ConfigError(f"{file}: {wrong!r} is no profile: each is a table, such as [my-slurm]")
    return {**BUILT_IN, **raw}


def find_spec(
    name: str, profiles: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any] | None = None
) -> ClusterSpec:
    """The spec of a profile, or of a kind by its name; what is `given` (flags) wins. Raises ConfigError."""
    if name in profiles:
        settings = profiles[name]
    elif name in SPECS:
        settings = {"kind": name}
    elif "://" in name:
        settings = {"kind": "address", "scheduler": name}
    else:
        known = [*profiles, *SPECS]
        raise ConfigError(
            f"cluster {name!r} is no profile and no kind{near(name, known)}: there are "
            f"{', '.join(dict.fromkeys(known))}; profiles are tables in {user_file()}, or in a file given by "
            "--cluster-file"
        )
    given = given or {}
    replaced = {"workers": "adapt", "adapt": "workers"}
    kept = {key: value for key, value in settings.items() if replaced.get(key) not in given or key in given}
    return make_spec({**kept, **given}, f"profile {name}")
