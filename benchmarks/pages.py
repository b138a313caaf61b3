"""Tables of benchmarks in the pages of the docs."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def write_between(page: Path, marker: str, text: str) -> None:
    """Put a text between two markers of a page, in place of what stands there."""
    before, rest = page.read_text(encoding="utf-8").split(f"<!-- {marker} -->\n", 1)
    after = rest.split(f"<!-- /{marker} -->", 1)[1]
    page.write_text(f"{before}<!-- {marker} -->\n{text}\n<!-- /{marker} -->{after}", encoding="utf-8")
