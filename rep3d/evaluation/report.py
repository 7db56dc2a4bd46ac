"""One page that shows a training and its evaluation, and the table in it.

Where a file is missing FileNotFoundError, where it has the wrong form ValueError names it and says what was expected.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rep3d.console.tables import markdown_table
from rep3d.evaluation.pictures import existing_file
from rep3d.evaluation.scores import Scores, case_means, labels_of, means, table
from rep3d.files import write_text

STYLE = """
body { max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; color: #222; font: 15px/1.4 Arial, sans-serif }
h1 { font-size: 1.5em; margin: 0 0 .6em; border-bottom: 2px solid #0072B2 } h2 { font-size: 1em; margin: 1em 0 .3em }
div { display: flex; flex-wrap: wrap; gap: .5em 3em; align-items: flex-start } table { border-collapse: collapse }
td { padding: .15em .8em .15em 0; border-bottom: 1px solid #ddd; vertical-align: top; overflow-wrap: anywhere }
.facts { flex: 1 1 18rem } .facts td:first-child { white-space: nowrap }
.facts td:first-child, .dice tr:first-child, footer { color: #666 }
.dice td + td { text-align: right; padding: .15em 0 .15em .8em } .dice tr:last-child { font-weight: bold }
figure { margin: 0; break-inside: avoid } img { max-width: 100% } footer { margin-top: 1em; font-size: .9em }
pre { background: #f4f4f4; padding: .5em; margin: 0; white-space: pre-wrap } @page { size: A4; margin: 12mm }
@media print { body { font-size: 10px; margin: 0; padding: 0 } }"""


def dice_table(scores: Scores) -> str:
    """Return a Markdown table: the Dice of each label over the cases that have one, last the mean of the labels.

    `scores` comes from `rep3d.evaluation.scores.read_scores`. The deviation is that of the population; in the last row
    it, the median and the minimum are of the cases' means.
    """
    values = table(scores, "dice")
    columns = [*values.T, case_means(scores, "dice")]
    rows = []
    for name, mean, column in zip([*labels_of(scores), "mean"], means(values), columns, strict=True):
        dice = column[np.isfinite(column)]
        others = [f"{f(dice):.3f}" if dice.size else "-" for f in (np.std, np.median, np.min)]
        rows.append([name, f"{mean:.3f}" if dice.size else "-", *others, dice.size])
    return markdown_table(["label", "mean", "std", "median", "min", "cases"], rows) + "\n"


def write_report(
    folder: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
    table: str,
    pictures: Sequence[tuple[str, str | Path]],
    next_commands: Sequence[str],
) -> Path:
    """Write `report.html`, a page that needs no other file, into the folder and return its path.

    `facts` are names and values, `table` comes from `dice_table` or is empty, `pictures` are captions and PNG files,
    `next_commands` are what the reader may run next.
    """
    figures, proportion = "", 0.0  # of height to width, all pictures together
    for caption, picture in pictures:
        data = existing_file(picture, "a PNG file").read_bytes()
        if not data.startswith(b"\x89PNG") or len(data) < 24:
            raise ValueError(f"{picture}: expected a PNG file, got one that starts with {data[:8]!r}")
        proportion += int.from_bytes(data[20:24], "big") / int.from_bytes(data[16:20], "big")
        source = "data:image/png;base64," + base64.b64encode(data).decode()
        figures += f'<figure><h2>{html.escape(caption)}</h2><img src="{source}" alt=""></figure>\n'
    lines = [line.strip("|").split("|") for line in html.escape(table).splitlines()]
    rows = ["".join(f"<td>{cell.strip()}</td>" for cell in line) for line in lines[:1] + lines[2:]]
    items = [f"<td>{html.escape(name)}</td><td>{html.escape(value)}</td>" for name, value in facts.items()]
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}
@media print {{ img {{ max-width: min(100%, {130 / max(proportion, 0.1):.0f}mm) }} }}
</style></head><body><h1>{html.escape(title)}</h1>
<div><table class="facts"><tr>{"<tr>".join(items)}</table><table class="dice"><tr>{"<tr>".join(rows)}</table></div>
{figures}<h2>Next</h2><pre>{html.escape(chr(10).join(next_commands))}</pre>
<footer>Research software, not a medical device.</footer></body></html>
"""
    path = Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path
