"""Text of others on a terminal: nothing steers it, nothing is lost."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ndvi_scale.outside import as_markup, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("S2A_31TCJ é 丘", "S2A_31TCJ é 丘"),
        ("a\nError: b", "a\\nError: b"),
        ("\x1b[2J\x07\r\x9b", "\\x1b[2J\\x07\\r\\x9b"),
        ("\u202egnp\u2028\ud800", "\\u202egnp\\u2028\\ud800"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_any_text_is_one_line_that_can_be_written(text: str) -> None:
    said = printable(text)
    assert said.isprintable()
    said.encode()


@pytest.mark.parametrize("text", ["[/bold] x [red]y", "[link=http://x]a[/link]", "ends in \\", "\x1b[31mred"])
def test_markup_is_shown_as_it_is(text: str) -> None:
    console = Console(width=200, file=io.StringIO(), color_system="truecolor", force_terminal=True, highlight=False)
    console.print(f"[bold]{as_markup(text)}[/]")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == f"\x1b[1m{printable(text)}\x1b[0m\n"
