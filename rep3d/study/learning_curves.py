"""How much the choice of the labelled cases matters: scores of many trainings by strategy, number of cases and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from rep3d.console.tables import markdown_table
from rep3d.evaluation.comparison import CONFIDENCE
from rep3d.evaluation.pictures import save_picture
from rep3d.files import read_record, write_csv, write_json, write_text


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Args:
        seed, strategy, number: which one; the number is that of labelled cases.
        cases: their names, in the order in which they were picked.
        dice: mean over the labels and the test cases.
        dice_of_labels: that of each label.
        trained: name of the folder with the network.
    """

    seed: int
    strategy: str
    number: int
    cases: list[str]
    dice: float
    dice_of_labels: list[float]
    trained: str


def read_cell(path: Path) -> Cell | None:
    """A cell that `write_cell` wrote; None where there is none."""
    return read_record(path, Cell)


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell as JSON."""
    write_json(path, asdict(cell))


def summarize(cells: Sequence[Cell], strategies: Sequence[str], output: Path) -> str:
    """Write cells.csv, table.md and curve.png into a folder, and return the table.

    Args:
        strategies: in their order; the first is what the others are compared with.
    """
    rows = [
        {
            "seed": cell.seed,
            "strategy": cell.strategy,
            "number": cell.number,
            "dice": f"{cell.dice:.5f}",
            "cases": " ".join(cell.cases),
        }
        for cell in sorted(cells, key=lambda cell: (cell.seed, cell.strategy, cell.number))
    ]
    write_csv(output / "cells.csv", rows)
    table = result_table(cells, strategies)
    write_text(output / "table.md", table)
    plot(cells, strategies, output / "curve.png")
    return table


def by_seed(cells: Sequence[Cell], strategy: str, numbers: Sequence[int]) -> dict[int, float]:
    """Dice by seed, mean over the numbers; only of seeds that have all of them."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        if cell.strategy == strategy and cell.number in numbers:
            found.setdefault(cell.seed, []).append(cell.dice)
    return {seed: float(np.mean(dice)) for seed, dice in found.items() if len(dice) == len(numbers)}


def differences(cells: Sequence[Cell], strategy: str, baseline: str, numbers: Sequence[int]) -> list[float]:
    """To the baseline, seed by seed."""
    mine, other = (by_seed(cells, name, numbers) for name in (strategy, baseline))
    return [mine[seed] - other[seed] for seed in mine if seed in other]


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t over seeds; NaN where there are too few."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    quantile = student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(np.mean(values)), float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))


def result_table(cells: Sequence[Cell], strategies: Sequence[str]) -> str:
    """Markdown: per strategy and number the mean Dice and the difference to the first, each with its interval."""
    baseline, numbers = strategies[0], sorted({cell.number for cell in cells})
    groups = [(str(number), [number]) for number in numbers] + [("mean of all but the first", numbers[1:])]
    rows = []
    for title, chosen in groups:
        for strategy in strategies:
            dice = list(by_seed(cells, strategy, chosen).values()) if chosen else []
            if not dice:
                continue
            compared = differences(cells, strategy, baseline, chosen)
            difference = "" if strategy == baseline else with_interval(compared, "+.4f")
            rows.append((title, strategy, len(dice), with_interval(dice, ".4f"), difference))
    return markdown_table(("labelled cases", "strategy", "seeds", "Dice", f"difference to {baseline}"), rows)


def plot(cells: Sequence[Cell], strategies: Sequence[str], path: Path) -> None:
    """Dice, and the difference to the first strategy, against the number of labelled cases."""
    baseline, numbers = strategies[0], sorted({cell.number for cell in cells})
    colours = {strategy: f"C{i}" for i, strategy in enumerate(strategies)}
    shown = [name for name in strategies if any(cell.strategy == name for cell in cells)]
    figure = Figure(figsize=(11, 4.5), dpi=130, layout="constrained")
    curve, difference = figure.subplots(1, 2)
    for i, strategy in enumerate(shown):
        shift = 1 + 0.04 * (i - (len(shown) - 1) / 2)  # so that the intervals stand beside each other
        positions = [number * shift for number in numbers]
        dice = [list(by_seed(cells, strategy, [number]).values()) for number in numbers]
        _draw(curve, positions, dice, colours[strategy], strategy)
        if strategy != baseline:
            compared = [differences(cells, strategy, baseline, [number]) for number in numbers]
            _draw(difference, positions, compared, colours[strategy], "")
    difference.axhline(0, color=colours[baseline], linewidth=1)
    curve.set_ylabel("mean Dice of the test cases")
    difference.set_ylabel(f"difference to {baseline}, paired by seed")
    for axes in (curve, difference):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xlabel("labelled cases")
        axes.grid(alpha=0.3)
    seeds = len({cell.seed for cell in cells})
    figure.suptitle(f"Mean and {CONFIDENCE:.0%} interval over {seeds} seed(s), and each seed")
    figure.legend(loc="outside lower center", ncols=len(shown), frameon=False)
    save_picture(figure, path)


def with_interval(values: Sequence[float], form: str) -> str:
    """Mean and interval, see `mean_and_half`, in this form."""
    mean, half = mean_and_half(values)
    if math.isnan(half):
        return "-" if math.isnan(mean) else f"{mean:{form}}"
    return f"{mean:{form}} ({mean - half:{form}} to {mean + half:{form}})"


def _draw(axes: Axes, positions: Sequence[float], values: Sequence[Sequence[float]], color: str, label: str) -> None:
    """Means with intervals, and a dot per seed."""
    means, halves = zip(*map(mean_and_half, values), strict=True)
    axes.errorbar(positions, means, halves, label=label, color=color, marker="o", markersize=5, capsize=3)
    for position, of_seeds in zip(positions, values, strict=True):
        axes.plot([position * 1.015] * len(of_seeds), of_seeds, ".", color=color, alpha=0.5, markersize=4)
