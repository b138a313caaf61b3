"""A named profile of AWS's shared files: its keys, region and endpoint."""

from __future__ import annotations

import os
import re
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from pathlib import Path
from typing import Final

from ndvi_scale.errors import StoreError

_FILES: Final = (
    ("AWS_CONFIG_FILE", "~/.aws/config", r"(default)|profile\s+(.+)"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", r"(.+)"),
)
"""Variable that names it, where it is by default, how it heads a profile; the later one wins."""

_SETTINGS: Final = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "region": "region",
    "endpoint_url": "endpoint",
}
"""Name in the files → storage option."""


def read_profile(name: str) -> dict[str, str]:
    """Storage options that a profile stands for.

    Raises StoreError when there is no such profile, or one whose keys only a login, a role or a program gives.
    """
    profiles: dict[str, dict[str, str]] = {}
    for variable, default, heading in _FILES:
        path = Path(os.environ.get(variable) or default).expanduser()
        for section, values in _sections(path).items():
            if match := re.fullmatch(heading, section.strip()):
                profiles.setdefault(match[match.lastindex or 1], {}).update(values)
    if name not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise StoreError(f"no AWS profile {name!r} (there are: {known}): give one of them, or keys")
    found = {_SETTINGS[key]: value for key, value in profiles[name].items() if key in _SETTINGS and value}
    if not {"access_key_id", "secret_access_key"} <= found.keys():
        raise StoreError(
            f"AWS profile {name!r} holds no keys itself: get them for a while with `aws configure "
            f"export-credentials --profile {name} --format env`, and leave the profile out"
        )
    return found


def _sections(path: Path) -> dict[str, dict[str, str]]:
    parser = ConfigParser(interpolation=None, default_section="", strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ConfigParserError) as error:
        # The parser's own words would show the line, which may be a key.
        raise StoreError(
            f"{path} cannot be read as an AWS settings file ({type(error).__name__}): correct it, or give keys"
        ) from None
    return {section: dict(parser[section]) for section in parser.sections()}
