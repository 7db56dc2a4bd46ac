"""What weights are worth, from what an evaluation of them left: Dice of the validation cases, and of phantoms."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rep3d.data.cases import Item
from rep3d.data.dataset_json import FILE
from rep3d.evaluation.click_check import CHECKED
from rep3d.evaluation.scores import read_scores, table
from rep3d.files import read_json, short_digest, write_json

JUDGING = 20  # validation cases at most, of a bundle that takes prompts
DRAWN = "drawn/"  # begins the names of phantoms, as no image's id does


@dataclass(frozen=True)
class Scores:
    """Mean Dice.

    Args:
        dice: of the validation cases; of a bundle that takes prompts after some clicks.
        phantoms: of phantoms after as many clicks; None of other bundles.
        drawn: digest of these phantoms.
    """

    dice: float
    phantoms: float | None = None
    drawn: str = ""


def write_held_out(data: Path, cases: Sequence[str], phantoms: Sequence[Item], folder: Path) -> None:
    """Write a data set of what judges a bundle that takes prompts.

    Args:
        data: the retraining's data set.
        cases: of it, that validate.
        phantoms: {"image": path, "label": path}.
        folder: receives it.
    """
    items = [item for item in read_json(data / FILE)["training"] if item["case"] in cases[:JUDGING]]
    drawn = [{**item, "case": f"{DRAWN}{number}"} for number, item in enumerate(phantoms)]
    folder.mkdir(exist_ok=True)
    write_json(folder / FILE, {"training": [*items, *drawn]})


def read_segmenting(folder: Path) -> Scores:
    """Of an evaluation of a bundle that segments by itself."""
    return Scores(_rounded(np.nanmean(table(read_scores(folder), "dice"))))


def read_clicking(folder: Path, phantoms: Sequence[Item]) -> Scores:
    """Of a comparison of a bundle that takes prompts, on what `write_held_out` wrote with these phantoms."""
    with (folder / CHECKED).open(encoding="utf-8", newline="") as file:
        rows = [(row["case"].startswith(DRAWN), float(row["dice"])) for row in csv.DictReader(file)]
    of_cases, of_phantoms = ([dice for drawn, dice in rows if drawn == wanted] for wanted in (False, True))
    drawn = short_digest(*(Path(phantom[name]) for phantom in phantoms for name in ("image", "label")))
    return Scores(_rounded(np.mean(of_cases)), _rounded(np.mean(of_phantoms)), drawn)


def _rounded(dice: float | np.floating) -> float:
    return round(float(dice), 4)
