"""Text of items, catalogs and servers on a terminal: it may neither steer it nor forge lines of ours."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line; control and format characters and half surrogates as escapes."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def as_markup(text: str) -> str:
    """`printable`, and what looks like markup of rich is shown as it is."""
    from rich.markup import escape

    return escape(printable(text))
