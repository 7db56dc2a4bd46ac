"""Evaluations side by side: means with bootstrap intervals, the paired Wilcoxon test of the paper, and box plots."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import wilcoxon

from rep3d.console.tables import markdown_table
from rep3d.evaluation.pictures import save_picture
from rep3d.evaluation.scores import Scores, case_means, labels_of, means, table

RESAMPLES = 10_000
CONFIDENCE = 0.95


def common_cases(evaluations: Mapping[str, Scores]) -> dict[str, Scores]:
    """The evaluations, each with the cases that all have, in one order.

    Raises:
        ValueError: no case in common, different labels of any case, or cases of one name with truths of different
            volumes.
    """
    first = next(iter(evaluations.values()))
    cases = [case for case in first if all(case in scores for scores in evaluations.values())]
    if not cases:
        examples = ", ".join(next(iter(scores)) for scores in evaluations.values())
        raise ValueError(f"the evaluations {list(evaluations)} have no case in common; their first ones are {examples}")
    labels = list(first[cases[0]])
    for name, scores in evaluations.items():
        found = next((list(scores[case]) for case in cases if list(scores[case]) != labels), labels)
        if found != labels:
            raise ValueError(f"{name} has the labels {found}, expected {labels}")
        for case, label in product(cases, labels):
            one, other = first[case][label]["truth_ml"], scores[case][label]["truth_ml"]
            if not math.isclose(one, other, rel_tol=1e-3):
                raise ValueError(
                    f"{name} has another truth of case {case!r}: {label} of {other:g} ml, expected {one:g} ml as in "
                    f"{next(iter(evaluations))}"
                )
    return {name: {case: scores[case] for case in cases} for name, scores in evaluations.items()}


def comparison_table(evaluations: Mapping[str, Scores], column: str = "dice") -> str:
    """Markdown: per evaluation the mean of each label over the cases, and the mean of those with its interval.

    The interval is the 95 % bootstrap interval over cases. p is of the two-sided paired Wilcoxon signed-rank test of
    the cases' means against the first evaluation.
    """
    counts = {name: len(scores) for name, scores in evaluations.items()}
    evaluations = common_cases(evaluations)
    first = next(iter(evaluations.values()))
    others = [f"{count - len(first)} of {name}" for name, count in counts.items() if count > len(first)]
    title = f"{column} of {len(first)} common case(s)" + (f"; without {', '.join(others)}" if others else "")
    rows, baseline = [], case_means(first, column)
    for name, scores in evaluations.items():
        values = table(scores, column)
        low, high = bootstrap_interval(values)
        p = "-" if scores is first else p_value(case_means(scores, column), baseline)
        rows.append([name, *map(_number, means(values)), f"{low:.3f} to {high:.3f}", p])
    return f"{title}\n\n" + markdown_table(["evaluation", *labels_of(first), "Mean", "95 % interval", "p"], rows)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the mean, by drawing cases with replacement.

    Args:
        values: (cases,), or (cases, labels) for the mean of the labels' means. NaN counts in no mean.
    """
    values = values.reshape(len(values), -1)
    values = values[np.isfinite(values).any(axis=1)]
    if not values.size:
        return np.nan, np.nan
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    places = drawn + len(values) * np.arange(RESAMPLES)[:, None]
    times = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)  # that each case was drawn
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):  # a label that no drawn case has
        of_labels = times @ np.where(there, values, 0) / (times @ there)
    resampled = np.nanmean(of_labels, axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def p_value(values: np.ndarray, baseline: np.ndarray) -> str:
    """Of the paired Wilcoxon test; "-" where nothing differs."""
    both = np.isfinite(values) & np.isfinite(baseline)
    if not np.any(values[both] != baseline[both]):
        return "-"
    return f"{wilcoxon(values[both], baseline[both]).pvalue:.2g}"


def box_plot(evaluations: Mapping[str, Scores], path: str | os.PathLike, column: str = "dice") -> Path:
    """One group of boxes per label, one box per evaluation; returns the path of the PNG."""
    evaluations = common_cases(evaluations)
    labels = labels_of(next(iter(evaluations.values())))
    figure = Figure(figsize=(max(6, 1.2 * len(labels) + 2), 5), dpi=130, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(evaluations)
    for i, (name, scores) in enumerate(evaluations.items()):
        values = table(scores, column)
        positions = np.arange(len(labels)) + (i - (len(evaluations) - 1) / 2) * width
        columns: Sequence[np.ndarray] = [values[np.isfinite(values[:, k]), k] for k in range(len(labels))]
        boxes = axes.boxplot(columns, positions=positions, widths=0.9 * width, patch_artist=True, manage_ticks=False)
        for box in boxes["boxes"]:
            box.set_facecolor(f"C{i}")
        for median in boxes["medians"]:
            median.set_color("black")
        axes.plot([], [], color=f"C{i}", linewidth=8, label=name)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_ylabel(column)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(evaluations), frameon=False)
    return save_picture(figure, path)
