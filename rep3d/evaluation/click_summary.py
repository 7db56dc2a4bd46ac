"""Tables, files and the plot of what clicks achieve, from the records of `rep3d.evaluation.clicks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rep3d.console.tables import markdown_table
from rep3d.evaluation.clicks import AIMS, CLICKS, MOST, Records, Series
from rep3d.evaluation.comparison import bootstrap_interval
from rep3d.evaluation.okabe_ito import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION
from rep3d.evaluation.pictures import save_picture
from rep3d.files import write_csv, write_json, write_text

# Those that stand out on white, the strongest first; a marker of its own for each, too.
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)
MARKERS = "os^Dv<>"
SHOWN_INTERVAL = 5  # clicks, after which the table shows the interval of the Dice


def write_summary(results: Mapping[str, Records], clicked: Mapping[str, bool], folder: Path, facts: str) -> str:
    """Leave clicks.csv, summary.json, summary.md and clicks.png, and return the tables, in Markdown.

    Args:
        results: by method, of the same cases.
        clicked: whether a method follows clicks.
        folder: receives the files.
        facts: what was evaluated, in Markdown.

    Raises:
        ValueError: no case has any label.
    """
    if not _labels(results):
        raise ValueError("none of the cases holds any of the labels")
    figures = {
        method: {label: _figures(records, label, clicked[method]) for label in _labels(results)}
        for method, records in results.items()
    }
    write_csv(folder / "clicks.csv", _rows(results))
    write_json(folder / "summary.json", figures)
    parts = [facts, *(_table(figures, label) for label in _labels(results)), _legend()]
    text = "\n\n".join(parts)
    write_text(folder / "summary.md", text)
    plot_clicks(results, folder / "clicks.png")
    return text


def plot_clicks(results: Mapping[str, Records], path: Path) -> Path:
    """Mean Dice after each click with its 95 % interval, a panel per label; returns the path of the PNG.

    A method that takes no clicks is a level line.
    """
    labels = _labels(results)
    figure = Figure(figsize=(5.2 * len(labels) + 0.8, 4.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    steps = range(max(CLICKS) + 1)
    for axes, label in zip(panels, labels, strict=True):
        for colour, marker, (method, records) in zip(COLOURS, MARKERS, results.items(), strict=False):
            table = np.array([[series.after(click) for click in steps] for series in _series(records, label)])
            low, high = np.array([bootstrap_interval(column) for column in table.T]).T
            axes.plot(
                steps,
                table.mean(0),
                color=colour,
                marker=marker,
                markersize=4,
                label=method if axes is panels[0] else None,
            )
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        for aim in AIMS:
            axes.axhline(aim, color="#999999", linewidth=0.8, linestyle=":")
        axes.set(title=label, xlabel="clicks", ylim=(0, 1), xticks=steps[::2])
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("Dice, mean and 95 % interval over cases")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return save_picture(figure, path)


def _labels(results: Mapping[str, Records]) -> list[str]:
    """Those of any case, in order."""
    records = next(iter(results.values()))
    return list(dict.fromkeys(label for series in records.values() for label in series))


def _series(records: Records, label: str) -> list[Series]:
    return [series[label] for series in records.values() if label in series]


def _figures(records: Records, label: str, clicked: bool) -> dict[str, Any]:
    """What the tables show of one method and label."""
    series = _series(records, label)
    figures: dict[str, Any] = {"cases": len(series)}
    for clicks in CLICKS if clicked else CLICKS[:1]:
        figures[f"dice_after_{clicks}"] = _mean([one.after(clicks) for one in series])
    if not clicked:
        return figures
    for aim in AIMS:
        figures[f"clicks_for_{aim:.2f}"] = _mean([one.clicks_for(aim) for one in series])
        figures[f"failures_for_{aim:.2f}"] = sum(not one.reaches(aim) for one in series)
    seconds = [second for one in series for second in one.seconds]
    if seconds:
        figures["seconds_per_click"] = {"median": float(np.median(seconds)), "p95": float(np.quantile(seconds, 0.95))}
    return figures


def _mean(of_cases: Sequence[float]) -> dict[str, float]:
    values = np.array(of_cases, dtype=float)
    low, high = bootstrap_interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high}


def _table(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], label: str) -> str:
    header = ["method", *(f"Dice {clicks}" for clicks in CLICKS), f"interval {SHOWN_INTERVAL}"]
    header += [f"clicks {aim:.2f} (failed)" for aim in AIMS] + ["s a click"]
    rows = [[method, *_cells(by_label[label])] for method, by_label in figures.items()]
    count = next(iter(figures.values()))[label]["cases"]
    return f"{label}, {count} case(s)\n\n" + markdown_table(header, rows)


def _cells(figures: Mapping[str, Any]) -> list[str]:
    dices = [figures.get(f"dice_after_{clicks}") for clicks in CLICKS]
    cells = [f"{one['mean']:.3f}" if one else "-" for one in dices]
    shown = figures.get(f"dice_after_{SHOWN_INTERVAL}")
    cells.append(f"{shown['low']:.3f} to {shown['high']:.3f}" if shown else "-")
    for aim in AIMS:
        clicks = figures.get(f"clicks_for_{aim:.2f}")
        cells.append(f"{clicks['mean']:.1f} ({figures[f'failures_for_{aim:.2f}']})" if clicks else "-")
    seconds = figures.get("seconds_per_click")
    return [*cells, f"{seconds['median']:.2f}" if seconds else "-"]


def _legend() -> str:
    return (
        f"Mean Dice over cases after so many clicks, and its 95 % bootstrap interval after {SHOWN_INTERVAL}. Mean "
        f"number of clicks for a Dice; a case that does not reach it with {MOST} has failed, and counts as {MOST}. "
        "Median of the seconds that an answer took."
    )


def _rows(results: Mapping[str, Records]) -> list[dict[str, object]]:
    return [
        {
            "method": method,
            "case": case,
            "label": label,
            "clicks": clicks,
            "dice": f"{dice:.4f}",
            "seconds": f"{series.seconds[clicks - 1]:.3f}" if clicks else "",
        }
        for method, records in results.items()
        for case, by_label in records.items()
        for label, series in by_label.items()
        for clicks, dice in enumerate(series.dice)
    ]
