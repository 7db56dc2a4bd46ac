"""Lists as GitHub reads them, for Python-Markdown, which MkDocs has: its lists need a blank line above and 4 blanks."""

import re

ITEM = re.compile(r"([-*]|\d+\.) ")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Part lists from what stands above, and set what belongs to an item 4 blanks in."""
    lines: list[str] = []
    fence, width = False, 0  # within a block of code; of the marker of the list's items, 0 outside
    for line in markdown.splitlines():
        fence ^= line.startswith("```")
        if fence:
            width = 0
        elif item := ITEM.match(line):
            if not width and lines and lines[-1]:
                lines.append("")
            width = item.end()
        elif width and line.startswith(" " * width):
            line = " " * 4 + line[width:]
        elif line:
            width = 0
        lines.append(line)
    return "\n".join(lines) + "\n"
