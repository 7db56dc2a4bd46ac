"""Tables for people, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table without an end of line; what would part a cell, "|" in a name, becomes "/"."""
    titles = list(header)
    lines: list[Iterable[object]] = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
