"""A STAC API that conforms for filter and sort: stac-fastapi over one stac-geoparquet file.

Run by the interpreter of an environment of its own (`.ci/stac-api`), as its libraries are not ours:
``python geoparquet_api.py items.parquet PORT``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import duckdb
import rustac
import uvicorn

EXTENSIONS = ("icu", "json", "parquet", "spatial")


def extension_folder(folder: Path) -> Path:
    """DuckDB's extensions as it looks for them; by itself it would download them."""
    version, platform = f"v{duckdb.__version__}", duckdb.sql("PRAGMA platform").fetchall()[0][0]
    target = folder / version / platform
    target.mkdir(parents=True)
    for name in EXTENSIONS:
        spec = find_spec(f"duckdb_extension_{name}")
        assert spec is not None
        assert spec.origin is not None
        file = f"{name}.duckdb_extension"
        (target / file).symlink_to(Path(spec.origin).parent / "extensions" / version / file)
    return folder


def main(items: str, port: int) -> None:
    """Serve the items on loopback until stopped."""
    os.environ |= {"STAC_FASTAPI_GEOPARQUET_HREF": items}
    from stac_fastapi.geoparquet.api import create

    with tempfile.TemporaryDirectory() as folder:
        client = rustac.DuckdbClient(
            extension_directory=str(extension_folder(Path(folder))), install_extensions=False
        )
        uvicorn.run(create(duckdb_client=client).app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
