"""The finished cells beside each other: comparison.md, a picture for each budget, cells.csv and cases.csv."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from rep3d.console.tables import markdown_table
from rep3d.evaluation.comparison import bootstrap_interval, box_plot, common_cases, comparison_table
from rep3d.evaluation.scores import Scores, case_means, means, read_scores, table
from rep3d.files import read_record, write_csv, write_text
from rep3d.study.nnunet.cells import MINUTES, NNUNET, RECORD, REP3D, SYSTEMS, Cell

Finished = Mapping[Path, Cell]  # by the cell's folder
Group = tuple[str, int, str, str]  # data set, folds, budget, machine: the cells that are compared
TOLERANCE = 0.1  # of the time: what a training may miss of it without being named


def summarize(output: Path) -> str:
    """Leave the tables and pictures of all finished cells, and return the text in Markdown."""
    found = {path.parent: read_record(path, Cell) for path in sorted(output.glob(f"*/*/*/{RECORD}"))}
    cells = {folder: cell for folder, cell in found.items() if cell is not None}
    if not cells:
        return "no cell is finished yet"
    groups: dict[Group, dict[Path, Cell]] = {}
    for folder, cell in cells.items():
        groups.setdefault((cell.dataset, cell.folds, cell.budget, _machine(cell)), {})[folder] = cell
    rows = [_row(folder, cell) for folder, cell in cells.items()]
    write_csv(output / "cells.csv", rows)
    write_csv(output / "cases.csv", [row for folder, cell in cells.items() for row in _case_rows(folder, cell)])
    parts = [markdown_table(rows[0], [row.values() for row in rows])]
    parts += [_compared(group, output / f"{_file_name(key)}.png") for key, group in groups.items()]
    text = "\n\n".join(part for part in parts if part)
    write_text(output / "comparison.md", text)
    return text


def _file_name(key: Group) -> str:
    dataset, folds, budget, machine = key
    return f"{dataset}_{folds}_folds_{budget}_{machine}".replace(" ", "_")


def _machine(cell: Cell) -> str:
    return f"{cell.cores} cores" if cell.device == "cpu" else f"{cell.cores} cores {cell.device}"


def _compared(group: Finished, picture: Path) -> str:
    """Both systems on the folds that both have finished; empty without any."""
    folds = set.intersection(*({cell.fold for cell in group.values() if cell.system == name} for name in SYSTEMS))
    if not folds:
        return ""
    scores = {name: _pooled(group, name, folds) for name in SYSTEMS}
    box_plot(scores, picture)
    common = common_cases(scores)
    differences = case_means(common[REP3D], "dice") - case_means(common[NNUNET], "dice")
    low, high = bootstrap_interval(differences)
    mean = float(np.nanmean(differences))
    first = next(iter(group.values()))
    numbers = ", ".join(map(str, sorted(folds)))
    return "\n\n".join(
        [
            f"## {first.dataset}, {first.budget}, fold(s) {numbers} of {first.folds}, {_machine(first)}",
            comparison_table(scores),
            f"{REP3D} - {NNUNET}, mean of the cases' differences: {mean:+.4f} ({low:+.4f} to {high:+.4f})",
            *(_other_time(folder, cell) for folder, cell in group.items() if cell.fold in folds and _missed(cell)),
        ]
    )


def _missed(cell: Cell) -> bool:
    """Whether a training took another time than it was given."""
    amount, unit = cell.budget.split(" ")
    return unit == MINUTES and abs(cell.training["seconds"] / 60 - float(amount)) > TOLERANCE * float(amount)


def _other_time(folder: Path, cell: Cell) -> str:
    took = f"{cell.training['seconds'] / 60:.1f} minutes, not {cell.budget}"
    return f"**{cell.system} of fold {cell.fold} trained {took}: remove {folder}, and it is trained again**"


def _pooled(group: Finished, system: str, folds: Collection[int]) -> Scores:
    """Of all cases of the folds: each is held out in one of them."""
    mine = [folder for folder, cell in group.items() if cell.system == system and cell.fold in folds]
    return {case: scores for folder in mine for case, scores in read_scores(folder).items()}


def _row(folder: Path, cell: Cell) -> dict[str, object]:
    *of_labels, mean = means(table(read_scores(folder), "dice"))
    training = cell.training
    return {
        "data set": cell.dataset,
        "fold": f"{cell.fold} of {cell.folds}",
        "budget": cell.budget,
        "system": cell.system,
        "Dice of the labels": " ".join(f"{dice:.4f}" for dice in of_labels),
        "mean Dice": f"{mean:.4f}",
        "trained, minutes": "in parts" if training["seconds"] is None else f"{training['seconds'] / 60:.1f}",
        "steps": training["steps"],
        "batch": training["batch_size"],
        "patch": "x".join(map(str, training["patch_size"])),
        "s a scan": f"{cell.seconds_per_scan:.2f}",
        "machine": _machine(cell),
        "made with": training["made_with"],
    }


def _case_rows(folder: Path, cell: Cell) -> list[dict[str, object]]:
    place = {"data set": cell.dataset, "fold": cell.fold, "budget": cell.budget, "system": cell.system}
    return [
        {**place, "case": case, "label": label, **score}
        for case, of_case in read_scores(folder).items()
        for label, score in of_case.items()
    ]
