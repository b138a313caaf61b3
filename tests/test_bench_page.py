"""The page: whole by itself, says what the findings say, and lets no text of others act."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from bench_rows import CELL, HERE, full_suite, hal, measured, repeats
from ndvi_scale.bench.analysis import analyse
from ndvi_scale.bench.page import Extra, Foretold, to_html, to_markdown
from ndvi_scale.bench.rows import Measured

if TYPE_CHECKING:
    from ndvi_scale.bench.findings import Findings

VOID = {"meta", "path", "use", "br", "rect"}
EVIL = "<script>alert('x')</script>"


class _Page(HTMLParser):
    """Tags, attributes, text and cells of a page; raises where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "xlink:href", "action", "data"}:
                self.links.append(value or "")
            assert not name.startswith("on")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def findings() -> Findings:
    return analyse(full_suite())


@pytest.fixture(scope="module")
def html(findings: Findings) -> str:
    rows = [{"workers": "1,024", "wall": "0.9 s", "limit": "scheduler"}]
    foretold = [
        Foretold("local, daily", "median error 4 %", rows, ["Regions are alike."]),
        Foretold("slurm", "none"),
    ]
    return to_html(findings, Extra(foretold, ["Seed 7."], "Sizes"))


def test_a_page_is_well_formed_and_needs_nothing_beside_it(html: str) -> None:
    page = _Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "form"}
    assert not re.search(r"url\((?!#)|@import", html)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", html))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not places
    assert html.startswith("<!doctype html>")
    assert len(html) < 1_000_000


def test_a_page_says_what_was_found(html: str) -> None:
    words = _Page(html).words
    for said in (
        "Sizes",
        "2 × Example CPU at 2.1 GHz",
        "2026-11-27",
        "165 of 173 rows used",
        "32 workers are enough",
        "Cheapest: 1 worker",
        "85 % weak efficiency at 16 workers",
        "2048 px chunks are the fastest",
        "63 % of a full run: read only",
        "disk is the fastest store",
        "emulated nodes: each waits about 0.5 s",
        "oversubscription, not scaling",
        "a scalability law needs 4",
        "contention σ",
        "15 of 16",
        "no worker came within 120 s",
        "output differs: its digest is ffff0000aaaa",
        "degraded: 15 of 16 workers arrived",
        "measured in another environment: 64 × Another CPU",
        "the file mixes machines or versions",
        "What was submitted for slurm",
        "#SBATCH --mem=2G",
        "0.05 USD an hour",
        "Seed 7.",
        "Regions are alike.",
        "Forecast: median error 4 %. What it assumes:",
        "Forecast: none.",
        "1,024",
    ):
        assert said in words, said


def test_tables_have_as_many_cells_as_heads(html: str) -> None:
    tables = re.findall(r"<table>.*?</table>", html, flags=re.DOTALL)
    assert len(tables) == 2 * 8 + 2
    for table in tables:
        heads = table.count('scope="col"')
        for line in re.findall(r"<tr[^>]*>(.*?)</tr>", table.split("<tbody>")[1], flags=re.DOTALL):
            assert line.count("<td") + line.count("<th") == heads


def test_hal_on_a_page() -> None:
    words = _Page(to_html(analyse(hal(5)))).words
    assert "8 workers are enough" in words
    assert "16 2.33" not in words
    assert "retrograde: 16 workers are slower than 8" in words
    assert "0.482" in words
    assert "8.2 workers" in words
    for figure in ("62.13", "46.03", "32.33", "16.16", "26.64", "2.33", "0.15"):
        assert figure in words


def _evil() -> Findings:
    cells = [replace(CELL, study=EVIL, cluster=EVIL, store=f"{EVIL}|`x`", workload=EVIL, workers=n) for n in (1, 2)]
    there = replace(
        HERE, machine=EVIL, versions={EVIL: EVIL}, currency=EVIL, scripts={EVIL: f"</pre>{EVIL}\x1b[31m"}
    )
    good = [one for cell in cells for one in repeats(cell, [4.0 / cell.workers] * 3)]
    bad = repeats(replace(cells[0], repeat=9), [1.0], status="failed", reason=EVIL)
    bad = [replace(one, cell=replace(one.cell, repeat=9)) for one in bad]
    return analyse(Measured((*good, *bad), {"e1": there}, (EVIL,)))


def test_text_of_others_is_text_on_a_page() -> None:
    html = to_html(_evil(), Extra([Foretold(EVIL, EVIL, [{EVIL: EVIL}], [EVIL])], [EVIL], EVIL))
    page = _Page(html)
    assert page.tags["script"] == 0
    assert page.words.count("alert('x')") > 10
    assert "\x1b" not in html
    assert "\\x1b[31m" in html


def test_text_of_others_is_text_in_markdown() -> None:
    text = to_markdown(_evil(), Extra([Foretold(EVIL, EVIL, [{EVIL: EVIL}], [EVIL])], [EVIL], EVIL))
    assert "<" not in text
    assert "\x1b" not in text
    assert "\\|\\`x\\`" in text


def test_markdown_has_the_tables_and_starts_at_level_three(findings: Findings) -> None:
    text = to_markdown(
        findings, Extra([Foretold("local", "median error 4 %", [{"workers": "1,024"}], ["Regions are alike."])])
    )
    heads = re.findall(r"^(#+) (.*)$", text, flags=re.MULTILINE)
    assert min(len(level) for level, _ in heads) == 3
    assert [name for level, name in heads if level == "###"] == [
        "cores",
        "strong",
        "weak",
        "chunk size",
        "stages",
        "storage",
        "Beyond what was measured",
        "Problems, and rows left out",
        "How it was measured",
        "Machine and versions",
    ]
    assert "**32 workers are enough.**" in text
    assert "no worker came within 120 s" in text
    blocks = [block.split("\n") for block in text.strip().split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2 * 8 + 2
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1


def test_no_rows_still_give_a_page_with_the_reason() -> None:
    rows = repeats(CELL, [1.0] * 3, status="failed", reason="no worker came")
    found = analyse(measured(*rows))
    words = _Page(to_html(found)).words
    assert "no answer" in words
    assert "3 rows" in words
    assert "no worker came" in words
    assert "no worker came" in to_markdown(found)
    nothing = analyse(Measured((), {}, ("line 1 cannot be read",)))
    assert "line 1 cannot be read" in _Page(to_html(nothing)).words
    assert "line 1 cannot be read" in to_markdown(nothing)


def test_a_baseline_of_more_than_one_worker_is_named() -> None:
    rows = [one for n in (4, 8, 16) for one in repeats(replace(CELL, workers=n), [80 / n] * 3)]
    assert "baseline of 4" in _Page(to_html(analyse(measured(*rows)))).words
