"""Print the versions that the project is tested with, as pip takes them: ``pip install --constraint``."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.stdout.writelines(f"{line}\n" for line in project["tool"]["uv"]["constraint-dependencies"])
